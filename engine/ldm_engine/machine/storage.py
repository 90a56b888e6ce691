"""Where a run's files go: the contract, and a folder here; a file appears there only whole."""

from __future__ import annotations

import errno
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import LDMEngineError, OutputError
from .files import reason, sync_folder, synced_file

ALONE = "run"  #: the label of a run that is no shard
#: How names end of what belongs to a run, or to the shard i of n.
SUFFIX = r"(?:-\d+-of-\d+)?"
TEMPORARY = ".tmp"
_NAME_A_FOLDER = "give a folder as output, or the name of a new one"
_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "allow larger files",
    errno.ENOTDIR: _NAME_A_FOLDER,
    errno.EEXIST: _NAME_A_FOLDER,
    errno.EISDIR: "move the folder of that name away",
    errno.EXDEV: "have all folders of the output on one file system",
}
_REMEDY = "make the output writable"


class FileStatus(NamedTuple):
    """What is known of a file without reading it."""

    size: int  #: in bytes; -1 where finding out would take long
    written_ns: int | None  #: when it was last written; None where that cannot be told


class Storage(ABC):
    """Files by name, relative to the output; all failures are ``OutputError``."""

    output: str  #: the path or URL it was opened with

    @abstractmethod
    def write(self, name: str, content: bytes | Iterable[bytes]) -> int:
        """Put a file there, whole or not at all, replacing any of that name; returns its size."""

    @abstractmethod
    def write_once(self, name: str, content: bytes) -> bool:
        """``write`` unless there is a file of that name; returns whether it was written."""

    @abstractmethod
    def sync(self, names: Iterable[str]) -> None:
        """Make sure that the files `names`, which were written, survive a loss of power."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file's content, or None if there is none."""

    @abstractmethod
    def lines(self, name: str) -> Iterator[bytes]:
        """The whole lines of a journal, none if it is not there; a torn last line is left out."""

    def locate(self, name: str, number: int) -> str:
        """Where a person finds line `number` of a journal, from 1."""
        return f"Line {number} of {self.output}/{name}"

    @abstractmethod
    def append(self, name: str, lines: Sequence[bytes]) -> None:
        """Add lines to a journal, durably when this returns."""

    @abstractmethod
    def rewrite(self, name: str, lines: Iterable[bytes]) -> None:
        """Replace a journal at once by `lines`, which may be read from it; none remove it."""

    def journals(self, kind: str) -> list[str]:
        """The names of the journals of a kind: the run's, and those of shards."""
        pattern = re.compile(rf"({kind}{SUFFIX}\.jsonl)(?:\.parts)?")
        return sorted({found[1] for name in self.names("") if (found := pattern.fullmatch(name))})

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file or a journal if it is there."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """The names of the files and folders in a folder, none if it is not there."""

    @abstractmethod
    def clear(self, folder: str) -> None:
        """Remove a folder and all that is in it."""

    @abstractmethod
    def status(self, name: str) -> FileStatus | None:
        """Size and time of a file, or None if it is not there."""

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None if it is not there; -1 where finding out would take long."""
        status = self.status(name)
        return None if status is None else status.size

    @abstractmethod
    def prepare(self) -> None:
        """Make the place, and clear away what a killed run with this label left."""

    @abstractmethod
    def finish(self, journals: Iterable[str]) -> None:
        """Bring the place and its `journals` into their final order."""


class Unwritten(Storage):
    """Another storage as it is: what is read comes from there, and what is written goes nowhere."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.output = storage.output

    def write(self, name: str, content: bytes | Iterable[bytes]) -> int:
        """Nothing is written."""
        return 0

    def write_once(self, name: str, content: bytes) -> bool:
        """Nothing is written."""
        return False

    def sync(self, names: Iterable[str]) -> None:
        """There is nothing to sync."""

    def read(self, name: str) -> bytes | None:
        """As it is there."""
        return self._storage.read(name)

    def lines(self, name: str) -> Iterator[bytes]:
        """As they are there."""
        return self._storage.lines(name)

    def locate(self, name: str, number: int) -> str:
        """As it is there."""
        return self._storage.locate(name, number)

    def append(self, name: str, lines: Sequence[bytes]) -> None:
        """Nothing is written."""

    def rewrite(self, name: str, lines: Iterable[bytes]) -> None:
        """Nothing is written."""

    def remove(self, name: str) -> None:
        """Nothing is removed."""

    def names(self, folder: str) -> list[str]:
        """As they are there."""
        return self._storage.names(folder)

    def clear(self, folder: str) -> None:
        """Nothing is removed."""

    def status(self, name: str) -> FileStatus | None:
        """As it is there."""
        return self._storage.status(name)

    def prepare(self) -> None:
        """Nothing is made."""

    def finish(self, journals: Iterable[str]) -> None:
        """Nothing is left to be brought into order."""


class LocalStorage(Storage):
    """A folder: files appear by rename after fsync, journals are appended to."""

    def __init__(self, folder: Path, label: str) -> None:
        self.output = str(folder)
        self.folder = folder
        self._temporary = folder / TEMPORARY / label
        self._is_alone = label == ALONE
        self._made: set[Path] = set()
        self._unsynced: set[Path] = set()

    def prepare(self) -> None:
        """Make the folder and clear away temporary files."""
        with self._reported("."):
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, content: bytes | Iterable[bytes]) -> int:
        """Write through a synced temporary file."""
        path = self.folder / name
        with self._reported(name), synced_file(self._temporary, content) as temporary:
            self._make(path.parent)
            size = temporary.stat().st_size
            temporary.replace(path)
        return size

    def write_once(self, name: str, content: bytes) -> bool:
        """Link a synced temporary file, which fails if the name is taken."""
        path = self.folder / name
        with self._reported(name), synced_file(self._temporary, content) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links: look, then rename
                if path.exists():
                    return False
                temporary.replace(path)
            return True

    def sync(self, names: Iterable[str]) -> None:
        """Sync the folders that the files were renamed into, and those that were made."""
        folders = {(self.folder / name).parent for name in names} | self._unsynced
        with self._reported("."):
            for folder in sorted(folders):
                sync_folder(folder)
        self._unsynced.clear()

    def read(self, name: str) -> bytes | None:
        """Read the file."""
        with self._reported(name):
            try:
                return (self.folder / name).read_bytes()
            except FileNotFoundError:
                return None

    def status(self, name: str) -> FileStatus | None:
        """As the file system has it."""
        try:
            found = os.stat(f"{self.output}/{name}")  # noqa: PTH116 - no Path, a million times
        except OSError:
            return None
        return FileStatus(found.st_size, found.st_mtime_ns)

    def lines(self, name: str) -> Iterator[bytes]:
        """Read the journal line by line."""
        with (
            self._reported(name),
            suppress(FileNotFoundError),
            (self.folder / name).open("rb") as file,
        ):
            for line in file:
                if line.endswith(b"\n"):
                    yield line

    def append(self, name: str, lines: Sequence[bytes]) -> None:
        """Write and sync; a torn line, of this run or an earlier one, is cut off first."""
        path = self.folder / name
        with self._reported(name), path.open("ab+", buffering=0) as file:
            whole = _end_of_last_line(file)
            file.truncate(whole)
            rest = memoryview(b"".join(lines))
            try:
                while rest:
                    rest = rest[file.write(rest) :]  # a disk that is about full takes a part
            except OSError:
                with suppress(OSError):
                    file.truncate(whole)
                raise
            os.fsync(file.fileno())
        if not whole:  # it may be new
            self.sync([name])

    def rewrite(self, name: str, lines: Iterable[bytes]) -> None:
        """Write another file and rename it."""
        path = self.folder / name
        with self._reported(name), synced_file(self._temporary, lines) as temporary:
            if temporary.stat().st_size:
                temporary.replace(path)
            else:
                path.unlink(missing_ok=True)
        self.sync([name])

    def remove(self, name: str) -> None:
        """Unlink the file."""
        with self._reported(name):
            (self.folder / name).unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """List the folder."""
        with self._reported(folder), suppress(FileNotFoundError):
            return sorted(path.name for path in (self.folder / folder).iterdir())
        return []

    def clear(self, folder: str) -> None:
        """Remove the tree."""
        shutil.rmtree(self.folder / folder, ignore_errors=True)
        self._made.clear()

    def finish(self, journals: Iterable[str]) -> None:
        """Remove the folder of temporary files."""
        for folder in (self._temporary, self._temporary.parent)[: 2 if self._is_alone else 1]:
            with suppress(OSError):
                folder.rmdir()

    def _make(self, folder: Path) -> None:
        """Make a folder with its parents, and remember to sync what now lists it."""
        if folder not in self._made:
            missing = [p for p in (folder, *folder.parents) if not p.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            self._unsynced |= {path.parent for path in missing}
            self._made.add(folder)

    @contextmanager
    def _reported(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, LDMEngineError):
                raise
            remedy = _REMEDIES.get(error.errno or 0, _REMEDY)
            raise refusal(self.folder / name, reason(error), remedy) from error


def _end_of_last_line(file: Any) -> int:
    """Where the last whole line of a file ends."""
    end = int(file.seek(0, os.SEEK_END))
    while end:
        start = max(0, end - 4096)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return int(start + at + 1)
        end = start
    return 0


def refusal(path: Path | str, cause: str, remedy: str) -> OutputError:
    """The error for a place that does not take or give a file, with its `cause`."""
    return OutputError(
        f"{path} cannot be written or read: {cause}. What is finished is kept: {remedy}, and start "
        "the same command again."
    )
