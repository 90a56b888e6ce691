"""Reads checkpoints in every published layout and gives one state dict per component."""

from __future__ import annotations

from .checkpoint import COMPONENTS, Checkpoint, StateDict
from .opening import open_checkpoint
from .tensors import check_tensors

__all__ = ["COMPONENTS", "Checkpoint", "StateDict", "check_tensors", "open_checkpoint"]
