"""The random stream: one seed gives one image, in any batch, runtime and process, and in C++.

Image i owns ``numpy.random.RandomState(seed_i)``: MT19937 and the legacy polar Gaussian, which
NumPy has frozen (NEP 19). It draws the initial latents, then one array of the same shape for each
step whose sigma is above 0, in step order. The twin in C++ is ``cpp/src/noise.cpp``;
``tests/data/noise.json`` holds both to the same numbers.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentTypeError, InvalidArgumentError

MAX_SEED = 2**32 - 1
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


def resolve_seeds(seed: Any, batch_size: int) -> list[int]:
    """One seed an image: a list as it is, one number s as s, s + 1, ..., None at random.

    Raises:
        ArgumentTypeError: if a seed is not a whole number.
        InvalidArgumentError: if one lies outside 0 .. 2**32 - 1, or the list has the wrong length.
    """
    if seed is None:
        return [secrets.randbelow(MAX_SEED + 1) for _ in range(batch_size)]
    if isinstance(seed, (str, bytes)):
        raise _not_a_seed(seed)
    if isinstance(seed, np.ndarray) and seed.ndim == 0:
        seed = seed.item()
    if isinstance(seed, (Sequence, np.ndarray)):
        seeds = [_whole_number(s) for s in seed]
        if len(seeds) != batch_size:
            raise InvalidArgumentError(
                f"`seed` lists {len(seeds)} seeds for {batch_size} images; give one an image, "
                "or one number s for the seeds s, s + 1, ..."
            )
    else:
        first = _whole_number(seed)
        seeds = list(range(first, first + batch_size))
    for value in seeds:
        if not 0 <= value <= MAX_SEED:
            raise InvalidArgumentError(
                f"`seed` asks for {value}; whole numbers from 0 to {MAX_SEED} (2**32 - 1) "
                "are accepted for every image."
            )
    return seeds


def _whole_number(value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise _not_a_seed(value)
    return int(value)


def _not_a_seed(value: Any) -> ArgumentTypeError:
    return ArgumentTypeError(
        f"`seed` is {value!r} ({type(value).__name__}); a whole number, a list of them, "
        "or None for random seeds is accepted."
    )
