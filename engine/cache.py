"""The user's cache folder: what can be made again, kept so that a second start is fast.

Whatever is wrong with it, the engine works without it.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

VARIABLE = "LDM_ENGINE_CACHE"
_KEPT_S = 30 * 24 * 3600.0


def cache_folder(kind: str, name: str | None = None) -> Path | None:
    """The folder of a `kind` of things, or of the one called `name`; None if it cannot be written.

    Opening one removes those of its kind that nothing has used for a month. All lie in the folder
    ``ldm-engine`` of ``$LDM_ENGINE_CACHE``, ``$XDG_CACHE_HOME`` or ``~/.cache``;
    ``LDM_ENGINE_CACHE=off`` turns caching off.
    """
    root = _root()
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


def _root() -> Path | None:
    told = os.environ.get(VARIABLE)
    if told == "off":
        return None
    try:
        return Path(told) / "ldm-engine" if told else default_root()  # old things in it are ours
    except RuntimeError:  # no home
        return None


def default_root() -> Path:
    """Where the cache lies unless the environment says otherwise."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ldm-engine"


def _remove_stale(folder: Path) -> None:
    """Remove the siblings of `folder` that nothing has used for long."""
    with suppress(OSError):
        for other in folder.parent.iterdir():
            if other != folder and other.is_dir() and time.time() - other.stat().st_mtime > _KEPT_S:
                shutil.rmtree(other, ignore_errors=True)
