"""How far outputs may lie from their references, and how that distance is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import Bundle
from ..runtimes.base import Runtime
from .cases import END_TO_END_PROMPTS

Measure = Callable[[NDArray[Any], NDArray[Any]], float]  #: of an output, to its reference

#: Relative L2 error of one program. Seen in fp32: below 2e-5 for oneDNN's reordered sums; the
#: faults that exporters make are larger by orders of magnitude. In int8 the cases, whose inputs are
#: random, only show that the graph is whole; ldm_export/int8_gate.py judges it on real ones.
PROGRAM_TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 3e-2, "int8": 0.35}
#: The same for the images of the short loop; three guided steps amplify a program's error.
END_TO_END_TOLERANCES = {"fp32": 1e-3, "bf16": 3e-2, "int8": 0.1}
#: In fp16 each of those images is held by its peak signal-to-noise ratio to the original model's,
#: in dB, which is a root mean square error: values are in [0, 1].
MIN_PSNR = {"fp16": 35.0}
#: Least tolerances where weights are stored in fp16, which rounds each by up to 5e-4.
HALVED_TOLERANCE, HALVED_END_TO_END_TOLERANCE = 3e-3, 3e-2
#: Where two ways to compute the original model in fp32 already differ, as in norms over two almost
#: equal values, a runtime may differ as much, with room for other orders of summing. Seen: 6e-4 and
#: 2e-3 for widths of one channel a group at 64x128 pixels, below 2e-6 for published widths.
ROUNDING_FACTOR, ROUNDING_LIMIT = 4.0, 1e-2


def relative_error(given: NDArray[Any], reference: NDArray[Any]) -> float:
    """L2 norm of the difference over that of the reference; NaN counts as infinitely far."""
    norm = float(np.linalg.norm(reference.astype(np.float64)))
    error = float(np.linalg.norm(given.astype(np.float64) - reference)) / max(norm, 1e-30)
    return error if np.isfinite(error) else float("inf")


def worst_image_error(given: NDArray[Any], reference: NDArray[Any]) -> float:
    """The root mean square error of the worse of the short loop's images; NaN is infinitely far.

    Both hold the same values of each image, in order: all of them, or those of ``sample``.
    """
    difference = given.astype(np.float64) - reference
    powers = np.square(difference).reshape(len(END_TO_END_PROMPTS), -1).mean(axis=1)
    error = float(powers.max() ** 0.5)
    return error if np.isfinite(error) else float("inf")


def program_tolerance(bundle: Bundle, runtime: Runtime, program: str, precision: str) -> float:
    """How far one program's outputs may lie from the original model's, relative L2."""
    stored = runtime.stored_weights(bundle, program, precision)
    tolerance = PROGRAM_TOLERANCES[runtime.computes_in(bundle, program, precision)]
    return max(tolerance, HALVED_TOLERANCE) if stored == "fp16" else tolerance


def rounding_tolerance(rounding: float) -> float:
    """How far outputs may lie apart because the model itself leaves that much open in fp32."""
    return min(ROUNDING_FACTOR * rounding, ROUNDING_LIMIT)


def end_to_end_tolerance(bundle: Bundle, runtime: Runtime, precision: str) -> float:
    """The same for the images of the short loop; in fp16 each one's root mean square error."""
    if precision in MIN_PSNR:
        return float(10 ** (-MIN_PSNR[precision] / 20))
    stored = runtime.stored_weights(bundle, "unet", precision)
    tolerance = END_TO_END_TOLERANCES[precision]
    return max(tolerance, HALVED_END_TO_END_TOLERANCE) if stored == "fp16" else tolerance
