"""What is written is read back; anything else is refused by what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ldm_engine.benchmarking.document import read_results, to_json
from ldm_engine.benchmarking.results import Failure
from ldm_engine.errors import ResultsError
from ldm_engine.sampling import settings
from ldm_engine.sampling.settings import Setting
from made_results import made_measurement, made_results

RESULTS = replace(
    made_results(made_measurement(1), made_measurement(2)),
    failures=(Failure("paddle", "bf16", 8, "its process was killed"),),
)


@pytest.fixture
def refused(tmp_path):
    """The message with which a file of this content is refused."""

    def refuse(content):
        path = tmp_path / "old.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ResultsError) as caught:
            read_results(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    return refuse


def test_what_is_written_is_read_back_to_the_nanosecond(tmp_path):
    (tmp_path / "results.json").write_text(to_json(RESULTS))
    again = read_results(tmp_path / "results.json")
    assert replace(again, measurements=()) == replace(RESULTS, measurements=())
    for read, given in zip(again.measurements, RESULTS.measurements, strict=True):
        assert str(read) == str(given)
        for stage, samples in given.samples_s.items():
            assert read.samples_s[stage] == pytest.approx(samples, abs=1e-9)


def test_a_later_setting_of_images_is_one_of_the_document(tmp_path, monkeypatch):
    """An older document was measured with its default."""
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(to_json(RESULTS))
    later = Setting("solver", str, "Solver.", default="ddim")
    monkeypatch.setattr(settings, "SETTINGS", [*settings.SETTINGS, later])
    found = read_results(old)
    assert found.settings.call == {**RESULTS.settings.call, "solver": "ddim"}
    assert found.settings.work["--solver"] == "ddim"
    call = {**found.settings.call, "solver": "other"}
    new.write_text(to_json(replace(found, settings=replace(found.settings, call=call))))
    assert read_results(new).settings.call["solver"] == "other"


def test_half_a_file_is_refused(refused):
    whole = to_json(RESULTS)
    for length in range(0, len(whole) - 2, len(whole) // 40):
        assert "only a part" in refused(whole[:length])


@pytest.mark.parametrize("content", ["[1]", "{}", '{"format": "other"}', "null", '"text"'])
def test_foreign_json_is_refused(refused, content):
    assert "not of `ldm-engine bench`" in refused(content)


@pytest.mark.parametrize("content", [b"\xff\xfe", "[" * 200_000, "{'a': 1}"])
def test_what_is_no_json_is_refused(refused, content):
    assert "no JSON document" in refused(content)


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_another_version_is_refused(refused, version):
    content = {**json.loads(to_json(RESULTS)), "format_version": version}
    assert f"format version {version!r}" in refused(json.dumps(content))


def _places(value, place=()):
    """Every key of a document, as a path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*place, key)
            yield from _places(inner, (*place, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from _places(value[0], (*place, 0))


def _edited(place, edit):
    content = json.loads(to_json(RESULTS))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    edit(inner, place[-1])
    return json.dumps(content)


LATER = {"solver": "ddim", "timesteps": None}  # which older documents lack
FREE = ("machine", "versions")  # what they hold is anybody's
PLACES = [
    place
    for place in _places(json.loads(to_json(RESULTS)))
    if not (place[0] in FREE and len(place) > 1) and place[0] not in ("format", "format_version")
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_missing_or_foreign_value_is_named(refused, tmp_path, place):
    name = str(place[-1])
    if name in LATER:
        (tmp_path / "older.json").write_text(_edited(place, dict.pop))
        assert read_results(tmp_path / "older.json").settings.call[name] == LATER[name]
    else:
        assert f"`{name}` is missing" in refused(_edited(place, dict.pop))
    wrong = _edited(place, lambda inner, key: inner.__setitem__(key, [None]))
    assert f"`{name}`" in refused(wrong)


@pytest.mark.parametrize("samples", [[], [0.1, -0.1], [0.0], [float("nan")], ["0.1"], [True]])
def test_samples_are_positive_seconds(refused, samples):
    place = ("measurements", 0, "samples_s", "unet")
    message = refused(_edited(place, lambda inner, key: inner.__setitem__(key, samples)))
    assert "`unet`" in message


def test_a_number_beyond_floats_is_refused(refused):
    place = ("measurements", 0, "load_s")
    assert "damaged" in refused(_edited(place, lambda inner, key: inner.__setitem__(key, 10**400)))


def test_what_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ResultsError, match="cannot be read"):
            read_results(path)
