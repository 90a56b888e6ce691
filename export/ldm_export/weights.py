"""Storing weights in half precision."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_engine.errors import CheckpointError


def halve(name: str, values: NDArray[Any]) -> NDArray[np.float16]:
    """`values` of the weight `name` rounded to fp16.

    Raises:
        CheckpointError: if one is too large for it.
    """
    largest = float(np.abs(values).max())
    if not largest <= float(np.finfo(np.float16).max):
        raise CheckpointError(
            f"The weight {name} holds {largest:g}, which fp16 cannot. Export with --weights fp32."
        )
    return values.astype(np.float16)
