"""The programs: which part of the models each holds, and its tensors' names, types and shapes.

They are cut by how often they run: once a prompt, once a schedule, once a step, once an image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import paddle
from numpy.typing import NDArray
from paddle import Tensor, nn
from paddle.static import InputSpec

from ldm_engine.bundle.contract import TensorSpec, tensor_specs
from ldm_engine.bundle.model import ModelInfo

from .models import AutoencoderDecoder, AutoencoderEncoder, LDMBert, UNet

#: The UNet's parameters that meet the text alone, and the timestep alone.
_OF_TEXT = re.compile(r"\.attn2\.to_[kv]\.")
_OF_TIME = re.compile(r"\.time_embedding\.|\.time_emb_proj\.")


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


class VAEEncoder(nn.Layer):
    """Once an input image: pixels in [0, 1] to the latents that the decoder makes them of."""

    def __init__(self, autoencoder: AutoencoderEncoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, image: Tensor) -> Tensor:
        """`image` [B, f * h, f * w, 3] to `latents` [B, 4, h, w]."""
        return self.autoencoder.encode(image)


@dataclass
class Models:
    """The dygraph models of a checkpoint."""

    text_encoder: LDMBert
    unet: UNet
    autoencoder: AutoencoderDecoder
    encoder: AutoencoderEncoder | None = None  #: of the autoencoder; None: not there, or left out


@dataclass(frozen=True)
class ProgramSpec:
    """One program: its name, its tensors in the graph's order, and its layer."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layer: nn.Layer
    #: The layer's parameters that the program uses, by name.
    parameters: Mapping[str, Tensor]

    def input_specs(self) -> list[InputSpec]:
        """The inputs as ``paddle.jit.to_static`` wants them."""
        return [InputSpec(list(t.shape), t.dtype, t.name) for t in self.inputs]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The dygraph layer's outputs for `inputs`, by name."""
        arguments = [paddle.to_tensor(inputs[t.name]) for t in self.inputs]
        with paddle.no_grad():
            return {self.outputs[0].name: self.layer(*arguments).numpy()}


def build_programs(models: Models, model: ModelInfo) -> tuple[ProgramSpec, ...]:
    """The programs over `models`, whose parameters they share."""
    layers: dict[str, nn.Layer] = {
        "text_encoder": TextEncoder(models.text_encoder, models.unet),
        "time_encoder": TimeEncoder(models.unet),
        "unet": UNetStep(models.unet),
        "vae_decoder": VAEDecoder(models.autoencoder),
    }
    if models.encoder is not None:
        layers["vae_encoder"] = VAEEncoder(models.encoder)
    return tuple(
        ProgramSpec(name, *tensor_specs(name, model), layer, _used_parameters(name, layer))
        for name, layer in layers.items()
    )


def _used_parameters(program: str, layer: nn.Layer) -> dict[str, Tensor]:
    """What `program` uses of its `layer`: three programs share the UNet's parameters."""

    def owner(name: str) -> str:
        if not name.startswith("unet."):
            return program
        if _OF_TEXT.search(name):
            return "text_encoder"
        return "time_encoder" if _OF_TIME.search(name) else "unet"

    return {name: p for name, p in layer.named_parameters() if owner(name) == program}
