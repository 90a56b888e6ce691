"""The denoising loop over one UNet program: guidance and a weighted sum, in place in its buffers.

It knows no solver: what to do is in the rows (``solvers.py``). Its twins are
``cpp/src/sampling/loop.cpp`` and ``examples/browser/ldm.mjs``; ``tests/data/loop.json`` holds them
to the same latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..runtimes.base import Program
from .noise import NoiseStream
from .solvers import Row


@dataclass(frozen=True)
class Known:
    """Latents of which a part is known, and stays at the noise level that each step leads to."""

    keep: NDArray[np.bool_]  #: [B, 1, h, w], which part
    image: NDArray[np.float32]  #: [B, 4, h, w] without noise
    noise: NDArray[np.float32]  #: [B, 4, h, w] that the latents began with
    levels: Sequence[tuple[float, float]]  #: after each step, the weights of image and noise


def denoise(
    unet: Program,
    rows: Sequence[Row],
    time_shift: NDArray[np.float32],
    guidance: NDArray[np.float32] | None,
    noise: NoiseStream,
    known: Known | None = None,
) -> Iterator[int]:
    """Denoise ``unet.inputs["latents"]`` in place; gives the index of each step when it is done.

    Between two steps the latents may be read and edited, and the loop may be left.
    ``unet.inputs["text_kv"]`` is written by the caller, once, and read by the first step alone
    where the UNet runs on a device with memory of its own. The body allocates nothing that grows
    with the image or the step count.

    Args:
        unet: allocated for latents [B, 4, h, w] and text_kv [B or, with guidance, 2B, T, .].
        rows: of the solver, one a step.
        time_shift: [S, .], row i for step i.
        guidance: [B, 1, 1, 1] or None.
        noise: positioned after the initial latents.
        known: what is restored after each step.
    """
    latents = unet.inputs["latents"]  # [B, 4, h, w]
    length = max((len(row.b) for row in rows), default=0)
    history = [np.zeros_like(latents) for _ in range(length)]  # a ring; step i writes i % length
    scratch = np.zeros_like(latents)
    restored = None if known is None else np.zeros_like(latents)
    for index, row in enumerate(rows):
        np.copyto(unet.inputs["time_shift"], time_shift[index : index + 1])
        unet.run(unchanged=("text_kv",) if index else ())
        m = history[index % length]
        np.multiply(guided(unet.outputs["noise_pred"], guidance), row.q, out=m)
        if row.p:
            np.multiply(latents, row.p, out=scratch)
            m += scratch
        latents *= row.a
        for age, weight in enumerate(row.b):
            np.multiply(history[(index - age) % length], weight, out=scratch)
            latents += scratch
        if row.adds_noise:
            noise.fill(scratch, row.drawing)
            scratch *= row.s
            latents += scratch
        if known is not None and restored is not None:
            of_image, of_noise = known.levels[index]
            np.multiply(known.image, of_image, out=restored)
            np.multiply(known.noise, of_noise, out=scratch)
            restored += scratch
            np.copyto(latents, restored, where=known.keep)
        yield index


def guided(
    noise_pred: NDArray[np.float32], guidance: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """The prediction [B, 4, h, w], made in place from [unconditional, text] under guidance."""
    if guidance is None:
        return noise_pred
    count = len(noise_pred) // 2
    unconditional, prediction = noise_pred[:count], noise_pred[count:]
    prediction -= unconditional
    prediction *= guidance
    prediction += unconditional
    return prediction
