"""diffusers' three components as plain modules over tensors, which converters can trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .contract import TIMESTEP, TOKEN_LENGTH
from .diffusers import load_pipeline


@dataclass(frozen=True)
class Component:
    """A module with an example of its inputs; the first dimension of all but scalars is free."""

    name: str
    module: torch.nn.Module
    example: tuple[torch.Tensor, ...]
    inputs: tuple[str, ...]


class _First(torch.nn.Module):
    """Calls `part` and gives its first result."""

    def __init__(self, part: torch.nn.Module, method: str = "forward") -> None:
        super().__init__()
        self.part = part
        self._method = method

    def forward(self, *inputs: torch.Tensor) -> Any:
        return getattr(self.part, self._method)(*inputs, return_dict=False)[0]


def components(checkpoint: Path) -> Iterator[Component]:
    """The components of a checkpoint folder, ready to be traced."""
    pipe = load_pipeline(checkpoint)
    ids = torch.ones(1, TOKEN_LENGTH, dtype=torch.int64)
    yield Component("text_encoder", _First(pipe.bert).eval(), (ids,), ("input_ids",))
    size, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
    latents = torch.zeros(2, channels, size, size)
    context = torch.zeros(2, TOKEN_LENGTH, pipe.unet.config.cross_attention_dim)
    yield Component(
        "unet",
        _First(pipe.unet).eval(),
        (latents, torch.tensor(float(TIMESTEP)), context),
        ("sample", "timestep", "encoder_hidden_states"),
    )
    yield Component("decoder", _First(pipe.vqvae, "decode").eval(), (latents[:1],), ("latents",))
