"""The JSON lines of a run: a measurement is appended when it is whole, so a run can be resumed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ldm_engine.benchmarking.reading import UnexpectedValueError, read
from ldm_engine.errors import ResultsError

Record = dict[str, Any]
Shape = TypeVar("Shape")


class Records:
    """The records in a file, in the order in which they were measured."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise ResultsError(f"{path} cannot be read: {error.strerror}.") from error
        whole, _, self._rest = content.rpartition(b"\n")  # what a killed write left does not count
        lines = whole.split(b"\n") if whole else []
        self._records = [_parse(path, n, line) for n, line in enumerate(lines, 1)]

    def find(self, kind: str, **key: Any) -> Record | None:
        """The first record of this kind that has these values."""
        wanted = {"kind": kind, **key}
        for record in self._records:
            if all(record.get(name) == value for name, value in wanted.items()):
                return record
        return None

    def all(self, kind: str) -> list[Record]:
        """Every record of this kind, in order."""
        return [record for record in self._records if record["kind"] == kind]

    def read(self, kind: str, shape: type[Shape]) -> list[Shape]:
        """Every record of this kind as a dataclass, which needs not have all of its values.

        Raises:
            ResultsError: if a value is missing or of another type.
        """
        try:
            return [read(shape, record, kind) for record in self.all(kind)]
        except UnexpectedValueError as error:
            raise ResultsError(
                f"{self.path} is damaged or was edited: a record of {kind!r} is no whole one, "
                f"{error}. Remove that line to have it measured again."
            ) from error

    def add(self, kind: str, **values: Any) -> None:
        """Append a record, on disk before this returns.

        Raises:
            ValueError: if a value is NaN or infinite, which JSON does not have.
        """
        record = {"kind": kind, **values}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        if self._rest:
            os.truncate(self.path, self.path.stat().st_size - len(self._rest))
            self._rest = b""
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._records.append(record)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder of a run, for one process at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResultsError(f"Another process measures into {folder}.") from None
        yield


def _parse(path: Path, number: int, line: bytes) -> Record:
    try:
        record: Record = json.loads(line)
        if isinstance(record, dict) and isinstance(record.get("kind"), str):
            return record
    except ValueError:
        pass
    raise ResultsError(
        f"Line {number} of {path} is no record. Remove that line to have it measured again, or the "
        "file to begin anew."
    )
