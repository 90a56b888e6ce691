"""Output and job files at a URL, through fsspec, which is an extra."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from ..errors import InputError, LDMEngineError, OutputError
from .storage import FileStatus, Storage, refusal

_URL = re.compile(r"(?:\w+::)*[A-Za-z][A-Za-z0-9+.-]+://")
LOCAL_URL = re.compile(r"^(?:file|local)://")
#: Stores without folders, where the first name of a path is a bucket; fsspec would make one.
_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "tos", "obs"}
_PART_LINES = 1000
_PART = re.compile(r"\d{6,}\.jsonl")


def is_url(name: str) -> bool:
    """Whether `name` is a URL rather than a path."""
    return _URL.match(name) is not None


def absolute(place: str) -> str:
    """`place`, a URL or path, in a form that stays true when the working directory changes."""
    scheme = LOCAL_URL.match(place)
    if scheme is not None:
        return scheme[0] + str(Path(place[scheme.end() :]).absolute())
    return place if is_url(place) else str(Path(place).absolute())


def within(folder: str, place: str) -> str:
    """`place`, a URL or path, which begins at `folder`, a URL or path, if it is relative."""
    if not folder or is_url(place) or Path(place).is_absolute():
        return place
    return f"{folder}/{place}" if is_url(folder) else str(Path(folder, place))


def folder_of(place: str) -> str:
    """The folder of a file, a URL or path."""
    if is_url(place):
        return place.partition("?")[0].rpartition("/")[0]
    return str(Path(place).absolute().parent)


def import_fsspec() -> Any:
    """fsspec, which is an extra.

    Raises:
        LDMEngineError: if it is not installed.
    """
    try:
        import fsspec
    except ImportError as error:
        raise LDMEngineError(
            f"URLs need fsspec, which cannot be imported: {error}. Install it with: "
            "pip install 'ldm-engine[render]'"
        ) from error
    return fsspec


def _file_system(fsspec: Any, url: str, unknown: type[LDMEngineError]) -> tuple[Any, str]:
    """The file system of a `url`, and the path there.

    Raises:
        LDMEngineError: if it needs a package that is not here; `unknown` if fsspec knows no such
            scheme.
    """
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except ValueError as error:
        if schemes := set(_schemes(url)) - set(fsspec.available_protocols()):
            raise unknown(
                f"{url} cannot be opened or read: fsspec does not know the scheme "
                f"{', '.join(sorted(schemes))}; s3, gs, az, https, sftp and others are accepted, "
                "and paths. Check its spelling."
            ) from error
        raise
    except ImportError as error:
        raise LDMEngineError(
            f"{url} needs a package that is not here: {error}. Install it beside fsspec: s3fs for "
            "s3://, gcsfs for gs://, adlfs for az://."
        ) from error
    return found


@contextmanager
def open_to_read(name: str) -> Iterator[IO[bytes]]:
    """The file at a path or URL.

    Raises:
        OSError: if a path cannot be opened.
        InputError: if a URL cannot be, or the block fails at reading on.
    """
    if not is_url(name):
        with Path(name).open("rb") as file:
            yield file
        return
    fsspec = import_fsspec()
    try:
        files, path = _file_system(fsspec, name, InputError)
        with files.open(path, "rb") as file:
            yield file
    except LDMEngineError:
        raise
    except Exception as error:  # each file system behind fsspec raises its own
        raise InputError(
            f"{name} cannot be opened or read: {type(error).__name__}: {str(error)[:300]}. Check "
            "the URL, what fsspec needs for it, and the network, and start again: what is done is "
            "kept."
        ) from error


def fetch(url: str, most_bytes: int, timeout_s: float) -> bytes:
    """What lies at a `url`, or as much of it as `most_bytes`.

    Raises:
        InputError: if it cannot be read, or does not come in time.
    """
    answers: SimpleQueue[bytes | Exception] = SimpleQueue()

    def read() -> None:
        try:
            with open_to_read(url) as file:
                answers.put(file.read(most_bytes))
        except Exception as error:
            answers.put(error)

    # A thread of its own: file systems know timeouts of many kinds, or none.
    threading.Thread(target=read, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except Empty:
        raise InputError(f"{url} did not come within {timeout_s:g} s. Check the network.") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


class RemoteStorage(Storage):
    """A URL through fsspec: an object appears whole by its nature, and journals are kept in parts.

    The last part of a journal is written anew until it holds 1,000 lines or more. Names are taken
    as they are: no method of fsspec is used that expands ``*``, ``?`` and ``[``.
    """

    def __init__(self, output: str) -> None:
        self.output = output
        fsspec = import_fsspec()
        with self._reported(""):
            self._files, root = _file_system(fsspec, output, OutputError)
        self._root = root.rstrip("/")
        self._has_folders = _schemes(output)[-1] not in _BUCKETS
        if not self._has_folders and not self._root:
            raise OutputError(
                f"{output} names no bucket; {output}bucket/folder is accepted. Give such a URL."
            )
        self._made: set[str] = set()
        self._parts: dict[str, tuple[int, list[bytes]]] = {}

    def write(self, name: str, content: bytes | Iterable[bytes]) -> int:
        """Put an object, in a folder where there are such."""
        whole = content if isinstance(content, bytes) else b"".join(content)
        path = self._path(name)
        folder = path.rpartition("/")[0]
        with self._reported(name):
            if self._has_folders and folder not in self._made:
                self._files.makedirs(folder, exist_ok=True)
                self._made.add(folder)
            self._files.pipe_file(path, whole)
        return len(whole)

    def write_once(self, name: str, content: bytes) -> bool:
        """Look, then put: object stores have no common way to do both at once."""
        if self.read(name) is not None:
            return False
        self.write(name, content)
        return True

    def prepare(self) -> None:
        """Nothing to do: nothing unfinished is ever there."""

    def status(self, name: str) -> FileStatus:
        """Unknown: a million requests would take hours."""
        return FileStatus(-1, None)

    def sync(self, names: Iterable[str]) -> None:
        """Nothing to do: an object that was put is there."""

    def read(self, name: str) -> bytes | None:
        """Get an object."""
        with self._reported(name):
            try:
                content: bytes = self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return content

    def lines(self, name: str) -> Iterator[bytes]:
        """Get the journal's parts one after another."""
        for part in self._part_names(name):
            yield from self._part_lines(part)

    def locate(self, name: str, number: int) -> str:
        """The part that holds the line, and its number there."""
        for part in self._part_names(name):
            held = len(self._part_lines(part))
            if number <= held:
                return f"Line {number} of {self.output}/{part}"
            number -= held
        return f"A line of {self.output}/{name}.parts"

    def append(self, name: str, lines: Sequence[bytes]) -> None:
        """Write the last part anew, or begin one."""
        if name not in self._parts:
            last = (self._part_names(name) or [_part(name, 0)])[-1]
            self._parts[name] = _number(last), self._part_lines(last)
        number, held = self._parts[name]
        if len(held) >= _PART_LINES:
            number, held = number + 1, []
        held = [*held, *lines]
        self.write(_part(name, number), b"".join(held))
        self._parts[name] = number, held

    def rewrite(self, name: str, lines: Iterable[bytes]) -> None:
        """Put new parts behind the old ones, then remove these.

        Not at once, but a journal may hold a line twice, or one that counts for nothing.
        """
        old = self._part_names(name)
        first = number = _number(old[-1]) + 1 if old else 0
        rest = iter(lines)
        while held := list(islice(rest, _PART_LINES)):
            self.write(_part(name, number), b"".join(held))
            number += 1
        for gone in old if number > first else [name]:
            self.remove(gone)
        self._parts.pop(name, None)

    def remove(self, name: str) -> None:
        """Delete an object, or a journal with its parts."""
        path = self._path(name)
        with self._reported(name), suppress(FileNotFoundError):
            if not self._has_folders or self._files.exists(path):
                self._files.rm_file(path)
        if name.endswith(".jsonl"):
            self.clear(f"{name}.parts")

    def clear(self, folder: str) -> None:
        """Delete all objects below, and where folders are more than a part of names, these too."""
        with self._reported(folder):
            found = self._files.find(self._path(folder), withdirs=True, detail=True)
            for path, facts in sorted(found.items(), reverse=True):
                if facts.get("type") != "directory":
                    self._files.rm_file(path)
                else:
                    with suppress(Exception):
                        self._files.rmdir(path)
        self._made.clear()

    def names(self, folder: str) -> list[str]:
        """The names of the objects and folders in a folder, as they are now."""
        path = self._path(folder)
        with self._reported(folder), suppress(FileNotFoundError):
            self._files.invalidate_cache(path)
            found = (held.rstrip("/") for held in self._files.ls(path, detail=False))
            return sorted(held.rsplit("/", 1)[-1] for held in found if held != path)
        return []

    def finish(self, journals: Iterable[str]) -> None:
        """Put each journal as one object beside its parts."""
        for name in filter(self._part_names, journals):
            with self._reported(name), self._files.open(self._path(name), "wb") as file:
                for line in self.lines(name):
                    file.write(line)

    def _part_names(self, name: str) -> list[str]:
        folder = f"{name}.parts"
        return [f"{folder}/{part}" for part in self.names(folder) if _PART.fullmatch(part)]

    def _part_lines(self, part: str) -> list[bytes]:
        """The whole lines of a part; a store that is no object store may hold half of one."""
        lines = (self.read(part) or b"").splitlines(keepends=True)
        return [line for line in lines if line.endswith(b"\n")]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    @contextmanager
    def _reported(self, name: str) -> Iterator[None]:
        try:
            yield
        except LDMEngineError:
            raise
        except Exception as error:  # each file system behind fsspec raises its own
            cause = f"{type(error).__name__}: {str(error)[:300]}"
            remedy = "check the URL, the network and what you may write there"
            raise refusal(f"{self.output}/{name}", cause, remedy) from error


def _schemes(url: str) -> list[str]:
    """The protocols of a URL, most often one; of a chain of them the last one has the files."""
    return [part.partition("://")[0].lower() for part in url.split("::")]


def _part(name: str, number: int) -> str:
    return f"{name}.parts/{number:06}.jsonl"


def _number(part: str) -> int:
    return int(part[-len("000000.jsonl") : -len(".jsonl")])
