"""Where peers keep what they convert: whole or not there, and bound to what it was made from."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ldm_engine.machine.environment import versions

from .contract import Sources

WEIGHTS = (".safetensors", ".bin")


def weight_files(checkpoint: Path) -> list[Path]:
    """The weights of a folder in the diffusers layout."""
    return sorted(path for path in checkpoint.rglob("*") if path.suffix in WEIGHTS)


def conversion_folder(sources: Sources, name: str, distributions: Sequence[str]) -> Path:
    """Where the conversion `name` of this checkpoint by these versions lies, or will lie."""
    made_from = {
        "files": [
            (path.name, path.stat().st_size, path.stat().st_mtime_ns)
            for path in weight_files(sources.checkpoint)
        ],
        "versions": versions(distributions),
    }
    stamp = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:12]
    return sources.conversions / f"{name}-{stamp}"


def convert_once(folder: Path, convert: Callable[[Path], None]) -> None:
    """Let `convert` fill a folder that gets its name when it is whole."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        convert(scratch)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
