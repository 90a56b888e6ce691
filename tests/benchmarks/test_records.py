"""A run's file survives what happens to files, and says what is wrong with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from ldm_engine.errors import ResultsError
from records import Records, locked


def test_what_was_added_is_found_again(tmp_path):
    records = Records(tmp_path / "samples.jsonl")
    records.add("timing", peer="a", samples=[1, 2])
    records.add("timing", peer="b", samples=[3])
    again = Records(tmp_path / "samples.jsonl")
    assert again.find("timing", peer="b")["samples"] == [3]
    assert len(again.all("timing")) == 2
    assert again.find("timing", peer="c") is None
    assert again.all("start") == []


def test_a_half_line_gives_way_to_the_next_record(tmp_path):
    path = tmp_path / "samples.jsonl"
    Records(path).add("timing", peer="a")
    path.write_bytes(path.read_bytes() + b'{"kind": "timi')
    records = Records(path)
    assert len(records.all("timing")) == 1
    records.add("timing", peer="b")
    assert [r["peer"] for r in Records(path).all("timing")] == ["a", "b"]


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b'{"kind": 3}', b"\xff", b"nonsense"])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b'{"kind": "timing"}\n' + line + b"\n" + b'{"kind": "timing"}\n')
    with pytest.raises(ResultsError, match="Line 2 of"):
        Records(path)


def test_a_folder_in_the_way_is_named(tmp_path):
    with pytest.raises(ResultsError, match="cannot be read"):
        Records(tmp_path)


def test_what_json_does_not_have_is_refused_before_it_is_written(tmp_path):
    path = tmp_path / "samples.jsonl"
    with pytest.raises(ValueError, match="JSON"):
        Records(path).add("timing", error=math.nan)
    assert not path.exists()


@dataclass(frozen=True)
class Sample:
    peer: str
    seconds: float
    solver: str = "ddim"


def test_records_are_read_as_what_they_are(tmp_path):
    records = Records(tmp_path / "samples.jsonl")
    records.add("start", peer="a", seconds=1, round=0)
    records.add("start", peer="b", seconds=2, solver="fitted")
    # Older records lack what was added since, which has a default.
    assert records.read("start", Sample) == [Sample("a", 1.0), Sample("b", 2.0, "fitted")]
    records.add("start", peer="b", seconds="soon")
    with pytest.raises(ResultsError, match=r"samples.jsonl is damaged .* `seconds` .* 'soon'"):
        records.read("start", Sample)


def test_one_process_at_a_time(tmp_path):
    with locked(tmp_path), pytest.raises(ResultsError, match="Another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
