"""Reads the weights in a component's folder: which file, what it is, how Linear weights lie."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from ldm_engine.errors import CheckpointError

from .checkpoint import StateDict
from .file_kinds import mislabelled
from .files import open_tensors, stored_by, unwrapped_name
from .json_files import read_json
from .names import ROOTS, canonical_name, canonical_state, shown_in_out, without_holder
from .tensors import Tensors
from .weights_files import PADDLE_STEMS, choose_weights


def weights_files(
    folders: dict[str, Path], variant: str | None
) -> tuple[dict[str, Path], list[str]]:
    """The weights file of each component, and what to say of how it was chosen."""
    names = {
        str(folder): (component, [file.name for file in folder.iterdir() if file.is_file()])
        for component, folder in folders.items()
    }
    chosen = choose_weights(names, variant)
    files = {c: folder / chosen[str(folder)].file.name for c, folder in folders.items()}
    notes = [chosen[str(f)].note(c, f.name, variant) for c, f in folders.items()]
    for component, file in files.items():
        if file.suffix == ".json":
            _check_shards(file)
        elif wrong := mislabelled(file):
            notes.append(f"{component}: {wrong}")
    return files, [note for note in notes if note]


def load_weights(component: str, files: dict[str, Path]) -> StateDict:
    """The tensors of `component`, one of whose `files` each component's weights lie in."""
    tensors = _open(files[component], component)
    rename = partial(canonical_name, component)
    in_out = shown_in_out(tensors, rename)
    if in_out is None:
        in_out = _said_in_out(component, files)
    return canonical_state(tensors, rename, linear_is_in_out=in_out)


def _said_in_out(component: str, files: dict[str, Path]) -> bool:
    """Whether Linear weights are [in, out] where all are square, as in the autoencoder.

    The UNet's shapes always show it; they count where this file says nothing of itself, or says
    what the UNet's does. (What is Paddle's says so: a pickle could only be read as a whole.)
    """
    said = _stored_by(files[component])
    if said is None or (said == "torch" and _stored_by(files["unet"]) == said):
        shown = shown_in_out(_open(files["unet"], "unet"), partial(canonical_name, "unet"))
        if shown is not None:
            return shown
    return said == "paddle"


def _stored_by(file: Path) -> str | None:
    if file.suffix == ".json":
        shards = sorted(set(_weight_map(file).values()))
        return _stored_by(file.parent / shards[0]) if shards else None
    return stored_by(file) or ("paddle" if file.name.startswith(PADDLE_STEMS) else None)


def _open(file: Path, component: str) -> Tensors:
    tensors = _open_sharded(file) if file.suffix == ".json" else open_tensors(file)
    return without_holder(tensors, ROOTS[component])


def _open_sharded(index_file: Path) -> Tensors:
    """The tensors of all shards that an index names; shards lie beside it."""
    shards = _weight_map(index_file)
    tensors: Tensors = {}
    for shard in sorted(set(shards.values())):
        tensors |= open_tensors(index_file.parent / shard)
    missing = sorted({unwrapped_name(name) for name in shards} - set(tensors))
    if missing:
        raise CheckpointError(
            f"`{index_file}` names {len(missing)} tensors that its shards do not hold, such as "
            f"`{missing[0]}`.\n  Download all shards: {', '.join(sorted(set(shards.values())))}."
        )
    return tensors


def _check_shards(index_file: Path) -> None:
    shards = sorted(set(_weight_map(index_file).values()))
    missing = [shard for shard in shards if not (index_file.parent / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"`{index_file}` names {len(shards)} shards, of which {len(missing)} are not beside "
            f"it, such as `{missing[0]}`.\n  Download all shards: {', '.join(shards)}."
        )


def _weight_map(index_file: Path) -> dict[str, str]:
    """Tensor name -> shard."""
    shards = read_json(index_file).get("weight_map")
    if not isinstance(shards, dict) or not all(
        isinstance(shard, str) and re.fullmatch(r"[\w.-]+", shard) for shard in shards.values()
    ):
        raise CheckpointError(
            f"`{index_file}` has no `weight_map` of tensor names to files in the same folder.\n"
            "  Download it again."
        )
    return shards
