"""The four programs: which part of the models each holds, and its tensors' names, types and shapes.

They are cut by how often they run: once a prompt, once a schedule, once a step, once an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import paddle
from numpy.typing import NDArray
from paddle import Tensor, nn
from paddle.static import InputSpec

from ldm_engine.bundle import TensorSpec

from .models import AutoencoderDecoder, LDMBert, UNet


class TextEncoder(nn.Layer):
    """Once a prompt: token ids to the keys and values of every cross-attention."""

    def __init__(self, text_encoder: LDMBert, unet: UNet) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet

    def forward(self, input_ids: Tensor) -> Tensor:
        """`input_ids` [N, T] int64 to `text_kv` [N, T, .]."""
        return self.unet.project_text(self.text_encoder(input_ids))


class TimeEncoder(nn.Layer):
    """Once a schedule: timesteps to the shift that every residual block adds."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, timesteps: Tensor) -> Tensor:
        """`timesteps` [S] float32 to `time_shift` [S, .]."""
        return self.unet.encode_time(timesteps)


class UNetStep(nn.Layer):
    """Once a step: the noise prediction."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, time_shift: Tensor, text_kv: Tensor) -> Tensor:
        """`latents` [B, 4, h, w], `time_shift` [1, .], `text_kv` [N, T, .] to [N, 4, h, w]."""
        return self.unet.denoise(latents, time_shift, text_kv)


class VAEDecoder(nn.Layer):
    """Once an image: latents to pixels in [0, 1]."""

    def __init__(self, autoencoder: AutoencoderDecoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        """`latents` [B, 4, h, w] to `image` [B, f * h, f * w, 3]."""
        return self.autoencoder.render(latents)


@dataclass(frozen=True)
class Models:
    """The three dygraph models of a checkpoint."""

    text_encoder: LDMBert
    unet: UNet
    autoencoder: AutoencoderDecoder


@dataclass(frozen=True)
class ProgramSpec:
    """One program: its name, its tensors in the graph's order, and its layer."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layer: nn.Layer

    def input_specs(self) -> list[InputSpec]:
        """The inputs as ``paddle.jit.to_static`` wants them."""
        return [InputSpec(list(t.shape), t.dtype, t.name) for t in self.inputs]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The dygraph layer's outputs for `inputs`, by name."""
        arguments = [paddle.to_tensor(inputs[t.name]) for t in self.inputs]
        with paddle.no_grad():
            return {self.outputs[0].name: self.layer(*arguments).numpy()}


def build_programs(models: Models) -> tuple[ProgramSpec, ...]:
    """The programs over `models`, whose parameters they share."""
    unet, config = models.unet, models.unet.config
    tokens = models.text_encoder.config.max_position_embeddings
    latents = TensorSpec("latents", "float32", (-1, config.in_channels, -1, -1))
    text_kv = TensorSpec("text_kv", "float32", (-1, tokens, unet.text_kv_width))
    ids = TensorSpec("input_ids", "int64", (-1, tokens))
    timesteps = TensorSpec("timesteps", "float32", (-1,))
    shifts = TensorSpec("time_shift", "float32", (-1, unet.time_shift_width))
    shift = TensorSpec("time_shift", "float32", (1, unet.time_shift_width))
    noise_pred = TensorSpec("noise_pred", "float32", (-1, config.out_channels, -1, -1))
    image = TensorSpec("image", "float32", (-1, -1, -1, 3))
    return (
        ProgramSpec("text_encoder", (ids,), (text_kv,), TextEncoder(models.text_encoder, unet)),
        ProgramSpec("time_encoder", (timesteps,), (shifts,), TimeEncoder(unet)),
        ProgramSpec("unet", (latents, shift, text_kv), (noise_pred,), UNetStep(unet)),
        ProgramSpec("vae_decoder", (latents,), (image,), VAEDecoder(models.autoencoder)),
    )
