"""What came out of a program: whether it is finite, whether it is flat, and as 8-bit images.

Its twin in C++ is ``cpp/src/sampling/pixels.cpp``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def to_pil(pixels: NDArray[np.float32]) -> list[Image.Image]:
    """`pixels` [B, H, W, 3] in [0, 1] as 8-bit RGB images, rounded as the reference does."""
    return [Image.fromarray(p) for p in (pixels * 255).round().astype(np.uint8)]


def non_finite_rows(values: NDArray[np.float32]) -> list[int]:
    """Which of the rows of `values` hold NaN or infinity."""
    return [i for i, row in enumerate(values) if not np.isfinite(row.sum(dtype=np.float64))]


def is_flat(image: NDArray[np.float32]) -> bool:
    """Whether an image [H, W, 3] has a single colour."""
    return all(float(np.ptp(image[..., channel])) < 1 / 255 for channel in range(3))
