"""A checkpoint's configs and weights as the three dygraph models."""

from __future__ import annotations

from dataclasses import replace

from paddle import nn

from ldm_engine.bundle.model import MAX_SIZE
from ldm_engine.errors import CheckpointError, ConfigError
from ldm_engine.sampling.schedule import NoiseSchedule

from .checkpoint import COMPONENTS, Checkpoint, StateDict, check_tensors
from .models import (
    AutoencoderConfig,
    AutoencoderDecoder,
    AutoencoderEncoder,
    LDMBert,
    TextEncoderConfig,
    UNet,
    UNetConfig,
    load_tensors,
    tensor_shapes,
)
from .programs import Models
from .progress import Progress, silent

Configs = tuple[TextEncoderConfig, UNetConfig, AutoencoderConfig]

#: First parts of the names of the autoencoder's encoder half.
_OF_ENCODER = ("encoder.", "quant_conv.")


def read_configs(checkpoint: Checkpoint, with_encoder: bool = True) -> Configs:
    """The configs of all components; `with_encoder`, the autoencoder's encoder half counts too.

    Raises:
        ConfigError: if one is not supported, or they do not belong together.
    """
    raw = checkpoint.configs
    text = TextEncoderConfig.from_dict(raw["text_encoder"])
    unet = UNetConfig.from_dict(raw["unet"])
    autoencoder = AutoencoderConfig.from_dict(raw["autoencoder"], with_encoder)
    NoiseSchedule.from_config(raw["scheduler"])
    violations = []
    if unet.cross_attention_dim != text.d_model:
        violations.append(
            f"the UNet attends to vectors of {unet.cross_attention_dim} (`cross_attention_dim`), "
            f"the text encoder makes vectors of {text.d_model} (`d_model`)"
        )
    channels = (unet.in_channels, unet.out_channels, autoencoder.latent_channels)
    if len(set(channels)) != 1:
        violations.append(
            "the UNet's `in_channels` and `out_channels` and the autoencoder's `latent_channels` "
            f"are {channels}, and must be equal"
        )
    size = unet.sample_size * autoencoder.scale_factor
    if unet.sample_size % unet.size_multiple or size > MAX_SIZE:
        violations.append(
            f"the UNet's `sample_size` is {unet.sample_size}; multiples of {unet.size_multiple} "
            f"for images of up to {MAX_SIZE} pixels are accepted"
        )
    if violations:
        raise ConfigError(
            f"The configs of {checkpoint.path} do not belong together: {'; '.join(violations)}. "
            "Check that all components come from one model."
        )
    return text, unet, autoencoder


def load_models(checkpoint: Checkpoint, configs: Configs, progress: Progress = silent) -> Models:
    """The models that `configs` describe, with the weights of `checkpoint`.

    Without an encoder where the checkpoint has none (`encoder.*`), or the configs leave it out.

    Raises:
        CheckpointError: naming every tensor that is missing, left over or of another shape.
    """
    text, unet, autoencoder = configs
    models = Models(LDMBert(text), UNet(unet), AutoencoderDecoder(autoencoder))
    layers = (models.text_encoder, models.unet, models.autoencoder)
    problems = []
    encoder_state: StateDict = {}
    for component, layer in zip(COMPONENTS, layers, strict=True):
        progress(f"loading {component}")
        state = checkpoint.load(component)
        if component == "autoencoder":
            of_encoder = [name for name in state if name.startswith(_OF_ENCODER)]
            encoder_state = {name: state.pop(name) for name in of_encoder}
        problems += _fill(layer, component, state)
        del state  # before the next one is read
    if autoencoder.with_encoder and any(name.startswith("encoder.") for name in encoder_state):
        models = replace(models, encoder=AutoencoderEncoder(autoencoder))
        found = _fill(models.encoder, "autoencoder's encoder", encoder_state)
        problems += [f"{problem}\n  --no-encoder leaves the encoder out." for problem in found]
    if problems:
        raise CheckpointError("\n".join(problems))
    return models


def _fill(layer: nn.Layer, name: str, state: StateDict) -> list[str]:
    """Load `state` into `layer`; what is wrong with it, if anything is."""
    try:
        check_tensors(name, state, tensor_shapes(layer))
    except CheckpointError as error:
        return [str(error)]
    load_tensors(layer, state)
    layer.eval()
    return []
