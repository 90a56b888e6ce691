"""The bundle that a command is given, which may be the name of a checkpoint to export first."""

from __future__ import annotations

from pathlib import Path

from ..bundle.exporter import exported, is_checkpoint
from . import console


def bundle_folder(given: str | Path) -> str | Path:
    """Where the bundle lies: `given`, or in the user's cache if that is a checkpoint."""
    if not is_checkpoint(given):
        return given
    with console.stages() as begin:
        return exported(given, begin, console.print_note)
