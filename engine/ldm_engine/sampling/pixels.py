"""What came out of a program: whether it is finite, whether it is flat, and as 8-bit images.

Its twin in C++ is ``cpp/src/sampling/pixels.cpp``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import NonFiniteError

_OVERFLOW = "fp16 ends at 65504, which this model may exceed: use bf16 or fp32. "


class FlatImageWarning(UserWarning):
    """An image came out in a single colour."""


def to_pil(pixels: NDArray[np.float32]) -> list[Image.Image]:
    """`pixels` [B, H, W, 3] in [0, 1] as 8-bit RGB images, rounded as the reference does."""
    return [Image.fromarray(p) for p in (pixels * 255).round().astype(np.uint8)]


def non_finite_rows(values: NDArray[np.float32]) -> list[int]:
    """Which of the rows of `values` hold NaN or infinity."""
    return [i for i, row in enumerate(values) if not np.isfinite(row.sum(dtype=np.float64))]


def is_flat(image: NDArray[np.float32]) -> bool:
    """Whether an image [H, W, 3] has a single colour."""
    return all(float(np.ptp(image[..., channel])) < 1 / 255 for channel in range(3))


def check_finite(
    values: NDArray[np.float32], seeds: Sequence[int], where: str, precision: str
) -> None:
    """Raise ``NonFiniteError`` if what came out of `where` for these `seeds` is not all numbers."""
    bad = non_finite_rows(values)
    if bad:
        named = ", ".join(str(seeds[i]) for i in bad)
        raise NonFiniteError(
            f"{len(bad)} of {len(values)} images came out of {where} as NaN or infinity "
            f"(seeds {named}). {_OVERFLOW if precision == 'fp16' else ''}Check the bundle with "
            "`ldm-engine verify`; a very large guidance_scale can cause this too."
        )


def warn_of_flat_images(pixels: NDArray[np.float32], seeds: Sequence[int]) -> None:
    """Warn of each image that has a single colour, on behalf of the caller's caller's caller."""
    for image, seed in zip(pixels, seeds, strict=True):
        if is_flat(image):
            warnings.warn(
                f"The image of seed {seed} has a single colour; something is likely wrong with "
                "the model, the prompt or the guidance.",
                FlatImageWarning,
                stacklevel=4,
            )
