"""Reading rows of job files as a stream: JSONL, CSV, Parquet and plain text, here or at a URL.

A row that cannot be read comes out as a fault with its number, and the next ones go on.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from ..errors import ArgumentTypeError, InputError, InvalidArgumentError, LDMEngineError
from ..machine.remote import is_url, open_to_read

FORMATS = ("jsonl", "csv", "parquet", "text")
_SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".txt": "text",
}  # fmt: skip
_ACCEPTED = ", ".join(_SUFFIXES)
_MAX_LINE_BYTES = 16 << 20
_PARQUET_ROWS = 1024
_BITS = 10_000  #: of a whole number; Python writes none of more than 4,300 digits
_BOM = b"\xef\xbb\xbf"

#: A job file's path or URL, or rows in memory: mappings of fields, or prompts.
Jobs = str | os.PathLike[str] | Sequence[Mapping[str, Any] | str]


class JobsError(LDMEngineError, ValueError):
    """A job file cannot be read at all."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its fields, or why it has none."""

    number: int  #: of the line, from 1; in CSV and Parquet of the record, the header not counted
    fields: Mapping[str, Any] | None
    fault: str = ""


def check_jobs(jobs: Jobs, format_name: str | None) -> str | None:
    """The format of `jobs`, None for rows in memory.

    Raises:
        ArgumentTypeError: if `jobs` is neither a path nor rows.
        InvalidArgumentError: if the format is neither given nor recognised by the file's name.
        JobsError: if there is no such file.
    """
    if not isinstance(jobs, (str, os.PathLike)):
        if not isinstance(jobs, Sequence):
            raise ArgumentTypeError(
                f"`jobs` is a {type(jobs).__name__}; a path or a list of rows is accepted, "
                "since they are read more than once."
            )
        return None
    name = os.fspath(jobs)
    if not is_url(name) and not Path(name).is_file():
        if Path(name).exists():
            raise JobsError(
                f"{name} is no regular file, and jobs are read twice: once to check them, once to "
                f"render. Write them to a file, {_ACCEPTED}."
            )
        raise JobsError(f"There is no job file {name}. Give a file of jobs, {_ACCEPTED}.")
    format_name = format_name or _SUFFIXES.get(Path(name).suffix.lower())
    if format_name not in FORMATS:
        raise InvalidArgumentError(
            f"The format of the job file {name} cannot be seen from its name; accepted are "
            f"{_ACCEPTED}. Rename it, or give its format with --jobs-format."
        )
    return format_name


def read_rows(jobs: Jobs, format_name: str | None) -> Iterator[Row]:
    """The rows of `jobs`, of a format that ``check_jobs`` gave.

    Raises:
        JobsError: if the file cannot be opened or read on.
    """
    if format_name is None:
        yield from _given(jobs)  # type: ignore[arg-type]
        return
    readers: dict[str, Callable[[IO[bytes], str], Iterator[Row]]] = {
        "jsonl": partial(_by_line, _json_row),
        "csv": _csv,
        "parquet": _parquet,
        "text": partial(_by_line, lambda number, line: Row(number, {"prompt": line})),
    }
    name = os.fspath(jobs)  # type: ignore[arg-type]
    try:
        with open_to_read(name) as file:
            yield from readers[format_name](file, name)
    except InputError as error:
        raise JobsError(f"The job file {error}") from error
    except OSError as error:
        raise JobsError(
            f"The job file {name} cannot be read: {error.strerror or error}. "
            "Bring it back and start again: what is done is kept."
        ) from error


def _given(rows: Sequence[Any]) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        if isinstance(row, str):
            yield Row(number, {"prompt": row})
        elif not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
            yield Row(number, None, f"it is a {type(row).__name__}; fields by name are accepted")
        elif huge := [n for n, v in row.items() if isinstance(v, int) and v.bit_length() > _BITS]:
            yield Row(number, None, f"its field {huge[0][:80]!r} has thousands of digits")
        else:
            yield Row(number, row)


def _lines(file: IO[bytes]) -> Iterator[tuple[int, str | None, str]]:
    """Number and text of each line, or None and a fault; never more than a line in memory."""
    number = 0
    while line := file.readline(_MAX_LINE_BYTES):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line) >= _MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None, f"it is longer than {_MAX_LINE_BYTES >> 20} MiB"
            continue
        try:
            yield number, line.decode().rstrip("\r\n"), ""
        except UnicodeDecodeError as error:
            yield number, None, f"it is not UTF-8 ({error.reason} at byte {error.start})"


def _by_line(read: Callable[[int, str], Row], file: IO[bytes], name: str) -> Iterator[Row]:
    for number, line, fault in _lines(file):
        if line is None:
            yield Row(number, None, fault)
        elif line.strip():
            yield read(number, line)


def _json_row(number: int, line: str) -> Row:
    try:
        fields = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return Row(number, None, f"it is not JSON: {error}")
    if not isinstance(fields, dict):
        return Row(number, None, f"it is a JSON {type(fields).__name__}; an object is accepted")
    return Row(number, fields)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _csv(file: IO[bytes], name: str) -> Iterator[Row]:
    faults: list[str] = []

    def lines() -> Iterator[str]:
        for _, line, fault in _lines(file):
            if line is None:
                faults.append(fault)
            yield "" if line is None else f"{line}\n"

    records = _csv_records(csv.reader(lines(), strict=True))
    header = next(records, ["nothing"])
    if isinstance(header, str) or "prompt" not in header or len(set(header)) < len(header):
        raise JobsError(
            f"The job file {name} begins with {str(header)[:200]}; a first line that names the "
            "columns, each once and `prompt` among them, is expected."
        )
    for number, record in enumerate((r for r in records if r or faults), 1):
        if faults:
            yield Row(number, None, faults[0])
            faults.clear()
        elif isinstance(record, str):
            yield Row(number, None, record)
        elif len(record) != len(header):
            yield Row(number, None, f"it has {len(record)} cells for {len(header)} columns")
        else:
            cells = zip(header, record, strict=True)
            yield Row(number, {c: v for c, v in cells if v != "" or c == "prompt"})


def _csv_records(reader: Iterable[list[str]]) -> Iterator[list[str] | str]:
    """Records, or what is wrong with one."""
    records = iter(reader)
    while True:
        try:
            yield next(records)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"it is not CSV: {error}"


def _parquet(file: IO[bytes], name: str) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise LDMEngineError(
            f"Parquet cannot be read: {error}. Install it with: pip install 'ldm-engine[render]'"
        ) from error
    number = 0
    try:
        table = parquet.ParquetFile(file)
        columns = table.schema_arrow.names
        if len(set(columns)) < len(columns):
            raise JobsError(
                f"The job file {name} has several columns of one name among "
                f"{', '.join(columns)[:200]}; each once is accepted. Rename them."
            )
        for batch in table.iter_batches(batch_size=_PARQUET_ROWS):
            for cells in zip(*batch.columns, strict=True):
                number += 1
                yield _parquet_row(number, dict(zip(columns, cells, strict=True)))
    except pyarrow.ArrowException as error:
        raise JobsError(
            f"The job file {name} is not Parquet, or damaged after row {number}: "
            f"{str(error)[:300]}. Write it again."
        ) from error


def _parquet_row(number: int, cells: Mapping[str, Any]) -> Row:
    fields = {}
    for name, cell in cells.items():
        try:
            # Points in time to the nanosecond Python does not know, and pandas would cut them off.
            is_fine = getattr(cell.type, "unit", None) == "ns"
            fields[name] = _plain(cell.cast("string").as_py() if is_fine else cell.as_py())
        except Exception as error:  # each type of column raises its own
            return Row(number, None, f"its column {name[:80]!r} cannot be read: {str(error)[:200]}")
    return Row(number, fields)


def _plain(value: Any) -> Any:
    """A value as JSON knows it: dates and decimals as text, NaN, which pandas writes, as absent."""
    if isinstance(value, float):
        return None if value != value else value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value)
