"""DDIM (Song et al. 2021, arXiv:2010.02502) for a step count: immutable coefficients, pure numpy.

Notation, as in the paper and in diffusers' ``DDIMScheduler``:

====================  =====================================================================
``alphas_cumprod[t]``  product of ``1 - beta`` up to timestep t, written a below
``a_prev``             the same at the previous (less noisy) timestep of the schedule
``sigma``              deviation of the noise added: eta sqrt((1-a_prev)/(1-a) (1-a/a_prev))
``x``, ``eps``, ``z``  latents, predicted noise, fresh standard normal noise
====================  =====================================================================

One step is ``x0 = (x - sqrt(1-a) eps) / sqrt(a)`` and then
``x' = sqrt(a_prev) x0 + sqrt(1 - a_prev - sigma^2) eps + sigma z``, which folds into three scalars:
``x' = latents_scale * x + noise_pred_scale * eps + sigma * z``.

The twin in C++ is ``cpp/src/scheduler.cpp``; ``tests/data/scheduler.json`` and
``scheduler_configs.json`` hold both to the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InvalidArgumentError

_BETA_SCHEDULES = ("linear", "scaled_linear")
#: Keys of the published files that must have exactly this value; the second is diffusers' default.
_FIXED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "prediction_type": (("epsilon",), "epsilon"),
    "timestep_spacing": (("leading",), "leading"),
    "clip_sample": ((False,), True),
    "thresholding": ((False,), False),
    "rescale_betas_zero_snr": ((False,), False),
    "trained_betas": ((None,), None),
}


@dataclass(frozen=True)
class DDIMStep:
    """One denoising step; scalars are float64 and applied to float32 latents."""

    timestep: int
    latents_scale: float
    noise_pred_scale: float | NDArray[np.float32]  #: [B, 1, 1, 1] where images differ in eta
    sigma: float | NDArray[np.float32]  #: likewise
    drawing: tuple[bool, ...] | None = None  #: [B], the images with sigma > 0; None: as one

    @property
    def adds_noise(self) -> bool:
        """Whether noise is added to any image."""
        return bool(self.sigma > 0) if self.drawing is None else any(self.drawing)


def batch_steps(schedules: Sequence[Sequence[DDIMStep]]) -> tuple[DDIMStep, ...]:
    """The steps of a batch whose image i follows `schedules[i]`; these differ in eta alone."""
    return tuple(_join(steps) for steps in zip(*schedules, strict=True))


def _join(steps: Sequence[DDIMStep]) -> DDIMStep:
    """One step of each image as one step of the batch."""
    first = steps[0]
    if all(step == first for step in steps):
        return first
    pairs = [(step.noise_pred_scale, step.sigma) for step in steps]
    scales = np.asarray(pairs, dtype=np.float32).T.reshape(2, len(steps), 1, 1, 1)
    drawing = tuple(step.adds_noise for step in steps)
    return DDIMStep(first.timestep, first.latents_scale, scales[0], scales[1], drawing)


@dataclass(frozen=True)
class DDIMScheduler:
    """The noise schedule that a checkpoint was trained with."""

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: str
    set_alpha_to_one: bool
    steps_offset: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DDIMScheduler:
        """Read a published ``scheduler_config.json``; absent keys have diffusers' defaults.

        Raises:
            ConfigError: listing every value that is not supported.
        """
        violations = []

        def check(name: str, value: Any, holds: bool, accepted: str) -> None:
            if not holds:
                violations.append(f"`{name}` is {value!r}; {accepted} is accepted")

        name = config.get("_class_name", "DDIMScheduler")
        check("_class_name", name, name == "DDIMScheduler", "'DDIMScheduler'")
        for key, (accepted, default) in _FIXED.items():
            value = config.get(key, default)
            check(key, value, value in accepted, " or ".join(map(repr, accepted)))
        schedule = config.get("beta_schedule", "linear")
        check("beta_schedule", schedule, schedule in _BETA_SCHEDULES, " or ".join(_BETA_SCHEDULES))
        steps = config.get("num_train_timesteps", 1000)
        check("num_train_timesteps", steps, _is_int(steps) and 1 <= steps <= 10**6, "1 to 1000000")
        offset = config.get("steps_offset", 0)
        check("steps_offset", offset, _is_int(offset) and offset in (0, 1), "0 or 1")
        to_one = config.get("set_alpha_to_one", True)
        check("set_alpha_to_one", to_one, isinstance(to_one, bool), "true or false")
        start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
        for key, beta in (("beta_start", start), ("beta_end", end)):
            holds = is_number(beta) and 0 < beta < 1
            check(key, beta, holds, "a number between 0 and 1")
        if violations:
            listing = "\n".join(f"  - {v}" for v in violations)
            raise ConfigError(
                f"The scheduler config is not one this engine can run:\n{listing}\n"
                "Use the scheduler_config.json published with the checkpoint."
            )
        scheduler = cls(steps, float(start), float(end), schedule, to_one, offset)
        alphas = scheduler.alphas_cumprod()
        if not 0 < alphas[-1] <= alphas[0] < 1:
            raise ConfigError(
                f"The scheduler's betas from {start} to {end} over {steps} steps take the signal "
                f"from {alphas[0]:.3g} to {alphas[-1]:.3g}; it must stay strictly between 1 and 0. "
                "Use the scheduler_config.json published with the checkpoint."
            )
        return scheduler

    def alphas_cumprod(self) -> NDArray[np.float64]:
        """[num_train_timesteps]; float32 precision, as the reference computes it."""
        start, end, count = self.beta_start, self.beta_end, self.num_train_timesteps
        if self.beta_schedule == "scaled_linear":
            betas = np.linspace(math.sqrt(start), math.sqrt(end), count) ** 2
        else:
            betas = np.linspace(start, end, count)
        alphas = np.float32(1.0) - betas.astype(np.float32)
        return np.cumprod(alphas, dtype=np.float64).astype(np.float32).astype(np.float64)

    def steps(self, num_inference_steps: int, eta: float) -> tuple[DDIMStep, ...]:
        """The steps from noise to image, with "leading" timestep spacing.

        Args:
            num_inference_steps: 1 to ``num_train_timesteps``.
            eta: 0 (deterministic DDIM) to 1 (as noisy as DDPM).

        Raises:
            InvalidArgumentError: if either lies outside its range.
        """
        check_num_inference_steps(num_inference_steps, self.num_train_timesteps)
        check_eta(eta)
        alphas = self.alphas_cumprod()
        final = 1.0 if self.set_alpha_to_one else float(alphas[0])
        stride = self.num_train_timesteps // num_inference_steps
        steps = []
        for i in reversed(range(num_inference_steps)):
            timestep = i * stride + self.steps_offset
            previous = timestep - stride
            # With an offset of 1, as many steps as training steps would begin one past the table.
            timestep = min(timestep, self.num_train_timesteps - 1)
            a_prev = float(alphas[previous]) if previous >= 0 else final
            steps.append(_fold(timestep, float(alphas[timestep]), a_prev, eta))
        return tuple(steps)


def _fold(timestep: int, a: float, a_prev: float, eta: float) -> DDIMStep:
    sigma = eta * math.sqrt(max((1 - a_prev) / (1 - a) * (1 - a / a_prev), 0.0))
    direction = math.sqrt(max(1 - a_prev - sigma**2, 0.0))
    latents_scale = math.sqrt(a_prev / a)
    noise_pred_scale = direction - math.sqrt(1 - a) * latents_scale
    return DDIMStep(timestep, latents_scale, noise_pred_scale, sigma)


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether `value` is a real number, of Python or NumPy, and no boolean."""
    real = isinstance(value, (int, float, np.integer, np.floating))
    return real and not isinstance(value, bool)


def check_num_inference_steps(value: Any, maximum: int) -> None:
    """Raise ``InvalidArgumentError`` unless `value` is an integer in 1 .. `maximum`."""
    if not _is_int(value) or not 1 <= value <= maximum:
        raise InvalidArgumentError(
            f"`num_inference_steps` is {value!r}; a whole number from 1 to {maximum} is accepted."
        )


def check_eta(value: Any) -> None:
    """Raise ``InvalidArgumentError`` unless `value` is a number in [0, 1]."""
    if not is_number(value) or not 0 <= value <= 1:
        raise InvalidArgumentError(
            f"`eta` is {value!r}; a number from 0 (deterministic) to 1 (as noisy as DDPM) "
            "is accepted."
        )
