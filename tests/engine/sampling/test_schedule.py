from __future__ import annotations

import json

import pytest

from conftest import DATA
from ldm_engine import NoiseSchedule
from ldm_engine.errors import ConfigError

CONFIGS = {v["file"]: v["config"] for v in json.loads((DATA / "solvers.json").read_text())}


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.999), (1e-12, 1e-11)])
def test_betas_that_leave_no_signal_or_no_noise_are_refused(start, end):
    config = {**CONFIGS["huggingface"], "beta_start": start, "beta_end": end}
    with pytest.raises(ConfigError, match="signal"):
        NoiseSchedule.from_config(config)


def test_every_unsupported_value_is_named_at_once():
    config = {
        **CONFIGS["huggingface"],
        "_class_name": "PNDMScheduler",
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "clip_sample": True,
        "beta_end": float("nan"),
        "num_train_timesteps": 0,
    }
    with pytest.raises(ConfigError) as caught:
        NoiseSchedule.from_config(config)
    for key in config.keys() - {"beta_start"}:
        assert f"`{key}`" in str(caught.value)
