from __future__ import annotations

import pytest

from ldm_engine.errors import ConfigError
from ldm_export.models import AutoencoderConfig, TextEncoderConfig, UNetConfig
from random_checkpoint import UNET as LARGE_UNET

# The config as published for the large model: no cross_attention_dim, the misnamed heads.
PUBLISHED_UNET = {k: v for k, v in LARGE_UNET.items() if k != "cross_attention_dim"}


def test_the_published_unet_config_means_what_diffusers_takes_it_to_mean():
    config = UNetConfig.from_dict(PUBLISHED_UNET)
    assert config.cross_attention_dim == 1280
    assert config.heads == (8, 8, 8, 8)
    assert config.size_multiple == 8


def test_an_absent_scaling_factor_is_the_librarys_default():
    config = AutoencoderConfig.from_dict({"block_out_channels": [128, 256, 512, 512]})
    assert config.scaling_factor == 0.18215
    assert config.scale_factor == 8


@pytest.mark.parametrize(
    ("kind", "raw", "named"),
    [
        (UNetConfig, {"act_fn": "gelu"}, "act_fn"),
        (UNetConfig, {"down_block_types": ["AttnDownBlock2D"] * 4}, "AttnDownBlock2D"),
        (UNetConfig, {"up_block_types": ["UpBlock2D"]}, "up_block_types"),
        (UNetConfig, {"mid_block_type": "UNetMidBlock2D"}, "mid_block_type"),
        (UNetConfig, {"use_linear_projection": True}, "use_linear_projection"),
        (UNetConfig, {"class_embed_type": "timestep"}, "class_embed_type"),
        (UNetConfig, {"a_key_of_the_future": 3}, "a_key_of_the_future"),
        (UNetConfig, {"block_out_channels": [48, 64, 64, 64]}, "48 channels"),
        (UNetConfig, {"block_out_channels": "wide"}, "wide"),
        (UNetConfig, {"attention_head_dim": [8, 8]}, "attention_head_dim"),
        (UNetConfig, {"attention_head_dim": 7}, "7 heads"),
        (UNetConfig, {"layers_per_block": 0}, "layers_per_block"),
        (UNetConfig, {"norm_eps": float("nan")}, "norm_eps"),
        (UNetConfig, {"norm_eps": float("inf")}, "norm_eps"),
        (UNetConfig, {"layers_per_block": 100_000}, "layers_per_block"),
        (UNetConfig, {"freq_shift": 2}, "freq_shift"),
        (AutoencoderConfig, {"up_block_types": ["AttnUpDecoderBlock2D"]}, "AttnUpDecoderBlock2D"),
        (AutoencoderConfig, {"out_channels": 4}, "RGB"),
        (AutoencoderConfig, {"scaling_factor": 0}, "scaling_factor"),
        (AutoencoderConfig, {"scaling_factor": float("inf")}, "scaling_factor"),
        (AutoencoderConfig, {"latents_mean": [0.1]}, "latents_mean"),
        (TextEncoderConfig, {"activation_function": "relu"}, "activation_function"),
        (TextEncoderConfig, {"scale_embedding": True}, "scale_embedding"),
        (TextEncoderConfig, {"encoder_layers": "32"}, "encoder_layers"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(kind, raw, named):
    base = PUBLISHED_UNET if kind is UNetConfig else {}
    with pytest.raises(ConfigError, match=named):
        kind.from_dict({**base, **raw})


def test_all_violations_are_in_one_message():
    with pytest.raises(ConfigError) as caught:
        UNetConfig.from_dict({"act_fn": "gelu", "layers_per_block": -1, "class_embed_type": "x"})
    for key in ("act_fn", "layers_per_block", "class_embed_type"):
        assert f"`{key}`" in str(caught.value)
