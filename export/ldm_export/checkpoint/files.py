"""Opens a weights file of any kind as named tensors, under the names of the model itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ldm_engine.errors import CheckpointError

from .file_kinds import Kind, file_kind
from .paddle_pickles import open_paddle
from .safetensors_files import open_safetensors, said_layout
from .tensors import Tensors
from .torch_archives import open_torch

# What wraps a model or a part of it gives its tensors' names a part more. Of this model family's
# own names none is among these.
WRAPPING_MODULES = frozenset(
    {
        "module",  # DataParallel and DistributedDataParallel
        "_orig_mod",  # torch.compile
        "_forward_module",  # Lightning's Fabric
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
    }
)


def open_tensors(path: Path) -> Tensors:
    """Open a `.safetensors`, torch zip (`.bin`, `.ckpt`) or `.pdparams` file; contents decide.

    Raises:
        CheckpointError: the file is missing, empty, truncated, or of another kind.
        UnsafePickleError: it is a pickle that asks for more than arrays and plain containers.
    """
    opened: dict[Kind, Callable[[Path], Tensors]] = {
        "safetensors": open_safetensors,
        "torch": open_torch,
        "paddle": open_paddle,
    }
    return _unwrapped(path, opened[file_kind(path)](path))


def unwrapped_name(name: str) -> str:
    """`name` as the model itself has it, whatever it was wrapped in when it was saved."""
    return ".".join(part for part in name.split(".") if part not in WRAPPING_MODULES)


def _unwrapped(path: Path, stored: Tensors) -> Tensors:
    tensors: Tensors = {}
    for name, tensor in stored.items():
        inner = unwrapped_name(name)
        if inner in tensors:
            raise CheckpointError(
                f"`{path}` holds two tensors `{inner}`: one of a wrapped model, one of it alone.\n"
                "  Save the state dict of the model alone."
            )
        tensors[inner] = tensor
    return tensors


def stored_by(path: Path) -> Literal["torch", "paddle"] | None:
    """The library in whose layout `path` says that its tensors are, if it says so."""
    kind = file_kind(path)
    return said_layout(path) if kind == "safetensors" else kind
