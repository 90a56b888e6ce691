"""Which files of a repository on the Hugging Face hub an export reads: no others are fetched."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ldm_engine.errors import DownloadError

from .checkpoint.component_folders import AVERAGED_UNET, FOLDERS
from .checkpoint.opening import COMPVIS_SUFFIXES
from .checkpoint.weights_files import choose_weights, find_weights
from .progress import Progress, silent

LISTED = 12


def needed_files(
    repository: str,
    listed: Sequence[str],
    variant: str | None = None,
    ema: bool | None = None,
    report: Progress = silent,
) -> list[str]:
    """The files to fetch of those that `repository` has, `listed`.

    Raises:
        CheckpointError: the weights have no such `variant`, or several and none is given.
        DownloadError: there is no checkpoint among them.
    """
    folders = {name: component for component, names in FOLDERS.items() for name in names}
    if ema and any(name.startswith(f"{AVERAGED_UNET}/") for name in listed):
        del folders["unet"]
        folders[AVERAGED_UNET] = "unet"
    small = re.compile(
        r"model_index\.json|README\.md|scheduler/[\w.-]+\.json|tokenizer/[\w.-]+\.(json|txt)"
        rf"|({'|'.join(folders)})/(config|model_config)\.json"
    )
    needed = [name for name in listed if small.fullmatch(name)]
    inside = {
        f: [n.removeprefix(f"{f}/") for n in listed if n.startswith(f"{f}/")] for f in folders
    }
    found = {
        f: (folders[f], names) for f, names in inside.items() if find_weights(names, folders[f])
    }
    if not found:
        return _compvis_files(repository, listed)
    left = [f"`{name}`" for name in _checkpoint_files(listed)]
    for folder, chosen in choose_weights(found, variant).items():
        names = [chosen.file.name, *chosen.file.shards(inside[folder])]
        needed += [f"{folder}/{name}" for name in names]
        left += [f"`{folder}/{other.name}`" for other in chosen.others]
    if left:
        report(f"Not fetched, since other weights are: {', '.join(left)}.")
    return needed


def _compvis_files(repository: str, listed: Sequence[str]) -> list[str]:
    """The one checkpoint file of a repository without folders, and what is read beside it."""
    files = _checkpoint_files(listed)
    if len(files) == 1:
        beside = r"[^/]+\.ya?ml|(tokenizer/)?vocab\.txt|tokenizer/[\w.-]+\.json|README\.md"
        return [*files, *(name for name in listed if re.fullmatch(beside, name))]
    if files:
        raise DownloadError(
            f"`{repository}` on the Hugging Face hub holds several checkpoint files: "
            f"{', '.join(f'`{name}`' for name in files)}.\n"
            "  Download one of them (hf download), with its yaml and vocab.txt, and pass its path."
        )
    shown = ", ".join(listed[:LISTED]) + (" ..." if len(listed) > LISTED else "")
    raise DownloadError(
        f"`{repository}` on the Hugging Face hub holds no weights of bert/, unet/ and vqvae/, and "
        f"no checkpoint file; its files are {shown or 'none'}.\n"
        "  Pass a model like CompVis/ldm-text2im-large-256."
    )


def _checkpoint_files(listed: Sequence[str]) -> list[str]:
    return [name for name in listed if "/" not in name and name.endswith(COMPVIS_SUFFIXES)]
