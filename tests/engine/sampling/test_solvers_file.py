"""The files of fitted solvers that both engines accept and refuse; and their rows."""

from __future__ import annotations

import copy
import json
import os
import re
from dataclasses import replace

import pytest

from conftest import DATA
from ldm_engine import NoiseSchedule
from ldm_engine.bundle.bundle import SOLVERS
from ldm_engine.bundle.seals import sealed
from ldm_engine.errors import BundleError, InvalidArgumentError
from ldm_engine.sampling.fitted import Tables
from ldm_engine.sampling.solvers_file import SEAL, load_tables, parse_tables, tables_content

VECTORS = json.loads((DATA / "solvers_files.json").read_text())
SCHEDULE = NoiseSchedule.from_config(VECTORS["scheduler"])


def _text(case):
    """The file that a case describes."""
    content = json.loads(sealed(VECTORS["base"], SEAL))
    *parents, last = case["path"] or [None]
    place = content
    for key in parents:
        place = place[key]
    if case.get("remove"):
        del place[last]
    elif last is not None:
        place[last] = case["value"]
    return sealed(content, SEAL) if case.get("seal", True) else json.dumps(content).encode()


def _parse(text):
    return parse_tables("solvers.json", text, VECTORS["bundle"], SCHEDULE)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda c: str(c["path"])[:60])
def test_files(case):
    if case["says"] is None:
        _parse(_text(case))
        return
    with pytest.raises(BundleError) as caught:
        _parse(_text(case))
    assert case["says"] in str(caught.value)
    assert str(caught.value).endswith("Fit it again with `ldm-engine fit`, or remove the file.")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"x": "\\ud800"}', b"\xef\xbb\xbf{}"]
)
def test_what_is_no_such_file_is_refused(text):
    with pytest.raises(BundleError, match="Fit it again with `ldm-engine fit`"):
        _parse(text)


@pytest.mark.parametrize("word", ["NaN", "-Infinity", "1e400", "1" * 400])
def test_numbers_that_json_knows_not_are_refused_wherever_they_stand(word):
    text = sealed(VECTORS["base"], SEAL).replace(b"{", b'{"unknown": ' + word.encode() + b",", 1)
    with pytest.raises(BundleError, match="is no number"):
        _parse(text)


def test_what_is_no_file_is_not_waited_for(tiny_bundle, tmp_path):
    bundle = replace(tiny_bundle, path=tmp_path)
    assert load_tables(bundle, SCHEDULE) == Tables()
    os.mkfifo(tmp_path / SOLVERS)
    assert "is not a file" in load_tables(bundle, SCHEDULE).fault
    (tmp_path / SOLVERS).unlink()
    (tmp_path / SOLVERS).mkdir()
    assert "is not a file" in load_tables(bundle, SCHEDULE).fault
    (tmp_path / SOLVERS).rmdir()
    (tmp_path / SOLVERS).symlink_to("/dev/zero")
    assert "is not a file" in load_tables(bundle, SCHEDULE).fault


def test_rows_and_digests_are_those_of_the_shared_vectors():
    tables = _parse(sealed(VECTORS["base"], SEAL))
    assert [table.digest for table in tables] == VECTORS["digests"]
    for table, expected in zip(tables, VECTORS["rows"], strict=True):
        rows = table.rows(SCHEDULE)
        assert [row.timestep for row in rows] == [row["timestep"] for row in expected]
        for row, numbers in zip(rows, expected, strict=True):
            assert [row.p, row.q, row.a, *row.b, row.s] == pytest.approx(
                [numbers[n] for n in ("p", "q", "a")] + numbers["b"] + [numbers["s"]], rel=1e-12
            )


@pytest.mark.parametrize("mixed", VECTORS["mixed"], ids=lambda m: str(m["guidance_scale"]))
def test_guidance_between_two_tables_is_served_by_both(mixed):
    tables = Tables(_parse(sealed(VECTORS["base"], SEAL)))
    assert tables.find(mixed["guidance_scale"], mixed["steps"]).digest == mixed["digest"]


def test_what_is_written_is_read_as_it_was():
    tables = Tables(_parse(sealed(VECTORS["base"], SEAL)))
    text = sealed(tables_content(VECTORS["bundle"], tables), SEAL)
    assert _parse(text) == tables.tables


def test_any_weight_or_timestep_changes_the_digest():
    (first, *_) = _parse(sealed(VECTORS["base"], SEAL))
    for path, value in ((("weights", 1, 2), -0.026), (("timesteps", 1), 501)):
        content = copy.deepcopy(VECTORS["base"])
        place = content["tables"][0]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (changed, *_) = _parse(sealed(content, SEAL))
        assert changed.digest != first.digest


def test_tables_of_the_same_guidance_and_steps_are_replaced():
    one, two, three, *_ = _parse(sealed(VECTORS["base"], SEAL))
    tables = Tables((two,)).merged([three, one])
    assert tables.tables == (one, two, three)
    assert Tables((one, two)).merged([two]).tables == (one, two)


def test_the_fewest_steps_are_those_that_reach_ddim_in_all_figures():
    tables = Tables(_parse(sealed(VECTORS["base"], SEAL)))
    assert tables.fewest(6.0).steps == 4
    assert tables.fewest(2.0).steps == 2
    for given in ("3", "3.0000001", "1.2345678"):
        with pytest.raises(InvalidArgumentError, match=rf"--guidance {re.escape(given)}`"):
            tables.fewest(float(given))
    only = Tables(tuple(table for table in tables.tables if table.steps == 3))
    with pytest.raises(InvalidArgumentError, match="reaches DDIM's 50 steps"):
        only.fewest(6.0)
