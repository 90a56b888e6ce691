"""Opens a pickle of paddle.save, which can only be read as a whole, as named tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_engine.errors import CheckpointError

from .pickles import PendingArray, load_plain
from .state_dicts import state_dict
from .tensors import Tensors, in_memory, is_shape

# Keys that paddle.save adds to a state dict (paddle/framework/io.py and io_utils.py).
PADDLE_NAME_TABLE = "StructuredToParameterName@@"
PADDLE_SLICES = "UnpackBigParamInfor@@"


def open_paddle(path: Path) -> Tensors:
    """Read the file; values are in memory."""
    with path.open("rb") as file:
        loaded = state_dict(path, load_plain(file, path), "paddle")
    loaded.pop(PADDLE_NAME_TABLE, None)
    slices = loaded.pop(PADDLE_SLICES, {})
    arrays = {name: _paddle_array(path, name, value) for name, value in loaded.items()}
    del loaded
    if not isinstance(slices, dict):
        raise CheckpointError(
            f"`{path}` is damaged: its `{PADDLE_SLICES}` is no table.\n  Download it again."
        )
    for name, parts in slices.items():
        arrays[name] = _joined(path, name, parts, arrays)
    return {name: in_memory(array, paddle=True) for name, array in arrays.items()}


def _joined(path: Path, name: Any, parts: Any, arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """One array out of the slices that paddle.save made of it; takes them out of `arrays`."""
    try:
        match name, parts:
            case str(), {"OriginShape": shape, "slices": [*slices]} if is_shape(shape):
                if all(isinstance(part, str) for part in slices):
                    joined = np.concatenate([arrays.pop(part) for part in slices])
                    return np.asarray(joined.reshape(shape))
        reason = "no list of them is there"
    except (KeyError, ValueError) as error:
        reason = str(error)
    raise CheckpointError(
        f"`{path}` is damaged: the slices of its tensor `{name}` do not fit together ({reason}).\n"
        "  Download it again."
    )


def _paddle_array(path: Path, name: Any, value: Any) -> NDArray[Any]:
    # Tensors saved outside a state dict are (name, array): _pickle_save in paddle/framework/io.py.
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]
    if not isinstance(name, str) or not isinstance(value, PendingArray):
        raise CheckpointError(
            f"`{path}` holds `{name!r:.80}`, which is no array.\n"
            "  Save it with paddle.save(model.state_dict(), PATH)."
        )
    return value.array
