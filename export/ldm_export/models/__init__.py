"""The model as dygraph ``paddle.nn`` layers, and the one way to fill them with a checkpoint."""

from .autoencoder import AutoencoderDecoder
from .blocks import norms_in_two_passes
from .config import AutoencoderConfig, TextEncoderConfig, UNetConfig
from .encoder import AutoencoderEncoder
from .text_encoder import LDMBert
from .unet import UNet
from .weights import load_tensors, tensor_shapes

__all__ = [
    "AutoencoderConfig",
    "AutoencoderDecoder",
    "AutoencoderEncoder",
    "LDMBert",
    "TextEncoderConfig",
    "UNet",
    "UNetConfig",
    "load_tensors",
    "norms_in_two_passes",
    "tensor_shapes",
]
