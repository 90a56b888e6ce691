"""Finds the state dict in what a pickle of either library holds, which may be more than that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ldm_engine.errors import CheckpointError

from .pickles import PendingArray, PendingTensor, Token

# Under which names training code keeps a state dict beside other things; averaged weights last.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "ema_state_dict",
    "model_ema",
    "ema",
)


def state_dict(path: Path, loaded: Any, library: str) -> dict[Any, Any]:
    """The state dict: the object itself, or what a training checkpoint keeps beside other things.

    Raises:
        CheckpointError: it is neither, or there are several to choose from.
    """
    if not isinstance(loaded, dict):
        what = repr(loaded) if isinstance(loaded, Token) else f"a {type(loaded).__name__}"
        raise CheckpointError(
            f"`{path}` holds {what}, not a state dict (names -> tensors).\n"
            f"  Save it with {library}.save(model.state_dict(), PATH)."
        )
    wrapped = [name for name in WRAPPERS if _holds_tensors(loaded.get(name))]
    if len(wrapped) > 1:
        raise CheckpointError(
            f"`{path}` holds several state dicts: {', '.join(f'`{name}`' for name in wrapped)}.\n"
            f"  Save the one to be read alone: {library}.save(checkpoint[NAME], PATH)."
        )
    if not wrapped and isinstance(loaded.get("state_dict"), dict):
        return dict(loaded["state_dict"])  # an error then names what is wrong with it
    return loaded[wrapped[0]] if wrapped else loaded


def _holds_tensors(value: Any) -> bool:
    held = list(value.values()) if isinstance(value, dict) else []
    held += [entry[1] for entry in held if isinstance(entry, tuple) and len(entry) == 2]
    return any(isinstance(entry, PendingTensor | PendingArray) for entry in held)
