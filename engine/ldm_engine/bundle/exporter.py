"""Where the exporter is: for its command, and for checkpoints that are named in a bundle's place.

The name of its package stands here and nowhere else in the engine; it is imported when it is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from .bundle import MANIFEST

EXPORTER = "ldm_export"
_ID = r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*"
_FILES = (".ckpt", ".safetensors", ".pt", ".pth", ".bin")  #: that a checkpoint may be


def is_checkpoint(path: Any) -> bool:
    """Whether `path` is no bundle but looks like a checkpoint: a file, a folder, or a hub's id.

    It is an id, OWNER/NAME, only where there is no folder OWNER.
    """
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        return False
    place = Path(path)
    try:
        if place.is_dir():
            return not (place / MANIFEST).exists() and _holds_checkpoint(place)
        if place.exists():
            return place.suffix.lower() in _FILES
        is_id = re.fullmatch(_ID, os.fspath(path), re.ASCII) is not None
        return is_id and not place.parent.exists()
    except (OSError, ValueError):
        return False


def _holds_checkpoint(folder: Path) -> bool:
    """Whether it has components (of which a bundle has no scheduler) or a CompVis file."""
    is_compvis = any(entry.suffix.lower() == ".ckpt" for entry in folder.iterdir())
    return is_compvis or (folder / "scheduler").is_dir()


def exported(
    checkpoint: str | os.PathLike[str],
    begin: Callable[[str], object],
    note: Callable[[str], object],
) -> Path:
    """The bundle of a `checkpoint` in the user's cache, exported if it is not there.

    Args:
        checkpoint: for which ``is_checkpoint`` holds.
        begin: called with the name of each stage of the export as it begins.
        note: called with a sentence where something was chosen.

    Raises:
        RuntimeUnavailableError: if what exporting needs is not installed.
        LDMEngineError: if the checkpoint cannot be fetched or exported, or there is no cache.
    """
    folder: Path = import_module(f"{EXPORTER}.kept").exported(os.fspath(checkpoint), begin, note)
    return folder
