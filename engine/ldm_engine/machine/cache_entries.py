"""What lies in the user's cache folder: listed, and removed when asked to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError
from .cache import cache_root
from .files import held, reason

BUNDLES = "bundles"
_LOCK = ".lock"
#: Every kind of entry, and what it is. Nothing else in the folder is listed or removed.
KINDS = {
    BUNDLES: "bundle exported from a checkpoint",
    "openvino": "models that OpenVINO compiled",
    "onnxruntime-tensorrt": "engines that TensorRT built",
    "texts": "encoded empty text",
    "fits": "work of a fit that was stopped",
    "verified": "hashes of files that were verified",
    "paddlenlp": "checkpoints from PaddleNLP's store",
}


@dataclass(frozen=True)
class Entry:
    """A folder in the cache."""

    kind: str
    path: Path
    bytes: int
    used: float  #: seconds since the epoch

    @property
    def name(self) -> str:
        """By which it is removed: KIND, or KIND/FOLDER."""
        return self.kind if self.path.name == self.kind else f"{self.kind}/{self.path.name}"


def cache_entries() -> Iterator[Entry]:
    """Every entry: the folders of a kind, or the folder of a kind that holds files alone."""
    root = cache_root()
    for kind in KINDS if root is not None else ():
        folder = root / kind  # type: ignore[operator]
        if not folder.is_dir() or folder.is_symlink():
            continue
        children = sorted(child for child in folder.iterdir() if child.name != _LOCK)
        folders = [child for child in children if child.is_dir() and not child.is_symlink()]
        for path in folders or [folder] * bool(children):
            with suppress(OSError):  # another process has just removed it
                yield Entry(kind, path, _bytes(path), path.stat().st_mtime)


def export_lock(folder: Path) -> Path:
    """The file in the `folder` of bundles that whoever exports one into it holds."""
    path = folder / _LOCK
    path.touch()
    return path


def _bytes(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if not path.is_symlink() and path.is_file())
    return sum(path.stat().st_size for path in files)


def remove_entry(entry: Entry) -> None:
    """Remove an entry with all that is in it.

    Raises:
        OutputError: if it cannot be removed, or a bundle is being exported.
    """
    try:
        if entry.kind == BUNDLES:
            with held(export_lock(entry.path.parent), wait=False):
                shutil.rmtree(entry.path)
        else:
            shutil.rmtree(entry.path)
    except BlockingIOError as error:
        raise OutputError(
            f"{entry.name} cannot be removed while a process exports a bundle into the cache. Wait "
            "for it, or stop it."
        ) from error
    except FileNotFoundError:
        pass  # another process was first
    except OSError as error:
        raise OutputError(
            f"{entry.path} cannot be removed: {reason(error)}. Make it writable, or remove it "
            "yourself."
        ) from error
