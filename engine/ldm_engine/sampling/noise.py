"""The random stream: one seed gives one image, in any batch, runtime and process, and in C++.

Image i owns ``numpy.random.RandomState(seed_i)``: MT19937 and the legacy polar Gaussian, which
NumPy has frozen (NEP 19). It draws the initial latents, then one array of the same shape for each
step whose sigma is above 0, in step order. Its twins are ``cpp/src/sampling/noise.cpp`` and
``examples/browser/noise.mjs``; ``tests/data/noise.json`` holds them to the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Values drawn at a time, so that drawing needs the same small memory for any image size.
_CHUNK = 4096


class NoiseStream:
    """The streams of a batch, one an image."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [np.random.RandomState(seed) for seed in seeds]

    def fill(self, out: NDArray[np.float32], drawing: Sequence[bool] | None = None) -> None:
        """Write the next standard normal values into `out` [B, 4, h, w], row i from stream i.

        Where `drawing` [B] is false, the row and its stream stay as they are.
        """
        rows = zip(self._streams, out, drawing or [True] * len(out), strict=True)
        for stream, row, draws in rows:
            if not draws:
                continue
            flat = row.reshape(-1)
            for start in range(0, flat.size, _CHUNK):
                part = flat[start : start + _CHUNK]
                part[:] = stream.standard_normal(part.size)
