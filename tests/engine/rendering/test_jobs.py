from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm_engine.bundle.model import ModelInfo
from ldm_engine.errors import ArgumentTypeError, InvalidArgumentError
from ldm_engine.rendering.jobs.rows import (
    MAX_EXTRA_BYTES,
    MAX_TEXT,
    Defaults,
    RowReader,
    identify,
    job_fields,
)
from ldm_engine.rendering.jobs.sources import JobsError, check_jobs, read_rows, spooled
from ldm_engine.rendering.options import Shard
from ldm_engine.rendering.selection import Selection, States, Survey
from ldm_engine.sampling.schedule import NoiseSchedule
from ldm_engine.sampling.settings import PICTURE_SETTINGS, Limits, default_values

MODEL = ModelInfo("m", 4, 8, 8, 32, 77, 100, 8, 8)
LIMITS = Limits(MODEL, NoiseSchedule(1000, 0.00085, 0.012, "scaled_linear", False, 0))


def defaults(**settings):
    return Defaults(settings={**default_values(), **settings})


READER = RowReader(LIMITS, defaults(num_inference_steps=5, guidance_scale=3.0))


def rows_of(path, format_name=None):
    return list(read_rows(path, check_jobs(path, format_name)))


def survey(jobs, shard="1/1", jobs_format=None, strict=False):
    selection = Selection(jobs, jobs_format, READER, States(), Shard.parse(shard), strict)
    *failures, found = selection.survey()
    assert isinstance(found, Survey)
    return failures, found, list(selection.tasks())


def test_defaults_are_filled_in():
    (task,) = READER.tasks(7, {"prompt": "a"})
    assert task.identity.id == "7"
    assert task.values == {
        "prompt": "a", "negative_prompt": "", "seed": identify("7").seed,
        "num_inference_steps": 5, "guidance_scale": 3.0, "eta": 0.0, "height": 256, "width": 256,
        "solver": "ddim", "timesteps": None, "solver_table": None,
        **dict.fromkeys(PICTURE_SETTINGS),
    }  # fmt: skip


def test_what_a_row_says_goes_before_defaults_and_text_is_read_as_numbers():
    fields = {
        "prompt": "a", "id": 5, "seed": "7", "num_images": "2", "num_inference_steps": "9",
        "guidance_scale": "1", "eta": "0.5", "height": "64", "width": 128.0, "note": [1],
    }  # fmt: skip
    first, second = READER.tasks(1, fields)
    assert (first.identity.id, second.identity.id) == ("5", "5-2")
    assert (first.values["seed"], second.values["seed"]) == (7, 8)
    assert first.group == second.group == (
        9, "ddim", None, None, None, 64, 128, False, False, False
    )  # fmt: skip
    assert first.extra == {"note": [1]}


def test_a_row_that_spaces_its_steps_needs_nothing_common():
    common = {**default_values(), "num_inference_steps": 6, "solver": "dpmsolver++"}
    (task,) = RowReader(LIMITS, Defaults(settings=common)).tasks(
        1, {"prompt": "a", "timesteps": [900, 400, 10]}
    )
    assert (task.values["num_inference_steps"], task.values["timesteps"]) == (3, (900, 400, 10))
    common = {**common, "timesteps": (900, 10), "num_inference_steps": 50}
    (task,) = RowReader(LIMITS, Defaults(settings=common)).tasks(
        1, {"prompt": "a", "num_inference_steps": 4}
    )
    assert (task.values["num_inference_steps"], task.values["timesteps"]) == (4, None)


def test_images_without_a_seed_have_those_of_their_ids():
    first, second = READER.tasks(1, {"prompt": "a", "id": "cat", "num_images": 2})
    seeds = (first.values["seed"], second.values["seed"])
    assert seeds == (identify("cat").seed, identify("cat-2").seed)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 3}, "`prompt` is 3"),
        ({"prompt": "a" * (MAX_TEXT + 1)}, "5001 characters"),
        ({"prompt": "\ud800"}, "Unicode"),
        ({"prompt": "a\0"}, "U\\+0000"),
        ({"prompt": "a", "negative_prompt": "\0"}, "U\\+0000"),
        ({"prompt": b"a"}, "text is accepted"),
        ({"prompt": "a", "id": 2.0**53}, "`id` is 9007"),
        ({"prompt": "a", "id": float("inf")}, "`id` is inf"),
        ({"prompt": "a", "Seed": 3}, "`Seed` is not read; `seed` is the name"),
        ({"prompt": "a", "steps": 3, "cfg": 9}, "`num_inference_steps`.*`guidance_scale`"),
        ({"prompt": "a", "sampler": "Euler a"}, "`solver` is the name"),
        ({"prompt": "a", "id": ""}, "empty"),
        ({"prompt": "a", "id": 1.5}, "`id` is 1.5"),
        ({"prompt": "a", "id": True}, "`id` is True"),
        ({"prompt": "a", "id": ["x"]}, "`id`"),
        ({"prompt": "a", "id": "\udfff"}, "Unicode"),
        ({"prompt": "a", "seed": -1}, "`seed` is -1"),
        ({"prompt": "a", "seed": 2**32}, "4294967295"),
        ({"prompt": "a", "seed": 2**32 - 1, "num_images": 2}, "s, s \\+ 1"),
        ({"prompt": "a", "seed": "x"}, "whole number"),
        ({"prompt": "a", "seed": 1.5}, "whole number"),
        ({"prompt": "a", "num_images": 0}, "1 to 10000"),
        ({"prompt": "a", "num_images": 10**9}, "1 to 10000"),
        ({"prompt": "a", "num_inference_steps": 0}, "1 to 1000"),
        ({"prompt": "a", "num_inference_steps": True}, "whole number"),
        ({"prompt": "a", "guidance_scale": "nan"}, "guidance_scale"),
        ({"prompt": "a", "guidance_scale": 1e9}, "guidance_scale"),
        ({"prompt": "a", "eta": 2}, "eta"),
        ({"prompt": "a", "eta": [1]}, "`eta`"),
        ({"prompt": "a", "height": 100}, "multiples of 64"),
        ({"prompt": "a", "width": 10**9}, "multiples of 64"),
        ({"prompt": "a", "negative_prompt": 5}, "negative_prompt"),
        ({"prompt": "a", "x": float("inf")}, "JSON"),
        ({"prompt": "a", "x": "\ud800"}, "JSON"),
        ({"prompt": "a", "x": {1, 2}}, "JSON"),
        ({"prompt": "a", "x": [10**5000]}, "JSON"),
        ({"prompt": "a", "id": [10**5000]}, "`id`"),
        ({"prompt": "a", "x": "y" * MAX_EXTRA_BYTES}, "65545 bytes"),
        ({"prompt": "a", **{f"x{i}": "y" * 100 for i in range(700)}}, r"'x3.{,80}\.\.\. have"),
    ],
    ids=lambda value: str(value)[:50] if isinstance(value, str) else None,
)
def test_what_is_not_accepted_is_told(fields, message):
    with pytest.raises((InvalidArgumentError, ArgumentTypeError), match=message):
        READER.tasks(1, fields)


def test_a_default_out_of_range_is_told_before_any_row():
    with pytest.raises(InvalidArgumentError, match="default"):
        RowReader(LIMITS, defaults(eta=3))


def test_jsonl(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "a"}\r\n\n{"prompt": \n[1]\n"x"\n{"prompt": NaN}\n\xff\xfe\n'
        + b"[" * 100_000 + b'\n{"prompt": "\xc3\xa9", "id": "z"}'
    )  # fmt: skip
    rows = rows_of(path)
    assert [(r.number, r.fields is None) for r in rows] == [
        (1, False), (3, True), (4, True), (5, True), (6, True), (7, True), (8, True), (9, False)
    ]  # fmt: skip
    assert rows[0].fields == {"prompt": "a"}
    assert rows[-1].fields == {"prompt": "é", "id": "z"}
    assert "UTF-8" in rows[5].fault
    assert "NaN" in rows[4].fault


def test_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(
        b'id,prompt,seed,note\r\n1,"a, b\nc",,x\r\n\r\n2,short\r\n'
        b'3,"say ""hi""",5,\xff\r\n4,,6,y\r\n'
    )
    rows = rows_of(path)
    assert [r.number for r in rows] == [1, 2, 3, 4]
    assert rows[0].fields == {"id": "1", "prompt": "a, b\nc", "seed": None, "note": "x"}
    assert "2 cells for 4 columns" in rows[1].fault
    assert "UTF-8" in rows[2].fault
    assert rows[3].fields == {"id": "4", "prompt": "", "seed": "6", "note": "y"}


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"prompt,prompt\nx,y\n", b'"'])
def test_a_csv_file_without_a_header_is_refused(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(JobsError, match="prompt"):
        rows_of(path)


def test_plain_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\n  two  \n")
    assert [(r.number, r.fields["prompt"]) for r in rows_of(path)] == [(1, "one"), (3, "  two  ")]


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm_engine.machine.texts.MAX_LINE_BYTES", 100)
    path = tmp_path / "a.txt"
    path.write_text("x" * 1000 + "\nshort\n" + "y" * 99 + "\n")
    rows = rows_of(path)
    assert [(r.number, r.fields is None) for r in rows] == [(1, True), (2, False), (3, False)]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table(
        {
            "prompt": ["a", None, "c"],
            "seed": [1.0, None, float("nan")],
            "when": pyarrow.array([0, 1, None], pyarrow.timestamp("s")),
            "tags": [["x"], [], None],
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    rows = rows_of(tmp_path / "a.parquet")
    assert [r.number for r in rows] == [1, 2, 3]
    (task,) = READER.tasks(1, rows[0].fields)
    assert (task.values["seed"], task.extra["tags"]) == (1, ["x"])
    assert "1970" in task.extra["when"]
    assert READER.tasks(3, rows[2].fields)[0].values["seed"] == identify("3").seed
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(JobsError, match="not Parquet"):
        rows_of(tmp_path / "b.parquet")


def test_parquet_values_that_python_does_not_know(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    not_utf8 = pyarrow.Array.from_buffers(
        pyarrow.string(),
        2,
        [None, pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xff\xfe")],
    )
    columns = {
        "when": pyarrow.array([1, 1001], pyarrow.timestamp("ns")),
        "time": pyarrow.array([1, 1001], pyarrow.time64("ns")),
        "far": pyarrow.array([10**9, 0], pyarrow.date32()),
        "where": pyarrow.array([0, None], pyarrow.timestamp("s", "No/Where")),
        "text": not_utf8,
    }
    for name, column in columns.items():
        parquet.write_table(
            pyarrow.table({"prompt": ["a", "b"], name: column}), tmp_path / "a.parquet"
        )
        first, second = rows_of(tmp_path / "a.parquet")
        assert second.fields["prompt"] == "b"
        if name in ("when", "time"):
            assert first.fields[name].endswith("00:00:00.000000001")
        else:
            assert f"its column '{name}' cannot be read" in first.fault


def test_parquet_columns_have_different_names(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    names = ["prompt", "id", "id"]
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names)
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(JobsError, match="several columns of one name"):
        rows_of(tmp_path / "a.parquet")


def test_a_url_is_taken_as_it_is(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    url = f"memory://{tmp_path}/jobs[1].txt"
    fsspec.filesystem("memory").pipe_file(url, b"one\n")
    for name in (url, f"simplecache::{url}"):
        assert [row.fields for row in rows_of(name)] == [{"prompt": "one"}]


def test_whatever_a_file_system_raises_is_told(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFile

    url = f"memory://{tmp_path}/jobs.txt"
    fsspec.filesystem("memory").pipe_file(url, b"one\n")

    def fail(*_):
        raise RuntimeError("the connection was reset")

    monkeypatch.setattr(MemoryFile, "read", fail, raising=False)
    with pytest.raises(JobsError, match="the connection was reset"):
        rows_of(url)


def test_ids_of_a_column_of_floats_are_whole_numbers():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": [1, 2, None], "prompt": ["a", "b", "c"], "seed": [3, None, 4]})
    failures, _, tasks = survey(frame.to_dict("records"))
    assert not failures
    assert [task.identity.id for task in tasks] == ["1", "2", "3"]
    assert [task.values["seed"] for task in tasks] == [3, identify("2").seed, 4]


def test_values_of_numpy_are_read():
    row = {"prompt": np.str_("a"), "id": np.int64(7), "seed": np.uint32(5), "eta": np.float32(0.5),
           "height": np.float64(64), "note": np.array([1, 2]), "nothing": np.nan}  # fmt: skip
    (task,) = survey([row])[2]
    assert (task.identity.id, task.values["seed"], task.values["eta"]) == ("7", 5, 0.5)
    assert task.extra == {"note": [1, 2], "nothing": None}
    json.dumps(task.extra)


@pytest.mark.parametrize(
    "line",
    ['{"prompt": "a", "seed": 1, "seed": 2}', '{"prompt": "a", "x": [{"seed": 1, "seed": 1}]}'],
)
def test_a_key_that_is_there_twice_is_a_failure(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f'{line}\n{{"prompt": "b"}}\n')
    first, second = rows_of(tmp_path / "a.jsonl")
    assert "the key 'seed' twice" in first.fault
    assert second.fields == {"prompt": "b"}


def test_a_carriage_return_within_a_line_of_text_is_a_failure(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\rb\nc\r\n")
    first, second = rows_of(tmp_path / "a.txt")
    assert "carriage return" in first.fault
    assert second.fields == {"prompt": "c"}


def test_rows_of_several_files_are_numbered_on(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"prompt": "c"}\n{\n')
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n')
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "d"}\n'))
    for jobs in (tmp_path, tmp_path / "*.jsonl*"):
        rows = rows_of(jobs)
        assert [row.number for row in rows] == [1, 3, 4, 5, 6]
        assert [(row.fields or {}).get("prompt") for row in rows] == ["a", "b", "c", None, "d"]
        assert f"(row 2 of {tmp_path / 'b.jsonl'})" in rows[3].fault
    (tmp_path / "d.txt").write_text("x")
    with pytest.raises(InvalidArgumentError, match="2 formats"):
        check_jobs(tmp_path, None)
    with pytest.raises(JobsError, match="matches no file"):
        check_jobs(tmp_path / "x*.csv", None)


@pytest.mark.parametrize(
    ("name", "format_name"),
    [("a.TSV", "tsv"), ("a.jsonl.gz", "jsonl"), ("a.csv.zst", "csv"), ("a.b.txt", "text")],
)
def test_the_format_is_seen_from_the_name(tmp_path, name, format_name):
    (tmp_path / name).write_bytes(b"x")
    assert check_jobs(tmp_path / name, None) == format_name
    assert check_jobs(f"file://{tmp_path}/{name}", None) == format_name


@pytest.mark.parametrize(
    ("content", "format_name"),
    [
        (b'\xef\xbb\xbf\n {"prompt": "a"}\n', "jsonl"),
        (b"id,prompt\n1,a\n", "csv"),
        (b"sep=;\nid;prompt\n1;a\n", "csv"),
        (b"Prompt, id\na,1\n", "csv"),
        (b"prompt\na\n", "csv"),
        (b"id\tprompt\n1\ta\n", "tsv"),
        (b"a cat, a dog\na prompt, too\n", "text"),
        (b"", "text"),
        ("id,prompt\n1,a\n".encode("utf-16"), "csv"),
        (gzip.compress(b'{"prompt": "a"}'), "jsonl"),
        (b"PAR1\x15", "parquet"),
    ],
)
def test_standard_input_is_kept_and_its_format_seen(content, format_name):
    with spooled(io.BytesIO(content), None) as (path, found):
        assert found == format_name
        assert Path(path).read_bytes() == content
        assert check_jobs(path, found) == format_name
    assert not Path(path).exists()
    with spooled(io.BytesIO(content), "text") as (_, found):
        assert found == "text"


@pytest.mark.parametrize("content", [b'[{"prompt": "a"}]', b"[", b'[\n {"prompt": "a"}\n]'])
def test_a_json_array_on_standard_input_is_no_prompt(content):
    with pytest.raises(JobsError, match="JSON array"), spooled(io.BytesIO(content), None):
        pass
    with spooled(io.BytesIO(b"[photo] a cat"), None) as (_, found):
        assert found == "text"


def test_a_field_that_no_row_before_has_is_a_failure_under_strict():
    jobs = [
        {"prompt": "a", "shelf": 1}, {"prompt": "b"}, {"prompt": "c", "shelf": None},
        {"prompt": "d", "shlef": 2}, {"prompt": "e", "shlef": 2}, {"prompt": "f", "sede": 3},
    ]  # fmt: skip
    failures, found, _ = survey(jobs, strict=True)
    assert [f["row"] for f in failures] == [4, 6]
    assert "`shlef`" in failures[0]["error"]
    assert found.fields == {"shelf"}
    failures, _, _ = survey(jobs)
    assert [f["row"] for f in failures] == [6]


def test_all_images_have_the_columns_of_all_rows():
    _, _, tasks = survey(["a", {"prompt": "b", "x": 1}, {"prompt": "c", "y": None}])
    assert [task.extra for task in tasks] == [
        {"x": None, "y": None}, {"x": 1, "y": None}, {"x": None, "y": None}
    ]  # fmt: skip
    assert [task.extra for task in survey(["a", {"prompt": "b", "seed": 1}])[2]] == [{}, {}]
    many = [{"prompt": "a", f"x{i}": i} for i in range(300)]
    extras = [task.extra for task in survey(many)[2]]
    assert [extra[f"x{i}"] for i, extra in enumerate(extras)] == list(range(300))
    assert {len(extra) for extra in extras[:256]} == {256}  # and no more: they would be lists


def test_unknown_files_are_refused(tmp_path):
    (tmp_path / "jobs.xyz").write_text("a")
    with pytest.raises(InvalidArgumentError, match="jsonl"):
        check_jobs(tmp_path / "jobs.xyz", None)
    assert check_jobs(tmp_path / "jobs.xyz", "text") == "text"
    with pytest.raises(JobsError, match="no job file"):
        check_jobs(tmp_path / "nowhere.jsonl", None)
    with pytest.raises(ArgumentTypeError, match="list"):
        check_jobs(iter([]), None)


def test_double_ids_are_failures_whoever_comes_first():
    jobs = [
        {"prompt": "a", "id": "x", "num_images": 3},
        {"prompt": "b", "id": "x-2"},
        {"prompt": "c", "id": "x"},
        "d",
        {"prompt": "e", "id": "y-2"},
        {"prompt": "f", "id": "y", "num_images": 2},
        {"prompt": "g", "id": 4},
    ]
    failures, found, tasks = survey(jobs)
    assert [f["row"] for f in failures] == [2, 3, 6, 7]
    assert [t.identity.id for t in tasks] == ["x", "x-2", "x-3", "4", "y-2"]
    assert (found.total, found.to_do, found.bad_rows) == (5, 5, 4)


@given(st.integers(1, 9))
def test_shards_share_out_images_and_failures(count):
    jobs = [{"prompt": "a", "id": i % 50, "num_images": 1 + i % 3} for i in range(70)]
    jobs += [{"prompt": 1}] * 5
    failures, _, tasks = survey(jobs)
    parts = [survey(jobs, f"{i + 1}/{count}") for i in range(count)]
    rows = sorted(f["row"] for part in parts for f in part[0])
    assert rows == [f["row"] for f in failures]
    ids = sorted(t.identity.id for part in parts for t in part[2])
    assert ids == sorted(t.identity.id for t in tasks)
    assert sum(part[1].total for part in parts) == len(tasks)


@pytest.mark.parametrize(
    "text",
    ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", "", "1/9999999", f"1/{'9' * 5000}"],
    ids=lambda text: text[:10],
)
def test_a_shard_is_i_of_n(text):
    with pytest.raises(InvalidArgumentError, match="i/n"):
        Shard.parse(text)


@pytest.mark.parametrize("name", ["id", "seed", "guidance_scale", "note"])
def test_numbers_that_python_does_not_write_are_failures(name):
    failures, found, _ = survey([{"prompt": "a", name: 10**5000}, "b"])
    assert (found.total, found.bad_rows) == (1, 1)
    assert f"'{name}' has thousands of digits" in failures[0]["error"]


def test_what_is_told_of_a_row_is_short():
    failures, _, _ = survey([{"prompt": "a", **{f"{i}" * 100: {1} for i in range(10_000)}}])
    assert len(failures[0]["error"]) < 1000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3)
    ),
    max_leaves=6,
)
ROWS = st.dictionaries(st.sampled_from([*job_fields(), "note", ""]), JSON, max_size=6)


def _hold(failures, found, tasks, rows):
    """Every row is either a failure or gives images, and names stay inside."""
    assert found.total == len(tasks)
    assert {f["row"] for f in failures} | {t.row for t in tasks} <= set(range(1, rows + 2))
    for failure in failures:
        assert failure["error"]
        json.dumps(failure).encode()
    stems = [t.identity.stem for t in tasks]
    assert len(set(stems)) == len(stems)
    for stem in stems:
        assert ".." not in stem.split("/")
        assert stem.count("/") == 1


@given(st.lists(ROWS, max_size=8))
def test_no_row_ends_in_a_traceback(rows):
    _hold(*survey(rows), len(rows))


@given(content=st.binary(max_size=400) | st.lists(ROWS, max_size=5).map(
    lambda rows: "\n".join(json.dumps(r) for r in rows).encode()
))  # fmt: skip
@pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".csv", ".parquet"])
def test_no_file_ends_in_a_traceback(tmp_path_factory, suffix, content):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("jobs") / f"a{suffix}"
    path.write_bytes(content)
    try:
        failures, found, tasks = survey(path, jobs_format=check_jobs(path, None))
    except JobsError:
        return
    _hold(failures, found, tasks, content.count(b"\n") + content.count(b"\r") + 1)


@given(
    st.sampled_from(["timestamp[ns]", "time64[ns]", "duration[s]", "date32", "date64", "uint64"]),
    st.lists(st.none() | st.integers(0, 2**62), max_size=4),
)
def test_no_parquet_column_ends_in_a_traceback(tmp_path_factory, kind, values):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path_factory.mktemp("jobs") / "a.parquet"
    type_ = pyarrow.type_for_alias(kind)
    column = pyarrow.array([v and v % 2**31 if kind == "date32" else v for v in values], type_)
    parquet.write_table(pyarrow.table({"prompt": ["a"] * len(values), "x": column}), path)
    _hold(*survey(path, jobs_format="parquet"), len(values))


@given(st.lists(st.lists(st.text(max_size=20), min_size=3, max_size=3), max_size=6))
def test_csv_files_as_python_writes_them(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("jobs") / "a.csv"
    content = io.StringIO(newline="")
    csv.writer(content).writerows([["prompt", "id", "seed"], *cells])
    path.write_bytes(content.getvalue().encode(errors="surrogatepass"))
    failures, found, tasks = survey(path, jobs_format="csv")
    _hold(failures, found, tasks, content.getvalue().count("\n") + 1)
