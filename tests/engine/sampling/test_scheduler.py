from __future__ import annotations

import json

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import DATA
from ldm_engine import DDIMScheduler
from ldm_engine.errors import ConfigError, InvalidArgumentError

VECTORS = json.loads((DATA / "scheduler.json").read_text())
CONFIGS = {v["file"]: v["config"] for v in VECTORS}

# diffusers works in float32; folding its scalars differs by a few of float32's rounding steps,
# most where 1 - alphas_cumprod is small.
STEP_TOLERANCE = 2e-4


@pytest.mark.parametrize(
    "vector", VECTORS, ids=lambda v: f"{v['file']}-{v['num_inference_steps']}-{v['eta']}"
)
def test_gives_the_shared_vectors(vector):
    steps = DDIMScheduler.from_config(vector["config"]).steps(
        vector["num_inference_steps"], vector["eta"]
    )
    rows = [[s.timestep, s.latents_scale, s.noise_pred_scale, s.sigma] for s in steps]
    kept = rows if len(rows) <= 50 else rows[:5] + rows[-5:]
    np.testing.assert_allclose(kept, vector["steps"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("count", "eta"), [(1, 0.0), (3, 1.0), (7, 0.3), (50, 0.0), (999, 0.5)])
def test_a_step_is_that_of_diffusers(name, count, eta):
    reference = diffusers.DDIMScheduler.from_config(CONFIGS[name])
    reference.set_timesteps(count)
    steps = DDIMScheduler.from_config(CONFIGS[name]).steps(count, eta)
    assert [s.timestep for s in steps] == reference.timesteps.tolist()
    stream = np.random.RandomState(0)
    x, eps, z = (stream.standard_normal((1, 4, 4, 4)).astype(np.float32) for _ in range(3))
    for step in steps:
        expected = reference.step(
            torch.tensor(eps),
            step.timestep,
            torch.tensor(x),
            eta=eta,
            variance_noise=torch.tensor(z),
        ).prev_sample.numpy()
        given_x = step.latents_scale * x + step.noise_pred_scale * eps + step.sigma * z
        error = np.abs(given_x - expected).max() / np.abs(expected).max()
        assert error < STEP_TOLERANCE, (step, error)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(CONFIGS)), st.integers(1, 1000), st.floats(0, 1))
def test_any_step_count_and_eta_give_a_usable_schedule(name, count, eta):
    steps = DDIMScheduler.from_config(CONFIGS[name]).steps(count, eta)
    timesteps = [s.timestep for s in steps]
    assert len(steps) == count
    assert timesteps == sorted(timesteps, reverse=True)
    assert 0 <= timesteps[-1] <= timesteps[0] <= 999
    scalars = np.array([[s.latents_scale, s.noise_pred_scale, s.sigma] for s in steps])
    assert np.isfinite(scalars).all()
    assert (scalars[:, 2] >= 0).all()
    if eta == 0:
        assert (scalars[:, 2] == 0).all()


@pytest.mark.parametrize("count", [0, -1, 1001, 2.0, True, None, "50", float("nan")])
def test_bad_step_counts_are_refused(count):
    with pytest.raises(InvalidArgumentError, match="1 to 1000"):
        DDIMScheduler.from_config(CONFIGS["huggingface"]).steps(count, 0.0)


@pytest.mark.parametrize("eta", [1.5, -0.1, float("nan"), float("inf"), "0", None, True])
def test_bad_etas_are_refused(eta):
    with pytest.raises(InvalidArgumentError, match="eta"):
        DDIMScheduler.from_config(CONFIGS["huggingface"]).steps(5, eta)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.999), (1e-12, 1e-11)])
def test_betas_that_leave_no_signal_or_no_noise_are_refused(start, end):
    config = {**CONFIGS["huggingface"], "beta_start": start, "beta_end": end}
    with pytest.raises(ConfigError, match="signal"):
        DDIMScheduler.from_config(config)


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
        DDIMScheduler.from_config(config)
    for key in config.keys() - {"beta_start"}:
        assert f"`{key}`" in str(caught.value)
