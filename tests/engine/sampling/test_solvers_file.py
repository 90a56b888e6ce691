"""The files of fitted solvers that both engines accept and refuse; and their rows."""

from __future__ import annotations

import copy
import json

import pytest

from conftest import DATA
from ldm_engine import NoiseSchedule
from ldm_engine.bundle.seals import sealed
from ldm_engine.errors import BundleError, InvalidArgumentError
from ldm_engine.sampling.fitted import Tables
from ldm_engine.sampling.solvers_file import SEAL, parse_tables, tables_content

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
    "text", [b"", b"{", b"[]", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'{"x": "\\ud800"}']
)
def test_what_is_no_such_file_is_refused(text):
    with pytest.raises(BundleError):
        _parse(text)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1" + "0" * 400])
def test_numbers_that_are_not_finite_are_refused(word):
    text = sealed(VECTORS["base"], SEAL).decode().replace("0.25", word, 1)
    content = json.loads(text)
    with pytest.raises(BundleError, match="`weights of step 1` is"):
        _parse(sealed(content, SEAL))


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
    with pytest.raises(InvalidArgumentError, match="ldm-engine fit BUNDLE --guidance 3"):
        tables.fewest(3.0)
    only = Tables(tuple(table for table in tables.tables if table.steps == 3))
    with pytest.raises(InvalidArgumentError, match="reaches DDIM's 50 steps"):
        only.fewest(6.0)
