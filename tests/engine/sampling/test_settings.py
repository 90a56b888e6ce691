from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import DATA
from ldm_engine.bundle.model import ModelInfo
from ldm_engine.errors import LDMEngineError
from ldm_engine.sampling import settings
from ldm_engine.sampling.schedule import NoiseSchedule
from ldm_engine.sampling.settings import (
    MAX_SEED,
    SETTINGS,
    Limits,
    Setting,
    as_call,
    batch_key,
    recorded,
    settings_hash,
)

REQUESTS = json.loads((DATA / "requests.json").read_text())
LIMITS = Limits(ModelInfo(**REQUESTS["model"]), NoiseSchedule.from_config(REQUESTS["scheduler"]))
BY_NAME = {setting.name: setting for setting in SETTINGS}
#: Of the settings that there were first, which stand in every record.
FIRST = {
    "prompt": "a fox", "negative_prompt": "", "seed": 7, "num_inference_steps": 50,
    "guidance_scale": 6.0, "eta": 0.0, "height": 256, "width": 256,
}  # fmt: skip
VALUES = {**{name: setting.default for name, setting in BY_NAME.items()}, **FIRST}


def _seeds(seed, count):
    setting = BY_NAME["seed"]
    return [setting.checked(value, LIMITS) for value in setting.spread(setting, seed, count)]


def test_one_seed_counts_up_and_a_list_is_kept():
    assert _seeds(5, 3) == [5, 6, 7]
    assert _seeds([9, 9, 1], 3) == [9, 9, 1]
    assert _seeds(np.array([4, 2]), 2) == [4, 2]
    assert _seeds(MAX_SEED, 1) == [MAX_SEED]


@pytest.mark.parametrize(
    "value", [[999, 20, 3], (999, 20, 3), np.array([999, 20, 3]), "999,20, 3", range(999, 0, -400)]
)
def test_timesteps_are_read_from_any_list(value):
    read = BY_NAME["timesteps"].checked(value, LIMITS)
    assert read == ((999, 599, 199) if isinstance(value, range) else (999, 20, 3))
    assert all(type(timestep) is int for timestep in read)


@pytest.mark.parametrize(
    "value",
    [
        b"\x09\x05", {"900": 1}, {900}, 900, np.array(900), np.array([[900]]), np.array([]), [],
        np.array([900.0]), [True], "900,", "9_99", "\u0669", "+9", " 9", "900;3", "1e2", [[900]],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_list_of_timesteps_is_refused(value):
    with pytest.raises(LDMEngineError, match="a descending list of whole numbers from 999 to 0"):
        BY_NAME["timesteps"].checked(value, LIMITS)


def test_random_seeds_differ():
    first, second = _seeds(None, 4), _seeds(None, 4)
    assert len(set(first + second)) > 4


@pytest.mark.parametrize(
    ("seed", "count", "message"),
    [
        (-1, 1, "-1"),
        (2**32, 1, "4294967295"),
        (MAX_SEED, 2, "4294967296"),
        ([1, 2], 3, "2 seeds for 3 images"),
        ([0, -5], 2, "-5"),
        (1.5, 1, "1.5"),
        (True, 1, "True"),
        ("7", 1, "'7'"),
        ([None], 1, "None"),
    ],
)
def test_bad_seeds_are_refused(seed, count, message):
    with pytest.raises(LDMEngineError, match=message) as caught:
        _seeds(seed, count)
    assert isinstance(caught.value, (ValueError, TypeError))


@given(st.integers(0, MAX_SEED - 8), st.integers(1, 8))
def test_seed_s_of_a_batch_is_seed_s_alone(seed, count):
    assert _seeds(seed, count) == [_seeds(seed + i, 1)[0] for i in range(count)]


def test_are_those_of_the_shared_vectors():
    vectors = json.loads((DATA / "settings.json").read_text())
    assert [vector["name"] for vector in vectors] == list(BY_NAME)
    for vector in vectors:
        setting = BY_NAME[vector["name"]]
        command_default = setting.command_default
        assert vector["default"] == setting.default
        assert vector["command_default"] == (
            setting.default if command_default is None else command_default
        )
        assert vector["minimum"] == setting.minimum
        assert vector["is_per_image"] == (setting.spread is not None)


def test_the_hash_is_that_of_records_written_before():
    """Done images of an earlier version are found by it."""
    assert settings_hash(VALUES).hex() == "8d59f80713057c"


@pytest.mark.parametrize("name", FIRST)
def test_every_setting_changes_the_hash_and_stands_in_the_record(name):
    other = {"prompt": "b", "negative_prompt": "c", "guidance_scale": 2.0, "eta": 0.5}
    changed = {**VALUES, name: other.get(name, 64)}
    assert settings_hash(changed) != settings_hash(VALUES)
    assert recorded(changed) == {n: changed[n] for n in FIRST}


def test_images_that_differ_in_a_setting_of_the_whole_call_share_no_batch(monkeypatch):
    """Also where the author of a setting gave no key."""
    made_up = Setting("style", str, "Which.", default="plain")
    monkeypatch.setattr(settings, "SETTINGS", [*SETTINGS, made_up])
    keys = [batch_key({**VALUES, "style": style}) for style in ("plain", "other", "plain")]
    assert keys[0] == keys[2] != keys[1]
    assert batch_key({**VALUES, "style": "plain", "seed": 9}) == keys[0]


def test_a_call_for_several_images():
    call = as_call([VALUES, {**VALUES, "prompt": "b", "seed": 9}])
    assert call["prompt"] == ["a fox", "b"]
    assert call["seed"] == [7, 9]
    assert call["height"] == 256


#: Adds a setting to the list, as its author would, and does nothing else.
MADE_UP = """
import json, sys
from ldm_engine.sampling import settings
from ldm_engine.sampling.schedule import NoiseSchedule
settings.SETTINGS.append(
    settings.Setting(
        "sharpness", float, "How crisp edges are.", default=0.0, minimum=0, maximum=2,
        accepted="a number from {minimum} to {maximum} is accepted.",
        spread=settings._spread_numbers,
    )
)
from ldm_engine.commands.main import main
sys.argv = ["ldm-engine", *sys.argv[1:]]
main()
"""


def _made_up(*arguments):
    return subprocess.run(
        [sys.executable, "-c", MADE_UP, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.parametrize("command", ["generate", "render"])
def test_a_made_up_setting_is_an_option(command):
    result = _made_up(command, "--help")
    assert "--sharpness" in result.stdout
    assert "How crisp edges are." in result.stdout


@pytest.mark.parametrize("value", ["3", "-1", "nan"])
def test_a_made_up_setting_is_checked_for_its_range(tiny_onnx_bundle, tmp_path, value):
    result = _made_up(
        "generate", tiny_onnx_bundle.path, "a", "--sharpness", value, "--output", tmp_path
    )
    assert result.returncode == 2
    assert "a number from 0 to 2 is accepted" in result.stderr


def test_a_made_up_setting_of_a_job_is_recorded_and_its_change_noticed(tiny_onnx_bundle, tmp_path):
    """In record, recipe and hash; a change of the finished job is a failure, as of any other."""
    jobs, output = tmp_path / "jobs.jsonl", tmp_path / "out"
    options = ("--output", output, "--num-inference-steps", 2, "--batch-size", 1)

    def run(sharpness):
        jobs.write_text(json.dumps({"id": "x", "prompt": "a", "sharpness": sharpness}) + "\n")
        return _made_up("render", tiny_onnx_bundle.path, jobs, *options)

    assert run(1.5).returncode == 0, run(1.5).stderr
    (line,) = (output / "records.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["sharpness"] == 1.5
    assert "extra" not in record
    from PIL import Image

    from ldm_engine.sampling.recipes import RECIPE_KEY

    with Image.open(output / record["path"]) as image:
        assert json.loads(image.info[RECIPE_KEY])["sharpness"] == 1.5
    again = run(1.0)
    assert "1 failure" in again.stdout, again.stdout + again.stderr
    (failure,) = (output / "failures.jsonl").read_text().splitlines()
    assert "another prompt, seed, picture or setting" in json.loads(failure)["error"]
    bad = run(5)
    assert "a number from 0 to 2" in (output / "failures.jsonl").read_text(), bad.stderr


def test_files_stay_as_they_are_where_a_later_setting_has_its_default(tiny_onnx_bundle, tmp_path):
    arguments = ("generate", tiny_onnx_bundle.path, "a", "--seed", 1, "--num-inference-steps", 2)
    _made_up(*arguments, "--output", tmp_path / "with")
    without = [sys.executable, "-c", "from ldm_engine.commands.main import main; main()"]
    subprocess.run(
        [*without, *map(str, arguments), "--output", str(tmp_path / "without")], check=True
    )
    (one,), (other,) = ((tmp_path / n).glob("*.png") for n in ("with", "without"))
    assert one.read_bytes() == other.read_bytes()
