"""Writing files so that each appears whole or not at all; hashes and stamps of files."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError
from .file_locks import lock

_UMASK = os.umask(0)  # can only be read by setting it
os.umask(_UMASK)
FOLDER_MODE = 0o777 & ~_UMASK  #: what ``mkdir`` gives and ``mkdtemp`` does not
_FILE_MODE = 0o666 & ~_UMASK  #: what ``open`` gives and ``mkstemp`` does not

_HASH_CHUNK_BYTES = 4 << 20

Stamp = list[int]  #: what any write to a file changes


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` through a synced temporary file beside it.

    Raises:
        OutputError: if it cannot be written; what stood there before is untouched.
    """
    with _temporary(path, content) as temporary:
        temporary.replace(path)


def write_new(folder: Path, stem: str, suffix: str, content: bytes) -> Path:
    """Write `stem``suffix` into `folder`, or `stem`-2, -3, ... if a file has that name.

    Raises:
        OutputError: if it cannot be written; no file is ever replaced, not even by a second
            process that writes the same name at the same time.
    """
    path, count = folder / f"{stem}{suffix}", 1
    with _temporary(path, content) as temporary:
        while True:
            try:
                os.link(temporary, path)  # unlike a rename, this fails if the name is taken
            except FileExistsError:
                count += 1
                path = folder / f"{stem}-{count}{suffix}"
            except OSError:  # a file system without hard links: take the name, then fill it
                try:
                    path.touch(exist_ok=False)
                except FileExistsError:
                    count += 1
                    path = folder / f"{stem}-{count}{suffix}"
                else:
                    temporary.replace(path)
                    return path
            else:
                return path


def make_folder(path: Path) -> None:
    """Create `path` with its parents and make sure that files can be written into it.

    Raises:
        OutputError: if that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:
        raise OutputError(
            f"The folder {path} cannot be written to: {reason(error)}. Choose another folder."
        ) from error


@contextmanager
def _temporary(path: Path, content: bytes) -> Iterator[Path]:
    """A synced file with `content` beside `path`, gone afterwards unless it was renamed."""
    try:
        with synced_file(path.parent, content, f".{path.name[:100]}.") as temporary:
            yield temporary
    except OSError as error:
        raise OutputError(
            f"{path} could not be written: {reason(error)}. What was there before is unchanged; "
            "make room or choose another folder, and run again."
        ) from error


@contextmanager
def synced_file(
    folder: Path, content: bytes | Iterable[bytes], prefix: str | None = None
) -> Iterator[Path]:
    """A synced temporary file in `folder`, gone afterwards unless it was renamed."""
    handle, name = tempfile.mkstemp(prefix=prefix, dir=folder)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(_FILE_MODE)
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make sure that the names of the files in `folder` survive a loss of power."""
    if sys.platform == "win32":  # opens no folder; NTFS keeps a journal of names by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep others who ask for the file `path` here waiting, on file systems that know locks."""
    with path.open("rb") as file:
        with suppress(OSError):
            lock(file)
        yield


def reason(error: Exception) -> str:
    """What went wrong, as the system words it."""
    return getattr(error, "strerror", None) or str(error)


def hash_file(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


def stamp_file(path: Path) -> Stamp | None:
    """The stamp of a file, or None if there is none; take it before reading."""
    try:
        status = path.stat()
    except OSError:
        return None
    # The time of the last change of the inode cannot be set, unlike that of the content. On
    # Windows it is the time of creation: there whoever sets that of the content hides a write.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]
