"""Recognises the layout of a checkpoint by what is there, never by what it is called."""

from __future__ import annotations

import os
from pathlib import Path

from ldm_engine.errors import CheckpointError

from .checkpoint import Checkpoint
from .compvis import open_compvis
from .folders import is_component_folder, open_folder

ACCEPTED = (
    "a folder with bert/, unet/, vqvae/, scheduler/ and tokenizer/ (diffusers or PaddleNLP), a "
    "CompVis `.ckpt` file, or a folder with one"
)


def open_checkpoint(path: str | os.PathLike[str], *, vocab: Path | None = None) -> Checkpoint:
    """Recognise a checkpoint's layout and read its configs; weights are read by `Checkpoint.load`.

    Args:
        path: a diffusers or PaddleNLP folder, a CompVis checkpoint file, or a folder holding one.
        vocab: the WordPiece vocabulary (`vocab.txt`, or a `tokenizer.json`), where the checkpoint
            brings none or another is wanted.

    Raises:
        CheckpointError: nothing is there, a file is missing or damaged, or the model is of another
            family. The message names the file, what is accepted, and what to do.
    """
    path = Path(path)
    if path.is_file():
        return open_compvis(path, vocab)
    if not path.is_dir():
        raise CheckpointError(f"There is no checkpoint at `{path}`.\n  Pass {ACCEPTED}.")
    if is_component_folder(path):
        return open_folder(path, vocab)
    files = sorted(file for file in path.iterdir() if file.suffix in (".ckpt", ".safetensors"))
    if len(files) == 1:
        return open_compvis(files[0], vocab)
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) or "nothing"
    raise CheckpointError(
        f"`{path}` holds no checkpoint in a known layout (found: {found}).\n  Pass {ACCEPTED}."
    )
