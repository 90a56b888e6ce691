"""The user's cache folder: what can be computed anew, kept so that a second start is fast.

Where it cannot be read or written, the engine works without it.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from ..errors import OutputError
from .files import hash_file, stamp_file, write_atomically

VARIABLE = "LDM_ENGINE_CACHE"
_KEPT_S = 30 * 24 * 3600.0
_KEPT_FILES = 8
_SEAL = ".sha256"


def cache_folder(kind: str, name: str | None = None) -> Path | None:
    """The folder of a `kind` of entries, or of the one called `name`; None if it is not writable.

    Opening one removes those of its kind that were unused for a month. All lie in the folder
    ``ldm-engine`` of ``$LDM_ENGINE_CACHE``, ``$XDG_CACHE_HOME`` or ``~/.cache``;
    ``LDM_ENGINE_CACHE=off`` turns caching off.
    """
    root = cache_root()
    if root is None:
        return None
    folder = root / kind / name if name else root / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # in use
    except OSError:
        return None
    if name:
        _remove_stale(folder)
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def cache_root() -> Path | None:
    """Where the cache lies; None if it is switched off."""
    chosen = os.environ.get(VARIABLE)
    if chosen == "off":
        return None
    try:
        return Path(chosen) / "ldm-engine" if chosen else default_root()  # all in it is ours
    except RuntimeError:  # no home
        return None


def default_root() -> Path:
    """Where the cache lies unless the environment names another place."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ldm-engine"


def _remove_stale(folder: Path) -> None:
    """Remove the siblings of `folder` that were unused for long."""
    with suppress(OSError):
        for other in folder.parent.iterdir():
            if other != folder and other.is_dir() and time.time() - other.stat().st_mtime > _KEPT_S:
                shutil.rmtree(other, ignore_errors=True)


def drop_unsealed(folder: Path, pattern: str) -> None:
    """Remove the files of `folder` that do not match the hash in the file beside them.

    One that was not written since its hash was found is not read.
    """
    for path in folder.glob(pattern):
        with suppress(OSError, OutputError):
            seal = _seal_of(path).read_bytes() if _seal_of(path).is_file() else b""
            recorded, _, sealed_at = seal.decode(errors="replace").partition(" ")
            stamp = _stamp_of(path)
            if sealed_at == stamp:
                continue
            # It was copied, or sealed before there were stamps, or written.
            if recorded and recorded == hash_file(path):
                _seal(path, recorded, stamp)
            else:
                path.unlink()
    with suppress(OSError):
        for seal_path in folder.glob(f"{pattern}{_SEAL}"):
            if not seal_path.with_suffix("").exists():
                seal_path.unlink(missing_ok=True)


def seal_files(folder: Path, pattern: str) -> None:
    """Write the hash of each new file of `folder` beside it; only the latest files are kept."""
    with suppress(OSError, OutputError):
        paths = sorted(folder.glob(pattern), key=lambda p: p.stat().st_mtime, reverse=True)
        for path in paths[_KEPT_FILES:]:
            path.unlink()
            _seal_of(path).unlink(missing_ok=True)
        for path in paths[:_KEPT_FILES]:
            if not _seal_of(path).is_file():
                stamp = _stamp_of(path)
                _seal(path, hash_file(path), stamp)


def _seal(path: Path, sha256: str, stamp: str) -> None:
    write_atomically(_seal_of(path), f"{sha256} {stamp}".encode())


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}{_SEAL}")


def _stamp_of(path: Path) -> str:
    return " ".join(map(str, stamp_file(path) or ()))
