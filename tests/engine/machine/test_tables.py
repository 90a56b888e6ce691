from __future__ import annotations

import datetime
import decimal
import enum
import io
import json
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm_engine.errors import InputError
from ldm_engine.machine.tables import plain, read_csv, read_parquet


class Colour(str, enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


def csv_rows(content, delimiter=None):
    file = io.BytesIO(content if isinstance(content, bytes) else content.encode())
    return list(read_csv(file, "x", "prompt", delimiter))


CELL = st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=["Cs", "Cc", "Zl", "Zp"]),
    max_size=12,
)


@given(
    st.lists(st.tuples(CELL, CELL.filter(str.strip), CELL), max_size=5),
    st.sampled_from(",;\t|"),
    st.booleans(),
    st.integers(0, 3),
    st.booleans(),
)
def test_tables_as_programs_write_them(records, delimiter, says_so, empty_columns, spaced):
    """Any delimiter, named or not, with columns without a name behind, and spaces after it."""
    text = io.StringIO()
    if says_so:
        text.write(f"sep={delimiter}\r\n")
    for record in [("id", "prompt", "note"), *records]:
        cells = ['"{}"'.format(cell.replace('"', '""')) for cell in record]
        between = delimiter + " " * spaced
        text.write(between.join(cells) + delimiter * empty_columns + "\r\n")
    rows = csv_rows("\ufeff" + text.getvalue())
    assert [row.fields for row in rows] == [
        {"id": a or None, "prompt": b, "note": c or None} for a, b, c in records
    ]
    assert [row.number for row in rows] == list(range(1, len(records) + 1))


def test_excels_csv():
    assert [r.fields for r in csv_rows("id,prompt,,\r\ne1,a red circle,,\r\n,,,\r\ne2,b\r\n")] == [
        {"id": "e1", "prompt": "a red circle"}, {"id": "e2", "prompt": "b"}
    ]  # fmt: skip
    (one, two, three) = csv_rows("id,prompt,,\na,b,c,\na,b,,,,\na,b\n")
    assert "4 cells for 2 columns" in one.fault
    assert two.fields == three.fields == {"id": "a", "prompt": "b"}
    assert csv_rows("SEP=|\nid|prompt\na|b\n")[0].fields == {"id": "a", "prompt": "b"}
    assert csv_rows("id, prompt, seed\na, the sea, 5\n")[0].fields == {
        "id": "a", "prompt": "the sea", "seed": "5"
    }  # fmt: skip


def test_what_was_read_before_is_read_alike():
    """A space before a prompt stays where none is in the header, and a semicolon in a cell."""
    (row,) = csv_rows("id,prompt\n1, a; b\n")
    assert row.fields == {"id": "1", "prompt": " a; b"}
    (row,) = csv_rows(",id,prompt\n0,a,b\n")  # pandas' index
    assert row.fields == {"": "0", "id": "a", "prompt": "b"}


def test_a_value_in_one_of_several_columns_without_a_name_is_a_fault():
    (row, good) = csv_rows("id,,,prompt\n1,,x,a\n2,,,b\n")
    assert "'x' in a column without a name" in row.fault
    assert good.fields == {"id": "2", "": None, "prompt": "b"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"id,prompt,gr\xf6\xdfe\nl1,a,7\n", "not UTF-8"),
        (b"id,text\n1,a\n", "`prompt` among them"),
        (b"prompt,prompt\na,b\n", "each once"),
        (b"prompt, prompt\na,b\n", "each once"),
        (b"id;text\n1;a\n", "`prompt` among them"),
        (b"", "`prompt` among them"),
    ],
)
def test_a_header_that_is_none_is_told(content, told):
    with pytest.raises(InputError, match=told):
        csv_rows(content)


KNOWN = [
    (None, None), (True, True), ("é", "é"), (Colour.RED, "red"), (Number.ONE, 1), (1.5, 1.5),
    (float("nan"), None), (np.float32("nan"), None), (np.float64(2), 2.0), (np.int64(7), 7),
    (np.uint8(7), 7), (np.bool_(True), True), (np.str_("x"), "x"), (np.bytes_(b"x"), "x"),
    (np.array(3), 3), (np.array([1.0, np.nan]), [1.0, None]), (b"gr\xc3\xb6\xc3\x9fe", "größe"),
    (bytearray(b"a"), "a"), (datetime.date(2024, 5, 6), "2024-05-06"),
    (np.datetime64("2024-05-06T00:00:00.000000001"), "2024-05-06T00:00:00.000000001"),
    (np.datetime64("NaT"), None), (np.timedelta64("NaT"), None),
    (decimal.Decimal("7.50"), "7.50"), (decimal.Decimal("sNaN"), None),
    (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    ({"a": (np.int8(1), float("nan"))}, {"a": [1, None]}),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), KNOWN, ids=lambda v: type(v).__name__)
def test_values_as_json_knows_them(value, expected):
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)
    assert json.loads(json.dumps(found)) == expected


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, 1j, np.complex64(1), range(3), [object()], {"a": {1}}, lambda: None,
     b"\xff", [b"\xff"], np.longdouble(1)],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_a_type_that_is_not_foreseen_is_never_written_as_python_does(value):
    with pytest.raises((TypeError, UnicodeDecodeError)):
        plain(value)


def test_what_pandas_writes_for_nothing_is_none():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"a": [1.0, None], "b": pandas.array([1, None], "Int64"), "c": ["x", None],
         "d": pandas.to_datetime(["2024-01-01", None])}
    )  # fmt: skip
    first, second = ({k: plain(v) for k, v in r.items()} for r in frame.to_dict("records"))
    assert first == {"a": 1.0, "b": 1, "c": "x", "d": "2024-01-01 00:00:00"}
    assert set(second.values()) == {None}


def parquet_rows(table):
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(table, file)
    file.seek(0)
    return list(read_parquet(file, "x", {"prompt"}))


TEXTS = ["string", "large_string", "binary", "large_binary", "dictionary", "binary_dictionary"]


def _type(name):
    import pyarrow

    if name.endswith("dictionary"):
        held = pyarrow.binary() if name.startswith("binary") else pyarrow.string()
        return pyarrow.dictionary(pyarrow.int32(), held)
    return getattr(pyarrow, name)()


@given(
    st.sampled_from(TEXTS),
    st.lists(st.none() | st.text(st.characters(blacklist_categories=["Cs"]), max_size=9)),
)
def test_a_text_is_the_same_in_any_column_that_can_hold_it(name, texts):
    pyarrow = pytest.importorskip("pyarrow")
    kind = _type(name)
    values = [t.encode() if t is not None and "binary" in name else t for t in texts]
    if name.endswith("dictionary"):
        column = pyarrow.array(values, kind.value_type).dictionary_encode().cast(kind)
    else:
        column = pyarrow.array(values, kind)
    rows = parquet_rows(pyarrow.table({"prompt": column}))
    assert [row.fields["prompt"] for row in rows] == texts


OTHERS = {
    "int8": 5, "double": 1.5, "bool_": True, "date32": datetime.date(2024, 1, 2),
    "date64": datetime.date(2024, 1, 2), "list": ["a"], "struct": {"a": "b"}, "map": [("a", "b")],
    "decimal": decimal.Decimal("1.50"), "timestamp_us": datetime.datetime(2024, 1, 2),
    "timestamp_ns": datetime.datetime(2024, 1, 2), "duration": datetime.timedelta(1),
    "time": datetime.time(1, 2), "fixed": b"\xff\xfe", "invalid": b"\xff\xfe",
}  # fmt: skip


def _other(pyarrow, name):
    made = {
        "list": lambda: pyarrow.list_(pyarrow.string()),
        "struct": lambda: pyarrow.struct({"a": pyarrow.string()}),
        "map": lambda: pyarrow.map_(pyarrow.string(), pyarrow.string()),
        "decimal": lambda: pyarrow.decimal128(10, 2),
        "double": pyarrow.float64,
        "timestamp_us": lambda: pyarrow.timestamp("us"),
        "timestamp_ns": lambda: pyarrow.timestamp("ns"),
        "duration": lambda: pyarrow.duration("s"),
        "time": lambda: pyarrow.time64("us"),
        "fixed": lambda: pyarrow.binary(2),
        "invalid": pyarrow.binary,
    }
    return made.get(name, getattr(pyarrow, name, None))()


@pytest.mark.parametrize("name", OTHERS)
def test_a_prompt_of_any_other_type_is_never_text(name):
    pyarrow = pytest.importorskip("pyarrow")
    column = pyarrow.array([OTHERS[name]], _other(pyarrow, name))
    (row,) = parquet_rows(pyarrow.table({"prompt": column, "extra": column}))
    if row.fields is None:
        assert str(column.type) in row.fault
    else:
        assert not isinstance(row.fields["prompt"], str)
        json.dumps(row.fields["extra"])


def test_what_is_named_parquet_and_is_something_else_is_told():
    for content, kind in ((b"\x1f\x8b\x08\0", "gzip"), (b"PK\x03\x04", "zip")):
        with pytest.raises(InputError, match=f"not Parquet but .*{kind}"):
            list(read_parquet(io.BytesIO(content), "x", {"prompt"}))
