"""The noise schedule that a model was trained with, and the timesteps of a step count.

Notation, as in the papers and in diffusers' schedulers:

======================  ==================================================================
``alphas_cumprod[t]``    product of ``1 - beta`` up to timestep t
``alpha_cumprod_prev``   the same at the previous (less noisy) timestep of the schedule
======================  ==================================================================

Its twins are ``cpp/src/sampling/schedule.cpp`` and ``examples/browser/schedule.mjs``;
``tests/data/scheduler_configs.json`` holds what they refuse, ``solvers.json`` the timesteps.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .values import is_number, is_whole

_BETA_SCHEDULES = ("linear", "scaled_linear")
_SPACINGS = ("leading", "linspace")
#: Keys of the published files that must have exactly this value; the second is diffusers' default.
_FIXED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "prediction_type": (("epsilon",), "epsilon"),
    "clip_sample": ((False,), True),
    "thresholding": ((False,), False),
    "rescale_betas_zero_snr": ((False,), False),
    "trained_betas": ((None,), None),
}


class Transition(NamedTuple):
    """One step of a sampler: from a timestep to the next, less noisy one."""

    timestep: int
    alpha_cumprod: float  #: at the timestep
    alpha_cumprod_prev: float  #: where the step leads


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise schedule that a checkpoint was trained with."""

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: str
    set_alpha_to_one: bool
    steps_offset: int  #: counts in "leading" spacing alone
    timestep_spacing: str = "leading"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
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
        betas = config.get("beta_schedule", "linear")
        check("beta_schedule", betas, betas in _BETA_SCHEDULES, " or ".join(_BETA_SCHEDULES))
        spacing = config.get("timestep_spacing", "leading")
        check("timestep_spacing", spacing, spacing in _SPACINGS, " or ".join(_SPACINGS))
        steps = config.get("num_train_timesteps", 1000)
        check("num_train_timesteps", steps, is_whole(steps) and 1 <= steps <= 10**6, "1 to 1000000")
        offset = config.get("steps_offset", 0)
        check("steps_offset", offset, is_whole(offset) and offset in (0, 1), "0 or 1")
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
        schedule = cls(steps, float(start), float(end), betas, to_one, offset, spacing)
        alphas = schedule.alphas_cumprod()
        if not (alphas[-1] > 0 and alphas[0] < 1 and np.all(np.diff(alphas) < 0)):
            raise ConfigError(
                f"The scheduler's betas from {start} to {end} over {steps} steps take the signal "
                f"from {alphas[0]:.3g} to {alphas[-1]:.3g}; it must fall with every step, and stay "
                "strictly between 1 and 0. "
                "Use the scheduler_config.json published with the checkpoint."
            )
        return schedule

    def alphas_cumprod(self) -> NDArray[np.float64]:
        """[num_train_timesteps]; float32 precision, as the reference computes it."""
        start, end, count = self.beta_start, self.beta_end, self.num_train_timesteps
        if self.beta_schedule == "scaled_linear":
            betas = np.linspace(math.sqrt(start), math.sqrt(end), count) ** 2
        else:
            betas = np.linspace(start, end, count)
        alphas = np.float32(1.0) - betas.astype(np.float32)
        return np.cumprod(alphas, dtype=np.float64).astype(np.float32).astype(np.float64)

    def timesteps(self, num_inference_steps: int) -> list[int]:
        """Where the model is asked, from noise to image.

        "leading" leaves equal strides and begins at `steps_offset`; "linspace" spreads the steps
        from the first to the last timestep.
        """
        if self.timestep_spacing == "leading":
            stride = self.num_train_timesteps // num_inference_steps
            ascending = [i * stride + self.steps_offset for i in range(num_inference_steps)]
        else:
            spread = np.linspace(0, self.num_train_timesteps - 1, num_inference_steps)
            ascending = [int(timestep) for timestep in spread.round()]
        return ascending[::-1]

    def transitions_over(self, timesteps: Sequence[int]) -> tuple[Transition, ...]:
        """The steps over these descending `timesteps`, and from the last one to the image."""
        alphas = self.alphas_cumprod().tolist()
        final = 1.0 if self.set_alpha_to_one else alphas[0]
        led_to = [alphas[timestep] for timestep in timesteps[1:]] + [final]
        return tuple(
            Transition(timestep, alphas[timestep], then)
            for timestep, then in zip(timesteps, led_to, strict=True)
        )

    def level(self, timestep: int) -> tuple[float, float]:
        """The weights of image and noise at a timestep, ``sqrt(A)`` and ``sqrt(1 - A)``."""
        alpha = float(self.alphas_cumprod()[timestep])
        return math.sqrt(alpha), math.sqrt(1 - alpha)

    def half_log_snr(self) -> list[float]:
        """[num_train_timesteps], ``log(sqrt(A) / sqrt(1 - A))``, descending."""
        return [math.log(math.sqrt(a) / math.sqrt(1 - a)) for a in self.alphas_cumprod().tolist()]

    def log_snr_timesteps(self, num_inference_steps: int) -> list[int]:
        """As many timesteps as steps, evenly spaced in log-SNR from noise to image.

        The first is the last of the training's, the last is 0. Where the spacing is finer than
        timesteps are, they follow each other without a gap: no timestep comes twice.
        """
        values = self.half_log_snr()
        last = num_inference_steps - 1
        span = values[0] - values[-1]
        timesteps: list[int] = []
        for i in range(num_inference_steps):
            wanted = values[-1] + (span * i / last if last else 0.0)
            nearest = _nearest(values, wanted)
            if timesteps:
                nearest = min(nearest, timesteps[-1] - 1)
            timesteps.append(nearest)
        return [max(timestep, last - i) for i, timestep in enumerate(timesteps)]

    def transitions(self, num_inference_steps: int) -> tuple[Transition, ...]:
        """The steps from noise to image.

        `num_inference_steps` is 1 to ``num_train_timesteps``; ``settings.py`` checks it.
        """
        alphas = self.alphas_cumprod()
        final = 1.0 if self.set_alpha_to_one else float(alphas[0])
        stride = self.num_train_timesteps // num_inference_steps
        steps = []
        for timestep in self.timesteps(num_inference_steps):
            previous = timestep - stride  # whatever the spacing, as in diffusers
            # With an offset of 1, as many steps as training steps would begin one past the table.
            timestep = min(timestep, self.num_train_timesteps - 1)
            a_prev = float(alphas[previous]) if previous >= 0 else final
            steps.append(Transition(timestep, float(alphas[timestep]), a_prev))
        return tuple(steps)


def _nearest(descending: Sequence[float], wanted: float) -> int:
    """The index of the value next to `wanted`; of two as near, the later."""
    after = bisect_left(descending, -wanted, key=lambda value: -value)
    if after == len(descending):
        return after - 1
    before = max(after - 1, 0)
    is_after = descending[before] - wanted >= wanted - descending[after]
    return after if is_after else before
