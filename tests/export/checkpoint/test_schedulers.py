"""Configs of any scheduler, held to what diffusers' DDIMScheduler makes of them."""

from __future__ import annotations

import inspect
import json
import warnings

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_engine import NoiseSchedule
from ldm_engine.errors import ConfigError
from ldm_engine.sampling.solvers import ddim_rows
from ldm_export.checkpoint.schedulers import CLASSES, ddim_config
from random_checkpoint import SCHEDULER

diffusers.logging.set_verbosity_error()  # it names ignored keys, of which there are many here
# diffusers folds the scalars of a step in float32.
STEP_TOLERANCE = 2e-4
#: Needs a package that is not installed; its arguments are those of the others.
UNAVAILABLE = {"DPMSolverSDEScheduler"}
#: What the fields that DDIM reads may hold here.
FIELDS = {
    "num_train_timesteps": st.sampled_from([100, 999, 1000]),
    "beta_start": st.sampled_from([0.0001, 0.00085, 0.00085, 0.001]),
    "beta_end": st.sampled_from([0.012, 0.02]),
    "beta_schedule": st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    "clip_sample": st.sampled_from([False, False, False, True, None]),
    "set_alpha_to_one": st.sampled_from([False, True, None, 1]),
    "steps_offset": st.sampled_from([0, 1, 2]),
    "prediction_type": st.sampled_from(["epsilon", "epsilon", "v_prediction"]),
    "timestep_spacing": st.sampled_from(["leading", "linspace", "trailing"]),
    "thresholding": st.sampled_from([False, None, True]),
    "rescale_betas_zero_snr": st.sampled_from([False, False, True]),
    "use_karras_sigmas": st.booleans(),
    "solver_order": st.integers(1, 3),
    "skip_prk_steps": st.booleans(),
    "final_sigmas_type": st.sampled_from(["zero", "sigma_min"]),
    "clip_sample_range": st.floats(0.5, 2),
}


def rows(config, count, eta=0.0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ddim_rows(NoiseSchedule.from_config(ddim_config(config)[0]), count, eta)


def assert_steps_are_diffusers_own(config, count, eta):
    reference = diffusers.DDIMScheduler.from_config(config)
    reference.set_timesteps(count)
    made = rows(config, count, eta)
    assert [row.timestep for row in made] == reference.timesteps.tolist()
    stream = np.random.RandomState(0)
    x, eps, z = (stream.standard_normal((1, 4, 4, 4)).astype(np.float32) for _ in range(3))
    x *= 3  # so that clipping would show
    for row in (made[0], made[len(made) // 2], made[-1]):
        noise = torch.tensor(z)
        expected = reference.step(
            torch.tensor(eps), row.timestep, torch.tensor(x), eta=eta, variance_noise=noise
        ).prev_sample.numpy()
        given = row.a * x + row.b[0] * (row.p * x + row.q * eps) + row.s * z
        assert np.abs(given - expected).max() / np.abs(expected).max() < STEP_TOLERANCE, row


@pytest.mark.parametrize("name", CLASSES)
def test_the_published_schedule_under_the_name_of_another_class(name):
    assert_steps_are_diffusers_own({**SCHEDULER, "_class_name": name}, 7, 0.5)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - UNAVAILABLE))
def test_what_a_class_saves_by_itself(name, tmp_path):
    """DDIM, made from its config, would clip; a class that has no such field does not."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}
    made = getattr(diffusers, name)(**betas)
    made.save_config(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    if getattr(made.config, "clip_sample", False):
        with pytest.raises(ConfigError, match="clip_sample"):
            rows(saved, 7)
        return
    assert_steps_are_diffusers_own({"clip_sample": False, **saved}, 7, 0.5)
    assert rows(saved, 7, 0.5) == rows({"clip_sample": False, **saved}, 7, 0.5)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - UNAVAILABLE))
def test_what_a_pipeline_saves_after_its_scheduler_was_exchanged(name, tmp_path):
    published = diffusers.DDIMScheduler.from_config(SCHEDULER)
    getattr(diffusers, name).from_config(published.config).save_config(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_class_name"] == name
    for count in (1, 7, 50):
        assert_steps_are_diffusers_own(saved, count, 0.3)


@settings(max_examples=100)
@given(st.sampled_from(CLASSES), st.fixed_dictionaries({}, optional=FIELDS), st.integers(1, 60))
def test_any_config_gives_diffusers_steps_or_is_refused(name, fields, count):
    config = {"_class_name": name, **fields}
    try:
        made = rows(config, count)
    except ConfigError as error:
        refusal = str(error)
    else:
        assert len(made) == count
        assert_steps_are_diffusers_own({"clip_sample": False, **config}, count, 0.2)
        return
    assert any(f"`{key}`" in refusal for key in (*fields, "clip_sample"))


@pytest.mark.parametrize("name", sorted(set(CLASSES) - UNAVAILABLE))
def test_no_class_has_a_field_that_is_not_known(name):
    """A new one in a new release fails here: decide whether it changes the noise schedule."""
    arguments = inspect.signature(getattr(diffusers, name).__init__).parameters
    fields = {key: None for key in arguments if key not in ("self", "kwargs")}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ddim_config({"_class_name": name, **fields, "clip_sample": False})
    assert not [w for w in caught if "does not read" in str(w.message)]


def test_another_class_is_named_once_and_its_solver_replaced():
    config = {**SCHEDULER, "_class_name": "PNDMScheduler", "skip_prk_steps": True, "decay": 0.9}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made, notes = ddim_config(config)
    assert made["_class_name"] == "DDIMScheduler"
    assert "skip_prk_steps" not in made
    assert ["`decay`" in str(w.message) for w in caught] == [True]
    assert ["PNDMScheduler" in note and "DDIM" in note for note in notes] == [True]


def test_the_class_of_the_index_is_looked_at():
    assert ddim_config(SCHEDULER, "DDIMScheduler") == (SCHEDULER, [])
    made, notes = ddim_config(SCHEDULER, "PNDMScheduler")
    assert made == SCHEDULER
    assert "PNDMScheduler" in notes[0]
    with pytest.raises(ConfigError, match="LCMScheduler"):
        ddim_config(SCHEDULER, "LCMScheduler")
    with pytest.raises(ConfigError, match="LCMScheduler"):
        ddim_config({**SCHEDULER, "_class_name": "LCMScheduler"}, "DDIMScheduler")


def test_a_config_of_ddim_stays_as_it_is():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ddim_config(SCHEDULER) == (SCHEDULER, [])
        assert ddim_config({**SCHEDULER, "clip_sample": None}) == (SCHEDULER, [])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"_class_name": "LCMScheduler"}, "LCMScheduler.*PNDMScheduler"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        ({"_class_name": None}, "None"),
        ({"_class_name": ["DDIMScheduler"]}, "DDIMScheduler"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas"),
        ({"predict_epsilon": False}, "predict_epsilon"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type"),
    ],
)
def test_other_kinds_of_models_are_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=named):
        ddim_config({**SCHEDULER, **changes})
