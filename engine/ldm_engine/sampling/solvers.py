"""Solvers as rows of weights: all that a sampler does at one call of the UNet, as numbers.

One row is applied to the latents x, the prediction eps and fresh standard normal noise z as ::

    m = p * x + q * eps                            what the history keeps
    x = a * x + sum_k b[k] * m[-k] + s * z         m[-0] is this call's m, m[-1] the one before

DDIM (Song et al. 2021, arXiv:2010.02502) keeps the noise form (p = 0, q = 1) and no history::

    x0 = (x - sqrt(1-A) eps) / sqrt(A)                      A: alphas_cumprod at the timestep
    x' = sqrt(A') x0 + sqrt(1 - A' - sigma^2) eps + sigma z A': the same where the step leads
    sigma = eta sqrt((1-A')/(1-A) (1 - A/A'))

DPM-Solver++ of second order (Lu et al. 2022, arXiv:2211.01095; multistep, midpoint) keeps the data
form, the predicted image (p = 1/alpha, q = -sigma/alpha), and one item of history. With
alpha = sqrt(A), sigma = sqrt(1-A), lambda = log(alpha/sigma), h the step in lambda, r the step
before in units of this one, and J = 1 - exp(-h)::

    x' = sigma'/sigma x + alpha' J ((1 + 1/(2r)) m - 1/(2r) m[-1])

Its first step, and its last, which leads to sigma' = 0, are of first order: alpha' J m.

Its twins are ``cpp/src/sampling/solvers.cpp`` and ``examples/browser/schedule.mjs``;
``tests/data/solvers.json`` holds them to the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import LDMEngineError
from .schedule import NoiseSchedule, Transition

FITTED = "fitted"  #: whose rows a bundle brings, see ``fitted.py``
SOLVERS = ("ddim", "dpmsolver++", FITTED)  #: the first is the default

#: One number for all images, or [B, 1, 1, 1] where images differ.
Weight = float | NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One call of the UNet; numbers are float64 and applied to float32 latents."""

    timestep: int
    p: float  #: of the latents, in what the history keeps
    q: float  #: of the prediction, likewise
    a: float  #: of the latents
    b: tuple[Weight, ...]  #: of this call's m, the one before, ...
    s: Weight  #: of fresh noise
    drawing: tuple[bool, ...] | None = None  #: [B], the images with s > 0; None: as one

    @property
    def adds_noise(self) -> bool:
        """Whether noise is added to any image."""
        return bool(self.s > 0) if self.drawing is None else any(self.drawing)


def solver_rows(
    solver: str,
    schedule: NoiseSchedule,
    num_inference_steps: int,
    timesteps: Sequence[int] | None = None,
    eta: float = 0.0,
    last: int | None = None,
) -> tuple[Row, ...]:
    """The rows of a solver from noise to image.

    Args:
        solver: "ddim" or "dpmsolver++".
        schedule: that the model was trained with.
        num_inference_steps: 1 to ``schedule.num_train_timesteps``.
        timesteps: as many as steps, descending; None: as the solver spaces them.
        eta: of DDIM alone, 0 (deterministic) to 1 (as noisy as DDPM).
        last: how many of the steps are taken, the last ones; None: all.
    """
    start = 0 if last is None else num_inference_steps - last
    if solver == "dpmsolver++":
        spaced = timesteps or schedule.log_snr_timesteps(num_inference_steps)
        return dpmsolver_rows(schedule, spaced[start:])
    steps = (
        schedule.transitions(num_inference_steps)
        if timesteps is None
        else schedule.transitions_over(timesteps)
    )
    return tuple(_ddim_row(step, eta) for step in steps[start:])


def ddim_rows(schedule: NoiseSchedule, num_inference_steps: int, eta: float) -> tuple[Row, ...]:
    """DDIM with the schedule's own spacing."""
    return solver_rows("ddim", schedule, num_inference_steps, None, eta)


def _ddim_row(step: Transition, eta: float) -> Row:
    now, prev = step.alpha_cumprod, step.alpha_cumprod_prev
    sigma = eta * math.sqrt(max((1 - prev) / (1 - now) * (1 - now / prev), 0.0))
    direction = math.sqrt(max(1 - prev - sigma**2, 0.0))
    a = math.sqrt(prev / now)
    b = direction - math.sqrt(1 - now) * a
    return Row(timestep=step.timestep, p=0.0, q=1.0, a=a, b=(b,), s=sigma)


def dpmsolver_rows(schedule: NoiseSchedule, timesteps: Sequence[int]) -> tuple[Row, ...]:
    """DPM-Solver++ 2M over these descending `timesteps`, and from the last one to the image."""
    alphas = schedule.alphas_cumprod().tolist()
    points = [_Point.of(alphas[timestep]) for timestep in timesteps] + [_Point(1.0, 0.0, math.inf)]
    rows = []
    for i, timestep in enumerate(timesteps):
        now, then = points[i], points[i + 1]
        h = then.lambda_ - now.lambda_
        weight = then.alpha * -math.expm1(-h)
        b: tuple[float, ...] = (weight,)
        if 0 < i < len(timesteps) - 1:
            half = 0.5 * h / (now.lambda_ - points[i - 1].lambda_)
            b = (weight * (1 + half), -weight * half)
        a = then.sigma / now.sigma
        rows.append(Row(timestep, 1 / now.alpha, -now.sigma / now.alpha, a, b, 0.0))
    return tuple(rows)


def fitted_rows(
    schedule: NoiseSchedule, timesteps: Sequence[int], weights: Sequence[Sequence[float]]
) -> tuple[Row, ...]:
    """Rows with these `weights` a, b[0], b[1], ... of each step, for the data form."""
    forms = dpmsolver_rows(schedule, timesteps)
    return tuple(
        Row(form.timestep, form.p, form.q, a, tuple(b), 0.0)
        for form, (a, *b) in zip(forms, weights, strict=True)
    )


class _Point(NamedTuple):
    """A point of the schedule."""

    alpha: float
    sigma: float
    lambda_: float  #: half the log-SNR

    @classmethod
    def of(cls, alpha_cumprod: float) -> _Point:
        alpha, sigma = math.sqrt(alpha_cumprod), math.sqrt(1 - alpha_cumprod)
        return cls(alpha, sigma, math.log(alpha / sigma))


def join_rows(solvers: Sequence[Sequence[Row]]) -> tuple[Row, ...]:
    """The rows of a batch whose image i follows `solvers[i]`.

    Images share timesteps, p, q and a; their b and s may differ.

    Raises:
        LDMEngineError: if the rows differ in anything else.
    """
    return tuple(_join(rows) for rows in zip(*solvers, strict=True))


def _join(rows: Sequence[Row]) -> Row:
    """One row of each image as one row of the batch."""
    first = rows[0]
    if all(row == first for row in rows):
        return first
    shared = {(row.timestep, row.p, row.q, row.a, len(row.b)) for row in rows}
    if len(shared) > 1:
        raise LDMEngineError(
            f"Images of one batch have solver rows that differ in more than b and s: {shared}. "
            "Render them in batches of their own."
        )
    weights = zip(*([*row.b, row.s] for row in rows), strict=True)
    *b, s = (np.asarray(w, dtype=np.float32).reshape(len(rows), 1, 1, 1) for w in weights)
    drawing = tuple(row.adds_noise for row in rows)
    return Row(first.timestep, first.p, first.q, first.a, tuple(b), s, drawing)
