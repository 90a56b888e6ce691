"""The DDIM loop over one UNet program: guidance, update and noise, in place in its buffers.

Its twin in C++ is ``cpp/src/loop.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..runtimes.base import Program
from .noise import NoiseStream
from .scheduler import DDIMStep

#: Called after each step with (step index, timestep, latents); True stops the loop.
StepCallback = Callable[[int, int, NDArray[np.float32]], object]


def run_loop(
    unet: Program,
    steps: Sequence[DDIMStep],
    time_shift: NDArray[np.float32],
    guidance: NDArray[np.float32] | None,
    noise: NoiseStream,
    on_step_end: StepCallback | None = None,
) -> int:
    """Denoise ``unet.inputs["latents"]`` in place and return the number of steps run.

    ``unet.inputs["text_kv"]`` is written by the caller, once, and read by the first step alone
    where the UNet runs on a device with memory of its own. The body allocates nothing that grows
    with the image or the step count.

    Args:
        unet: allocated for latents [B, 4, h, w] and text_kv [B or, with guidance, 2B, T, .].
        steps: the schedule.
        time_shift: [S, .], row i for step i.
        guidance: [B, 1, 1, 1] or None.
        noise: positioned after the initial latents.
        on_step_end: may edit the latents in place, and stops the loop by returning True.
    """
    latents = unet.inputs["latents"]  # [B, 4, h, w]
    noise_pred = unet.outputs["noise_pred"]  # [B or 2B, 4, h, w]
    fresh_noise = np.zeros_like(latents)
    count = len(latents)
    for index, step in enumerate(steps):
        np.copyto(unet.inputs["time_shift"], time_shift[index : index + 1])
        unet.run(unchanged=("text_kv",) if index else ())
        if guidance is not None:
            unconditional, prediction = noise_pred[:count], noise_pred[count:]
            prediction -= unconditional
            prediction *= guidance
            prediction += unconditional
        else:
            prediction = noise_pred
        latents *= step.latents_scale
        prediction *= step.noise_pred_scale
        latents += prediction
        if step.adds_noise:
            noise.fill(fresh_noise, step.drawing)
            fresh_noise *= step.sigma
            latents += fresh_noise
        if on_step_end is not None:
            stop = on_step_end(index, step.timestep, latents)
            if isinstance(stop, (bool, np.bool_)) and stop:
                return index + 1
    return len(steps)
