"""How far pictures lie from converged ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..sampling.fitted import Figures
from .images import Array

MAX_DB = 120.0  #: of pictures without a difference, or next to none


def psnr(pixels: Array, reference: Array) -> NDArray[np.float64]:
    """[N] in dB, of images [N, H, W, 3] in [0, 1], which are not rounded."""
    squares = (pixels.astype(np.float64) - reference) ** 2
    errors = np.maximum(squares.mean(axis=(1, 2, 3)), 10 ** (-MAX_DB / 10))
    return np.asarray(-10 * np.log10(errors))


def figures(values: NDArray[np.float64], most: float = MAX_DB) -> Figures:
    """Of the PSNR [N] of N pictures, each `most` where it is more."""
    values = np.minimum(values, most)
    median, tenth = (float(np.percentile(values, share)) for share in (50, 10))
    return Figures(len(values), median, tenth, float(values.min()))
