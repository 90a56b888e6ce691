"""Rows of CSV and Parquet as values that JSON knows; a bad row is a fault among the others."""

from __future__ import annotations

import csv
import datetime
import decimal
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any

import numpy as np

from ..errors import InputError
from .texts import describe, import_pyarrow, read_lines

_PARQUET_ROWS = 1024
_DELIMITERS = ",;\t|"
#: Written as text: what JSON has no type for, and text says whole.
_AS_TEXT = (
    datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID,
    np.datetime64, np.timedelta64,
)  # fmt: skip
#: What pandas puts where there is nothing.
_MISSING = {"NAType", "NaTType"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its fields, or why it has none."""

    number: int  #: of the line, from 1; in tables of the record, the header not counted
    fields: Mapping[str, Any] | None
    fault: str = ""
    folder: str = ""  #: or URL, at which paths in it begin; empty: the working folder


def plain(value: Any, is_text: bool = False) -> Any:
    """A value as JSON knows it: NumPy's as Python's, dates as text, NaN and NaT as None.

    Where text is expected (`is_text`), dates and the like are left as they are: a date is no text.

    Raises:
        TypeError: if its type is none that is foreseen.
        UnicodeDecodeError: if it is of bytes that are no UTF-8.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode()
    if type(value).__name__ in _MISSING or _is_nan(value):
        return None
    if isinstance(value, _AS_TEXT):
        return value if is_text else str(value)
    if isinstance(value, (np.generic, np.ndarray)) and not isinstance(value, np.longdouble):
        return plain(value.tolist(), is_text)
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Mapping):
        return {str(name): plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    raise TypeError(f"a {type(value).__name__} is none of text, number, date, list and object")


def _is_nan(value: Any) -> bool:
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    return isinstance(value, (float, np.generic)) and bool(value != value)


def read_csv(
    file: IO[bytes], name: str, column: str, delimiter: str | None = None
) -> Iterator[Row]:
    """The records under a line that names the columns, `column` among them.

    The delimiter is a comma; or what a first line ``sep=;`` says, as Excel reads it; or that
    semicolon, tab or bar by which there is such a `column` and by a comma there is none. An empty
    cell is None, but that of `column` is empty text.

    Raises:
        InputError: if there is no such line, or a column is named twice.
    """
    faults: list[str] = []

    def texts() -> Iterator[str]:
        for _, line, fault in read_lines(file, name):
            if line is None:
                faults.append(fault)
            yield "" if line is None else f"{line}\n"

    lines = texts()
    first = next(lines, "")
    if first.lower().startswith("sep=") and len(first.rstrip("\n")) == 5:
        delimiter, first = first[4], next(lines, "")
    dialect = _dialect(first, column, delimiter or _DELIMITERS)
    records = _records(csv.reader(chain([first], lines), strict=True, **dialect))
    header = next(records, "nothing")
    if faults:
        raise InputError(f"{name} begins with a line that cannot be read: {faults[0]}.")
    columns = [header] if isinstance(header, str) else [c.strip() for c in header]
    named = [c for c in columns if c]
    if isinstance(header, str) or column not in named or len(set(named)) < len(named):
        raise InputError(
            f"{name} begins with {str(columns)[:200]}; a first line that names the columns, each "
            f"once and `{column}` among them, is expected."
        )
    while columns and not columns[-1]:
        columns.pop()
    for number, record in enumerate((r for r in records if r or faults), 1):
        if faults:
            yield Row(number, None, faults[0])
            faults.clear()
        elif isinstance(record, str):
            yield Row(number, None, record)
        elif len(columns) == 1 or any(record):
            yield _csv_row(number, columns, record, column)


def _dialect(first: str, column: str, delimiters: str) -> dict[str, Any]:
    """Delimiter, and whether spaces follow it, by the line of the columns' names."""
    for delimiter in delimiters:
        cells = list(_records(csv.reader([first], delimiter=delimiter, skipinitialspace=True)))
        if cells and column in (cell.strip() for cell in cells[0]):
            break
    else:
        delimiter = delimiters[0]
    return {"delimiter": delimiter, "skipinitialspace": f"{delimiter} " in first}


def _csv_row(number: int, columns: Sequence[str], record: Sequence[str], column: str) -> Row:
    if len(record) < len(columns) or any(record[len(columns) :]):
        return Row(number, None, f"it has {len(record)} cells for {len(columns)} columns")
    fields: dict[str, str | None] = {}
    for name, value in zip(columns, record, strict=False):
        if name in fields and value:  # only columns without a name may be several
            return Row(number, None, f"it has {value[:80]!r} in a column without a name")
        fields.setdefault(name, value if value or name == column else None)
    return Row(number, fields)


def _records(reader: Iterable[list[str]]) -> Iterator[list[str] | str]:
    """Records, or what is wrong with one."""
    records = iter(reader)
    while True:
        try:
            yield next(records)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"it is not CSV: {error}"


def read_parquet(file: IO[bytes], name: str, texts: Collection[str]) -> Iterator[Row]:
    """The records of a Parquet file, of whose columns `texts` hold text alone.

    Raises:
        InputError: if it is none, is damaged, or has two columns of one name.
    """
    pyarrow = import_pyarrow("Parquet")
    from pyarrow import parquet

    number = 0
    try:
        head = file.read(16)
        if kind := describe(head) if not head.startswith(b"PAR1") else "":
            raise InputError(f"{name} is not Parquet but {kind}. Give it the name of what it is.")
        file.seek(0)
        table = parquet.ParquetFile(file)
        columns = table.schema_arrow.names
        if len(set(columns)) < len(columns):
            raise InputError(
                f"{name} has several columns of one name among {', '.join(columns)[:200]}; each "
                "once is accepted. Rename them."
            )
        for batch in table.iter_batches(batch_size=_PARQUET_ROWS):
            for cells in zip(*batch.columns, strict=True):
                number += 1
                yield _parquet_row(number, dict(zip(columns, cells, strict=True)), texts)
    except pyarrow.ArrowException as error:
        raise InputError(
            f"{name} is not Parquet, or damaged after row {number}: {str(error)[:300]}. "
            "Write it again."
        ) from error


def _parquet_row(number: int, cells: Mapping[str, Any], texts: Collection[str]) -> Row:
    fields = {}
    for name, cell in cells.items():
        try:
            # Points in time to the nanosecond Python does not know, and pandas would cut them off.
            is_fine = getattr(cell.type, "unit", None) == "ns"
            if is_fine and name in texts:
                raise TypeError("text is accepted")
            value = cell.cast("string").as_py() if is_fine else cell.as_py()
            fields[name] = plain(value, name in texts)
        except Exception as error:  # each type of column raises its own
            kind, cause = str(cell.type)[:80], str(error)[:200]
            fault = f"its column {name[:80]!r} cannot be read from {kind}: {cause}"
            return Row(number, None, f"{fault}. Write it as text, or leave the column out")
    return Row(number, fields)
