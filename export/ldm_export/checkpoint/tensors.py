"""Tensors as a checkpoint stores them: read one by one, brought to float32, checked as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ldm_engine.errors import CheckpointError

BFLOAT16 = "bfloat16"  # numpy has no such type: its bits travel as uint16
FLOAT_DTYPES = frozenset({"float16", "float32", "float64", BFLOAT16})

MAX_RANK = 32  # numpy's, before numpy 2
MAX_VALUES = 1 << 48  # far beyond any file, and far below where sizes in bytes overflow

LISTED_PER_KIND = 20
FINITE_CHUNK_VALUES = 1 << 18  # one bool a value: small beside any tensor, and in the cache


def is_count(value: Any) -> bool:
    """Whether `value`, out of a file, is a number of things that a file can hold."""
    return type(value) is int and 0 <= value <= MAX_VALUES


def is_shape(value: Any) -> bool:
    """Whether `value`, out of a file, is a shape that numpy can take."""
    return (
        isinstance(value, list | tuple)
        and len(value) <= MAX_RANK
        and all(is_count(size) for size in value)
        and math.prod(size or 1 for size in value) <= MAX_VALUES
    )


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that lies in a file; `bits` brings it, as stored, into memory or maps it."""

    shape: tuple[int, ...]
    dtype: str  # numpy's spelling, or "bfloat16"
    bits: Callable[[], NDArray[Any]]

    @property
    def is_floating(self) -> bool:
        """Whether this is a weight; integers and booleans are buffers such as `position_ids`."""
        return self.dtype in FLOAT_DTYPES

    def read(self) -> NDArray[np.float32]:
        """The values as float32: native byte order, contiguous, aligned and writable."""
        raw = self.bits()
        if self.dtype == BFLOAT16:
            # bfloat16 is the upper half of a float32.
            bits = np.asarray(raw).astype(np.uint32)
            bits <<= np.uint32(16)
            return bits.view(np.float32)
        return np.require(raw, dtype=np.float32, requirements=["C", "A", "W"])


Tensors = dict[str, StoredTensor]


def mapped(path: Path) -> NDArray[np.uint8]:
    """The file as bytes, mapped privately: writable, without ever changing the file."""
    return np.asarray(np.memmap(path, np.uint8, mode="c"))


def numpy_dtype(dtype: str, order: Literal["<", ">"] = "<") -> np.dtype[Any]:
    """How numpy holds the bits of a `dtype`."""
    stored: np.dtype[Any] = np.dtype("uint16" if dtype == BFLOAT16 else dtype)
    ordered: np.dtype[Any] = stored.newbyteorder(order)
    return ordered


def in_memory(array: NDArray[Any], *, paddle: bool = False) -> StoredTensor:
    """A tensor out of a pickle that was read as a whole."""
    # Paddle hands bfloat16 to numpy as uint16, and has no 16-bit unsigned integers of its own.
    dtype = BFLOAT16 if paddle and array.dtype == np.uint16 else array.dtype.name
    return StoredTensor(array.shape, dtype, lambda: array)


def check_tensors(
    component: str, state: Mapping[str, NDArray[Any]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Compare a state dict with the names and shapes that a model needs; read all its values once.

    Raises:
        CheckpointError: lists all missing, unexpected, mis-shaped and non-finite tensors in one
            message (at most `LISTED_PER_KIND` of each kind by name, the rest as a count).
    """
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    misshaped = [
        f"{name} is {_shape(state[name].shape)}, the config needs {_shape(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != tuple(shape)
    ]
    nonfinite = [name for name, values in state.items() if not _is_finite(values)]
    if not (missing or unexpected or misshaped or nonfinite):
        return
    problems = [
        _listing("missing", missing),
        _listing("unexpected", unexpected),
        _listing("mis-shaped", misshaped),
        _listing("with NaN or infinity", nonfinite),
    ]
    raise CheckpointError(
        f"The {component} weights cannot be used with their config, which needs {len(expected)} "
        "tensors:\n"
        + "".join(problems)
        + "  Check that config and weights belong together, were downloaded completely, and come "
        "from training that did not diverge."
    )


def _is_finite(values: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite; without a second array of the tensor's size."""
    flat = values.ravel(order="K")
    chunks = range(0, flat.size, FINITE_CHUNK_VALUES)
    return all(np.isfinite(flat[i : i + FINITE_CHUNK_VALUES]).all() for i in chunks)


def _listing(kind: str, entries: Iterable[str]) -> str:
    entries = sorted(entries)
    if not entries:
        return ""
    lines = [f"    {entry}\n" for entry in entries[:LISTED_PER_KIND]]
    if len(entries) > LISTED_PER_KIND:
        lines.append(f"    … and {len(entries) - LISTED_PER_KIND} more\n")
    return f"  {len(entries)} {kind}:\n" + "".join(lines)


def _shape(shape: Iterable[int]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"
