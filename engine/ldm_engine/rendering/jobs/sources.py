"""Rows of jobs as a stream: JSONL, CSV, TSV, Parquet and plain text, in files here or at URLs.

A row that cannot be read comes out as a fault with its number, and the next ones go on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from ...errors import ArgumentTypeError, InputError, InvalidArgumentError, LDMEngineError
from ...machine.files import reason
from ...machine.listing import list_files
from ...machine.remote import folder_of, is_url, open_to_read
from ...machine.tables import Row, plain, read_csv, read_parquet
from ...machine.texts import read_lines
from ...sampling.settings import SETTINGS

FORMATS = ("jsonl", "csv", "tsv", "parquet", "text")
STDIN = "-"  #: as the command names standard input
_SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
    ".txt": "text",
}  # fmt: skip
_COMPRESSED = (".gz", ".zst")
_ACCEPTED = f"{', '.join(_SUFFIXES)}; .gz or .zst may follow"
_TEXTS = frozenset(s.field for s in SETTINGS if s.kind is str or s.is_picture)
_BITS = 10_000  #: of a whole number; Python writes none of more than 4,300 digits

#: A path or URL of a job file, of a folder of such or a pattern; or rows in memory: mappings of
#: fields, or prompts.
Jobs = str | os.PathLike[str] | Sequence[Mapping[str, Any] | str]


class JobsError(LDMEngineError, ValueError):
    """A job file cannot be read at all."""


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
    files = _files(name, format_name)
    if not is_url(name) and not Path(files[0]).is_file():
        if Path(name).exists():
            raise JobsError(
                f"{name} is no regular file, and jobs are read twice: once to check them, once to "
                f"render. Write them to a file, {_ACCEPTED}, or give - for standard input."
            )
        raise JobsError(f"There is no job file {name}. Give a file of jobs, {_ACCEPTED}.")
    found = {format_name} if format_name else {_format_of(file) for file in files}
    if len(found) > 1:
        raise InvalidArgumentError(
            f"{name} has files of {len(found)} formats; those of one are accepted. Name these by a "
            "pattern such as FOLDER/*.parquet, or give their format with --jobs-format."
        )
    (format_name,) = found
    if format_name not in FORMATS:
        raise InvalidArgumentError(
            f"The format of the job file {name} cannot be seen from its name; accepted are "
            f"{_ACCEPTED}. Write or name it so, or give its format with --jobs-format."
        )
    return format_name


def _files(name: str, format_name: str | None) -> list[str]:
    endings = [""] if format_name else [f"{s}{c}" for s in _SUFFIXES for c in ("", *_COMPRESSED)]
    try:
        return list_files(name, endings)
    except (InputError, OSError) as error:
        raise JobsError(f"{reason(error)}") from error


def _format_of(file: str) -> str | None:
    """The format that a name shows; a URL may say more behind it."""
    path = Path(file.partition("?")[0] if is_url(file) else file)
    if path.suffix.lower() in _COMPRESSED:
        path = path.with_suffix("")
    return _SUFFIXES.get(path.suffix.lower())


@contextmanager
def spooled(stream: IO[bytes], format_name: str | None) -> Iterator[tuple[str, str]]:
    """All of `stream` in a temporary file that can be read twice: its path and its format.

    The format, if it is not given, is what the first line shows.

    Raises:
        JobsError: if there is no room for it.
    """
    with TemporaryDirectory(prefix="ldm-engine-") as folder:
        path = Path(folder, "stdin")
        try:
            with path.open("wb") as file:
                shutil.copyfileobj(stream, file)
        except OSError as error:
            kept = f"Standard input cannot be kept in {folder}: {reason(error)}"
            raise JobsError(f"{kept}. Make room, or name a folder by TMPDIR.") from error
        yield str(path), format_name or _format_within(path)


def _format_within(path: Path) -> str:
    """What a file without a name is: a prompt a line unless its first line is more."""
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return "parquet"
    with path.open("rb") as file:
        lines = (line or "" for _, line, _ in read_lines(file, "Standard input"))
        first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("{"):
        return "jsonl"
    if first[:1] == "[" and first.rstrip(",")[-1] in "[]}":
        accepted = "one object a line is accepted (`jq -c '.[]'`), or prompts by --jobs-format text"
        raise JobsError(f"Standard input is a JSON array; {accepted}.")
    for format_name, delimiters in (("tsv", "\t"), ("csv", ",;|")):
        for delimiter in delimiters:
            cells = [cell.strip(' "').lower() for cell in first.split(delimiter)]
            if len(cells) > 1 and "prompt" in cells:
                return format_name
    return "csv" if first.lower() in ("prompt", '"prompt"') or first[:4] == "sep=" else "text"


def read_rows(jobs: Jobs, format_name: str | None, folder: str | None = None) -> Iterator[Row]:
    """The rows of `jobs`, of a format that ``check_jobs`` gave; numbers go on from file to file.

    Paths in them begin at `folder`; None: at that of their file, or the working folder.

    Raises:
        JobsError: if a file cannot be opened or read on.
    """
    if format_name is None:
        yield from (replace(row, folder=folder or "") for row in _given(jobs))  # type: ignore[arg-type]
        return
    name = os.fspath(jobs)  # type: ignore[arg-type]
    files, before = _files(name, format_name), 0
    for file in files:
        last = before
        for row in _rows_of(file, format_name):
            last = before + row.number
            place = f" (row {row.number} of {file})" if row.fault and len(files) > 1 else ""
            at = folder_of(file) if folder is None else folder
            yield replace(row, number=last, fault=f"{row.fault}{place}", folder=at)
        before = last


def _rows_of(name: str, format_name: str) -> Iterator[Row]:
    readers: dict[str, Callable[[IO[bytes], str], Iterator[Row]]] = {
        "jsonl": partial(_by_line, _json_row),
        "csv": partial(read_csv, column="prompt"),
        "tsv": partial(read_csv, column="prompt", delimiter="\t"),
        "parquet": partial(read_parquet, texts=_TEXTS),
        "text": partial(_by_line, _text_row),
    }
    try:
        with open_to_read(name) as file:
            yield from readers[format_name](file, name)
    except InputError as error:
        raise JobsError(f"The job file {error}") from error
    except OSError as error:
        fault = f"The job file {name} cannot be read: {reason(error)}"
        raise JobsError(f"{fault}. Bring it back and start again: what is done is kept.") from error


def _given(rows: Sequence[Any]) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        if isinstance(row, str):
            yield Row(number, {"prompt": row})
        elif not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
            yield Row(number, None, f"it is a {type(row).__name__}; fields by name are accepted")
        elif huge := [n for n, v in row.items() if isinstance(v, int) and v.bit_length() > _BITS]:
            yield Row(number, None, f"its field {huge[0][:80]!r} has thousands of digits")
        else:
            yield _plain_row(number, row)


def _plain_row(number: int, row: Mapping[str, Any]) -> Row:
    fields = {}
    for name, value in row.items():
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        try:
            fields[name] = plain(text, name in _TEXTS)
        except (TypeError, ValueError, RecursionError) as error:
            return Row(number, None, f"its field {name[:80]!r} cannot be read: {str(error)[:200]}")
    return Row(number, fields)


def _by_line(read: Callable[[int, str], Row], file: IO[bytes], name: str) -> Iterator[Row]:
    for number, line, fault in read_lines(file, name):
        if line is None:
            yield Row(number, None, fault)
        elif line.strip():
            yield read(number, line)


def _text_row(number: int, line: str) -> Row:
    if "\r" in line:
        return Row(number, None, "it has a carriage return within; lines end in one way")
    return Row(number, {"prompt": line})


def _json_row(number: int, line: str) -> Row:
    try:
        fields = _JSON.decode(line)
    except _DoubleKeyError as error:
        return Row(number, None, str(error))
    except (ValueError, RecursionError) as error:
        return Row(number, None, f"it is not JSON: {error}")
    if not isinstance(fields, dict):
        return Row(number, None, f"it is a JSON {type(fields).__name__}; an object is accepted")
    return Row(number, fields)


class _DoubleKeyError(ValueError):
    """An object names a field twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in fields if names.count(name) > 1)
        raise _DoubleKeyError(f"it has the key {double[:80]!r} twice; each once is accepted")
    return fields


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique)
