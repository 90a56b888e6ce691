"""Recognises the layout of a checkpoint by what is there, never by what it is called."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ldm_engine.bundle.bundle import MANIFEST
from ldm_engine.errors import CheckpointError

from .checkpoint import Checkpoint
from .component_folders import is_component_folder
from .compvis import holds_components, open_compvis
from .folders import open_folder

ACCEPTED = (
    "a folder with bert/, unet/, vqvae/, scheduler/ and tokenizer/ (diffusers or PaddleNLP), a "
    "CompVis checkpoint file (`.ckpt`, `.safetensors`, `.pt`), or a folder with one"
)
COMPVIS_SUFFIXES = (".ckpt", ".safetensors", ".pt", ".pth", ".bin")


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    vocab: Path | None = None,
    variant: str | None = None,
    ema: bool | None = None,
) -> Checkpoint:
    """Recognise a checkpoint's layout and read its configs; weights are read by `Checkpoint.load`.

    What was chosen where a checkpoint holds several of a thing is in `Checkpoint.notes`.

    Args:
        path: a diffusers or PaddleNLP folder, a CompVis checkpoint file, or a folder holding one;
            also the folder of a repository in the Hugging Face hub's cache.
        vocab: the WordPiece vocabulary (`vocab.txt`, or a `tokenizer.json`), where the checkpoint
            brings none or another is wanted.
        variant: the weights files to read of a diffusers folder that holds several, such as
            "fp16"; by default the plain ones, or the one variant that is there.
        ema: whether to read averaged weights; by default as a CompVis yaml says, else wherever a
            CompVis file has all of them, and never in a diffusers folder (`unet_ema/`).

    Raises:
        CheckpointError: nothing is there, a file is missing or damaged, or the model is of another
            family. The message names the file, what is accepted, and what to do.
    """
    path, notes = _snapshot(Path(path))
    if path.name == MANIFEST or (path / MANIFEST).is_file():
        raise CheckpointError(
            f"`{path}` is a bundle: it has been exported already.\n"
            "  Run it (ldm-engine generate), or pass the checkpoint that it was made from."
        )
    if is_component_folder(path):
        opened = open_folder(path, vocab, variant, ema)
        files = [f"`{entry.name}`" for entry in path.iterdir() if entry.suffix in COMPVIS_SUFFIXES]
        if files:
            notes.append(f"The folders of the components are read, not {', '.join(sorted(files))}.")
    else:
        file, more = _compvis_file(path)
        notes += more
        if variant is not None:
            raise CheckpointError(
                f"`{file}` is one file and has no variants; `variant` is {variant!r}.\n"
                "  Leave it out (--variant)."
            )
        opened = open_compvis(file, vocab, ema)
    return replace(opened, notes=(*notes, *opened.notes))


def cached_snapshot(folder: Path, revision: str) -> Path | None:
    """Where `revision` of a repository lies in its `folder` of the Hugging Face hub's cache."""
    reference = folder / "refs" / revision
    commit = reference.read_text(encoding="ascii").strip() if reference.is_file() else revision
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def _snapshot(path: Path) -> tuple[Path, list[str]]:
    """`path`, or of a repository in the hub's cache the snapshot that its main branch is at."""
    snapshots = path / "snapshots"
    if not snapshots.is_dir() or is_component_folder(path):
        return path, []
    found = sorted(entry for entry in snapshots.iterdir() if entry.is_dir())
    chosen = cached_snapshot(path, "main") or (found[0] if len(found) == 1 else None)
    if chosen is None:
        listed = ", ".join(f"`{entry}`" for entry in found) or "none"
        raise CheckpointError(
            f"`{path}` is a folder of the Hugging Face hub's cache; its snapshots are {listed}.\n"
            "  Pass the folder of one of them, or the id OWNER/NAME."
        )
    return chosen, [f"`{path}` is a folder of the hub's cache; its snapshot `{chosen}` is read."]


def _compvis_file(path: Path) -> tuple[Path, list[str]]:
    """The file at `path` or in it that is a CompVis checkpoint."""
    if path.is_file():
        return path, []
    if not path.is_dir():
        raise CheckpointError(f"There is no checkpoint at `{path}`.\n  Pass {ACCEPTED}.")
    named = [f for f in sorted(path.iterdir()) if f.suffix.lower() in COMPVIS_SUFFIXES]
    files = {(f.stat().st_dev, f.stat().st_ino): f for f in named if f.is_file()}
    if not files:
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) or "nothing"
        raise CheckpointError(
            f"`{path}` holds no checkpoint in a known layout (found: {found}).\n  Pass {ACCEPTED}."
        )
    if len(files) == 1:
        return next(iter(files.values())), []
    complete = [file for file in files.values() if holds_components(file)]
    listed = ", ".join(f"`{file.name}`" for file in complete or files.values())
    if len(complete) != 1:
        what, remedy = "checkpoints", "one of the files"
        if not complete:
            what, remedy = "files and no text-to-image checkpoint among them", ACCEPTED
        raise CheckpointError(f"`{path}` holds several {what}: {listed}.\n  Pass {remedy}.")
    others = ", ".join(f"`{file.name}`" for file in files.values() if file != complete[0])
    return complete[0], [f"{listed} is read; {others} beside it hold no text-to-image model."]
