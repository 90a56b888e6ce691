from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import DATA
from ldm_engine import NoiseSchedule
from ldm_engine.errors import LDMEngineError
from ldm_engine.sampling.solvers import ddim_rows, dpmsolver_rows, join_rows, solver_rows

VECTORS = json.loads((DATA / "solvers.json").read_text())
CONFIGS = {v["file"]: v["config"] for v in VECTORS}

# diffusers works in float32; folding its scalars differs by a few of float32's rounding steps,
# most where 1 - alphas_cumprod is small.
STEP_TOLERANCE = 2e-4


def _rows(config, count, eta):
    return ddim_rows(NoiseSchedule.from_config(config), count, eta)


@pytest.mark.parametrize(
    "vector",
    VECTORS,
    ids=lambda v: f"{v['file']}-{v['solver']}-{v['num_inference_steps']}-{v['eta']}",
)
def test_gives_the_shared_vectors(vector):
    schedule = NoiseSchedule.from_config(vector["config"])
    count, timesteps = vector["num_inference_steps"], vector["timesteps"]
    rows = solver_rows(vector["solver"], schedule, count, timesteps or None, vector["eta"])
    kept = rows if len(rows) <= 50 else rows[:5] + rows[-5:]
    for row, expected in zip(kept, vector["rows"], strict=True):
        assert row.timestep == expected["timestep"]
        given = [row.p, row.q, row.a, *row.b, row.s]
        pinned = [expected["p"], expected["q"], expected["a"], *expected["b"], expected["s"]]
        np.testing.assert_allclose(given, pinned, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("count", "eta"), [(1, 0.0), (3, 1.0), (7, 0.3), (50, 0.0), (999, 0.5)])
def test_a_step_is_that_of_diffusers(name, count, eta):
    reference = diffusers.DDIMScheduler.from_config(CONFIGS[name])
    reference.set_timesteps(count)
    rows = _rows(CONFIGS[name], count, eta)
    assert [row.timestep for row in rows] == reference.timesteps.tolist()
    stream = np.random.RandomState(0)
    x, eps, z = (stream.standard_normal((1, 4, 4, 4)).astype(np.float32) for _ in range(3))
    for row in rows:
        expected = reference.step(
            torch.tensor(eps),
            row.timestep,
            torch.tensor(x),
            eta=eta,
            variance_noise=torch.tensor(z),
        ).prev_sample.numpy()
        given_x = row.a * x + row.b[0] * (row.p * x + row.q * eps) + row.s * z
        error = np.abs(given_x - expected).max() / np.abs(expected).max()
        assert error < STEP_TOLERANCE, (row, error)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(CONFIGS)), st.integers(1, 1000), st.floats(0, 1))
def test_any_step_count_and_eta_give_a_usable_schedule(name, count, eta):
    rows = _rows(CONFIGS[name], count, eta)
    timesteps = [row.timestep for row in rows]
    assert len(rows) == count
    assert timesteps == sorted(timesteps, reverse=True)
    assert 0 <= timesteps[-1] <= timesteps[0] <= 999
    scalars = np.array([[row.a, *row.b, row.s] for row in rows])
    assert np.isfinite(scalars).all()
    assert (scalars[:, 2] >= 0).all()
    if eta == 0:
        assert (scalars[:, 2] == 0).all()


def test_rows_that_cannot_share_a_batch_are_refused():
    row = _rows(CONFIGS["huggingface"], 4, 0.0)[0]
    for other in (replace(row, a=0.5), replace(row, timestep=1), replace(row, b=(1.0, 2.0))):
        with pytest.raises(LDMEngineError, match="batches of their own"):
            join_rows([[row], [other]])


def test_images_of_a_batch_differ_in_their_weights_alone():
    config = CONFIGS["huggingface"]
    same = join_rows([_rows(config, 4, 0.5)] * 3)
    assert same == _rows(config, 4, 0.5)
    joined = join_rows([_rows(config, 4, eta) for eta in (0.0, 0.5)])
    pairs = list(zip(_rows(config, 4, 0.0), _rows(config, 4, 0.5), strict=True))
    assert joined[-1] == pairs[-1][0] == pairs[-1][1]  # the last step adds no noise
    for row, (first, second) in zip(joined[:-1], pairs[:-1], strict=True):
        assert (row.timestep, row.p, row.q, row.a) == (first.timestep, 0.0, 1.0, first.a)
        np.testing.assert_array_equal(row.b[0].reshape(-1), np.float32([first.b[0], second.b[0]]))
        np.testing.assert_array_equal(row.s.reshape(-1), np.float32([0.0, second.s]))
        assert row.drawing == (False, True)


class Reference(diffusers.DPMSolverMultistepScheduler):
    """diffusers' class in float64, over timesteps and with a schedule that it is given."""

    def __init__(self, schedule, timesteps):
        super().__init__(num_train_timesteps=schedule.num_train_timesteps, final_sigmas_type="zero")
        alphas = torch.tensor(schedule.alphas_cumprod()[timesteps])
        self.sigmas = torch.cat(
            [((1 - alphas) / alphas) ** 0.5, torch.zeros(1, dtype=alphas.dtype)]
        )
        self.history = []

    def advance(self, index, eps, sample):
        self._step_index = index
        self.history.append(self.convert_model_output(eps, sample=sample))
        if index == 0 or index == len(self.sigmas) - 2:
            return self.dpm_solver_first_order_update(self.history[-1], sample=sample)
        return self.multistep_dpm_solver_second_order_update(self.history[-2:], sample=sample)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("count", range(2, 51))
def test_dpmsolver_is_that_of_diffusers(config, count):
    schedule = NoiseSchedule.from_config(config)
    timesteps = schedule.log_snr_timesteps(count)
    reference = Reference(schedule, timesteps)
    stream = np.random.RandomState(count)
    x = stream.standard_normal(16)
    expected, history = torch.tensor(x), []
    for index, row in enumerate(dpmsolver_rows(schedule, timesteps)):
        eps = stream.standard_normal(16)
        expected = reference.advance(index, torch.tensor(eps), expected)
        history.insert(0, row.p * x + row.q * eps)
        x = row.a * x + sum(w * m for w, m in zip(row.b, history, strict=False))
    np.testing.assert_allclose(x, expected.numpy(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@given(count=st.integers(1, 1000))
def test_log_snr_timesteps_are_as_many_as_steps(config, count):
    schedule = NoiseSchedule.from_config(config)
    timesteps = schedule.log_snr_timesteps(count)
    assert len(timesteps) == count
    assert timesteps[0] == 999
    assert count == 1 or timesteps[-1] == 0
    assert all(first > second for first, second in pairwise(timesteps))
    values = schedule.half_log_snr()
    wanted = np.linspace(values[-1], values[0], count)
    free = [i for i in range(count) if timesteps[i] != count - 1 - i and i]
    for i in free:
        nearest = int(np.argmin(np.abs(np.array(values) - wanted[i])))
        assert timesteps[i] in (nearest, timesteps[i - 1] - 1)
