"""Output and job files at a URL, through fsspec, which is an extra."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import LDMEngineError
from .storage import Storage, refusal

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PART_LINES = 1000


def is_url(name: str) -> bool:
    """Whether `name` is a URL rather than a path."""
    return _URL.match(name) is not None


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


class RemoteStorage(Storage):
    """A URL through fsspec: an object appears whole by its nature, and journals are kept in parts.

    Part n of a journal holds up to 1,000 lines and is written anew until it is full.
    """

    def __init__(self, output: str) -> None:
        self.output = output
        fsspec = import_fsspec()
        with self._told(""):
            self._files, self._root = fsspec.core.url_to_fs(output.rstrip("/"))
        self._parts: dict[str, tuple[int, list[bytes]]] = {}

    def write(self, name: str, content: bytes | Iterable[bytes]) -> None:
        """Put an object."""
        with self._told(name):
            path = self._path(name)
            self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            whole = content if isinstance(content, bytes) else b"".join(content)
            self._files.pipe_file(path, whole)

    def write_once(self, name: str, content: bytes) -> bool:
        """Look, then put: object stores have no common way to do both at once."""
        if self.read(name) is not None:
            return False
        self.write(name, content)
        return True

    def prepare(self) -> None:
        """Nothing to do: nothing unfinished is ever there."""

    def size(self, name: str) -> int | None:
        """A million requests would take hours: -1."""
        return -1

    def sync(self, names: Iterable[str]) -> None:
        """Nothing to do: an object that was put is there."""

    def read(self, name: str) -> bytes | None:
        """Get an object."""
        with self._told(name):
            try:
                content: bytes = self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return content

    def lines(self, name: str) -> Iterator[bytes]:
        """Get the journal's parts one after another."""
        for part in self._part_names(name):
            yield from (self.read(part) or b"").splitlines(keepends=True)

    def append(self, name: str, lines: Sequence[bytes]) -> None:
        """Write the last part anew, or begin one."""
        if name not in self._parts:
            parts = self._part_names(name)
            last = (self.read(parts[-1]) or b"").splitlines(keepends=True) if parts else []
            self._parts[name] = max(0, len(parts) - 1), last
        number, held = self._parts[name]
        if len(held) >= _PART_LINES:
            number, held = number + 1, []
        held = [*held, *lines]
        self.write(_part(name, number), b"".join(held))
        self._parts[name] = number, held

    def rewrite(self, name: str, lines: Iterable[bytes]) -> None:
        """Write all parts anew; not at once, but only lines that count for nothing are left out."""
        kept = list(lines)
        old = self._part_names(name)
        for number, start in enumerate(range(0, len(kept), _PART_LINES)):
            self.write(_part(name, number), b"".join(kept[start : start + _PART_LINES]))
        for part in old[-(-len(kept) // _PART_LINES) :]:
            self.remove(part)
        self._parts.pop(name, None)

    def journals(self, prefix: str) -> list[str]:
        """List the folders of parts."""
        with self._told(prefix):
            found = self._files.glob(f"{self._root}/{prefix}*.jsonl.parts/*")
        return sorted({path.split("/")[-2].removesuffix(".parts") for path in found})

    def remove(self, name: str) -> None:
        """Delete an object, or a journal's parts."""
        with self._told(name):
            for path in [self._path(name), *map(self._path, self._part_names(name))]:
                if self._files.exists(path):
                    self._files.rm_file(path)

    def clear(self, folder: str) -> None:
        """Delete all objects below."""
        with self._told(folder):
            if self._files.exists(self._path(folder)):
                self._files.rm(self._path(folder), recursive=True)

    def names(self, folder: str) -> list[str]:
        """The names of the objects in a folder."""
        with self._told(folder):
            found = self._files.glob(f"{self._path(folder)}/*")
        return sorted(path.rsplit("/", 1)[1] for path in found)

    def finish(self, journals: Iterable[str]) -> None:
        """Put each journal as one object beside its parts."""
        for name in journals:
            with self._told(name), self._files.open(self._path(name), "wb") as file:
                for line in self.lines(name):
                    file.write(line)

    def _part_names(self, name: str) -> list[str]:
        with self._told(name):
            found = self._files.glob(f"{self._path(name)}.parts/*.jsonl")
        return [f"{name}.parts/{path.rsplit('/', 1)[1]}" for path in sorted(found)]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except LDMEngineError:
            raise
        except Exception as error:  # each file system behind fsspec raises its own
            told = f"{type(error).__name__}: {str(error)[:300]}"
            raise refusal(f"{self.output}/{name}", told) from error


def _part(name: str, number: int) -> str:
    return f"{name}.parts/{number:06}.jsonl"
