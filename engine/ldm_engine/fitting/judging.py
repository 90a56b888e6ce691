"""How far pictures lie from converged ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..sampling.fitted import Figures
from .images import Array

EQUAL_DB = 99.0  #: of pictures without a difference


def psnr(pixels: Array, reference: Array) -> NDArray[np.float64]:
    """[N] in dB, of images [N, H, W, 3] rounded to 8 bits."""
    levels = np.rint(pixels * 255.0) - np.rint(reference * 255.0)
    errors = (levels.astype(np.float64) ** 2).mean(axis=(1, 2, 3)) / 255.0**2
    return np.where(errors > 0, -10 * np.log10(np.maximum(errors, 1e-10)), EQUAL_DB)


def figures(pixels: Array, reference: Array) -> Figures:
    """Median, tenth percentile and least."""
    values = psnr(pixels, reference)
    return Figures(
        len(values),
        *(float(np.percentile(values, share)) for share in (50, 10)),
        float(values.min()),
    )
