"""Which folders of a checkpoint hold its components, where there may be two for one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ldm_engine.errors import CheckpointError

from .json_files import read_json
from .weights_files import find_weights

# Folder names, the published one first.
FOLDERS = {
    "text_encoder": ("bert", "text_encoder"),
    "unet": ("unet",),
    "autoencoder": ("vqvae", "vae"),
}

# What diffusers' training scripts keep beside `unet/`; its pipelines never read it.
AVERAGED_UNET = "unet_ema"

NOT_AVERAGED = "non_ema"  # how variants without averaging are called

MODEL_INDEX = "model_index.json"


def is_component_folder(path: Path) -> bool:
    """Whether `path` looks like a checkpoint of this kind, complete or not."""
    if (path / MODEL_INDEX).is_file():
        return True
    return any((path / name).is_dir() for names in FOLDERS.values() for name in names)


def component_folders(
    path: Path, variant: str | None, ema: bool | None, indexed: Collection[str]
) -> tuple[dict[str, Path], list[str]]:
    """The folder of each component, and what to say where one of several was chosen.

    Of two folders, one that is among the `indexed` components of model_index.json is taken.
    """
    folders, notes = {}, []
    for component, names in FOLDERS.items():
        if component == "unet" and ema and (path / AVERAGED_UNET).is_dir():
            names = (AVERAGED_UNET,)
        name, others = _folder_name(path, component, names, indexed)
        folders[component] = path / name
        if others:
            listed = " and ".join(f"`{other}/`" for other in others)
            notes.append(f"{component}: `{name}/` is read, not {listed}.")
    note = _averages_note(path, folders["unet"], variant, ema)
    return folders, notes if note is None else [*notes, note]


def _averages_note(path: Path, unet: Path, variant: str | None, ema: bool | None) -> str | None:
    """What to say of averaged weights; an error where `ema` asks for what is not there."""
    if unet.name == AVERAGED_UNET:
        return f"unet: the averaged weights in `{AVERAGED_UNET}/` are read, not `unet/`."
    if ema:
        raise CheckpointError(
            f"`{path}` has no averaged weights (`{AVERAGED_UNET}/`), and `ema` asks for them.\n"
            "  Leave out `ema` (--ema); averages that are a variant are read with `variant` "
            "(--variant)."
        )
    variants = [f.variant for f in find_weights(_names(unet), "unet") if f.variant]
    trained = [name for name in variants if NOT_AVERAGED in name.replace("-", "_")]
    if ema is False and trained and variant is None:
        raise CheckpointError(
            f"`{unet}` has its weights without averaging as the variant {trained[0]}.\n"
            f"  Pass variant={trained[0]!r} (--variant {trained[0]}) instead of ema=False "
            "(--no-ema)."
        )
    if not (path / AVERAGED_UNET).is_dir():
        return None
    return (
        f"unet: `unet/` is read, not the averaged weights in `{AVERAGED_UNET}/`; diffusers does "
        "the same, and --ema (ema=True) reads those."
    )


def _folder_name(
    path: Path, component: str, names: tuple[str, ...], indexed: Collection[str]
) -> tuple[str, list[str]]:
    """The name of the folder to read, and those of the others that are there."""
    found = [name for name in names if (path / name).is_dir()]
    if not found:
        accepted = " or ".join(f"`{name}/`" for name in names)
        raise CheckpointError(
            f"`{path}` has no folder for the component {component}; accepted: {accepted}.\n"
            "  Download the checkpoint completely: bert/, unet/, vqvae/, scheduler/ and tokenizer/."
        )
    if len(found) == 1:
        return found[0], []
    with_weights = [name for name in found if _has_weights(path / name, component)]
    named = [name for name in with_weights if name in indexed]
    chosen = next(iter(named or with_weights or found))
    return chosen, [name for name in found if name != chosen]


def _has_weights(folder: Path, component: str) -> bool:
    return bool(find_weights(_names(folder), component))


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def indexed_classes(path: Path) -> dict[str, str | None]:
    """The components that model_index.json names, which are written [library, class].

    Each with the class that diffusers opens it with; None where that is no name.
    """
    index = read_json(path / MODEL_INDEX) if (path / MODEL_INDEX).is_file() else {}
    named = {name: value for name, value in index.items() if isinstance(value, list) and any(value)}
    return {
        name: value[1] if len(value) == 2 and isinstance(value[1], str) else None
        for name, value in named.items()
    }
