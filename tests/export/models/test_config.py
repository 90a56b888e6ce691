"""What a model config may hold, held to diffusers' own classes, argument by argument."""

from __future__ import annotations

import inspect
import warnings

import diffusers
import pytest
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_engine.errors import ConfigError
from ldm_export.models import AutoencoderConfig, TextEncoderConfig, UNetConfig
from random_checkpoint import SIZES
from random_checkpoint import UNET as LARGE_UNET

# The config as published for the large model: no cross_attention_dim, the misnamed heads.
PUBLISHED_UNET = {k: v for k, v in LARGE_UNET.items() if k != "cross_attention_dim"}
KINDS = {
    UNetConfig: (diffusers.UNet2DConditionModel, PUBLISHED_UNET),
    AutoencoderConfig: (diffusers.AutoencoderKL, {}),
    TextEncoderConfig: (LDMBertConfig, {}),
}
#: What the models are built from: checked, and the weights must have the shapes that follow.
READ = {
    UNetConfig: {
        "attention_head_dim", "block_out_channels", "cross_attention_dim", "down_block_types",
        "flip_sin_to_cos", "freq_shift", "in_channels", "layers_per_block", "norm_eps",
        "norm_num_groups", "out_channels", "sample_size", "up_block_types",
    },
    AutoencoderConfig: {
        "block_out_channels", "down_block_types", "in_channels", "latent_channels",
        "layers_per_block", "norm_num_groups", "out_channels", "scaling_factor", "up_block_types",
        "use_quant_conv",
    },
    TextEncoderConfig: set(TextEncoderConfig.__annotations__),
}  # fmt: skip
#: Cannot change a picture in fp32, with values that diffusers' class takes.
FREE = {
    UNetConfig: {
        "addition_embed_type_num_heads": 3,
        "addition_time_embed_dim": 5,
        "cross_attention_norm": "layer_norm",
        "dropout": 0.5,
        "mid_block_only_cross_attention": True,
        "projection_class_embeddings_input_dim": 7,
        "resnet_out_scale_factor": 2.0,
        "resnet_skip_time_act": True,
        "upcast_attention": True,
    },
    AutoencoderConfig: {"force_upcast": False, "sample_size": 48},
    TextEncoderConfig: {
        "activation_dropout": 0.5,
        "attention_dropout": 0.5,
        "classifier_dropout": 0.5,
        "dropout": 0.9,
        "encoder_layerdrop": 0.5,
        "init_std": 3.0,
        "pad_token_id": 5,
        "scale_embedding": True,
        "use_cache": False,
    },
}
#: Change what the model computes, or the tensors that it has.
REFUSED = {
    UNetConfig: {
        "act_fn": "gelu",
        "addition_embed_type": "text",
        "attention_type": "gated",
        "center_input_sample": True,
        "class_embed_type": "timestep",
        "class_embeddings_concat": True,
        "conv_in_kernel": 1,
        "conv_out_kernel": 5,
        "downsample_padding": 0,
        "dual_cross_attention": True,
        "encoder_hid_dim": 16,
        "encoder_hid_dim_type": "text_proj",
        "mid_block_scale_factor": 2,
        "mid_block_type": None,
        "num_attention_heads": 4,
        "num_class_embeds": 3,
        "only_cross_attention": True,
        "resnet_time_scale_shift": "scale_shift",
        "reverse_transformer_layers_per_block": [1, 2, 1, 1],
        "time_cond_proj_dim": 8,
        "time_embedding_act_fn": "silu",
        "time_embedding_dim": 96,
        "time_embedding_type": "fourier",
        "timestep_post_act": "silu",
        "transformer_layers_per_block": 2,
        "use_linear_projection": True,
    },
    AutoencoderConfig: {
        "act_fn": "relu",
        "mid_block_add_attention": False,
        "use_post_quant_conv": False,
    },
    TextEncoderConfig: {"activation_function": "relu"},
}
#: Read for the autoencoder's encoder alone, with values that it is refused for.
OF_ENCODER = {
    "down_block_types": ["AttnDownEncoderBlock2D"],
    "in_channels": 5,
    "use_quant_conv": "no",
    "down_block_out_channels": [32],  # ppdiffusers
}
#: Read by no class of diffusers, but by pipelines that know them: latents of another mean or size.
OF_PIPELINES = {"latents_mean": [0.5] * 4, "latents_std": [2.0] * 4, "shift_factor": 0.1}


def arguments(kind):
    names = inspect.signature(KINDS[kind][0].__init__).parameters
    return {n: p.default for n, p in names.items() if n not in ("self", "kwargs")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_argument_of_diffusers_class_was_decided_upon(kind):
    """A new one in a new release fails here: put it where it belongs."""
    decided = READ[kind] | FREE[kind].keys() | REFUSED[kind].keys()
    decided |= OF_PIPELINES.keys() if kind is AutoencoderConfig else set()
    assert decided == arguments(kind).keys()


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_are_diffusers_own(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kind.from_dict(arguments(kind)) == kind.from_dict({})


@pytest.mark.parametrize(
    ("kind", "key"), [(kind, key) for kind, keys in FREE.items() for key in keys]
)
@settings(max_examples=10)
@given(value=st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just([1, {}]))
def test_what_cannot_change_a_picture_may_hold_anything(kind, key, value):
    base = KINDS[kind][1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kind.from_dict({**base, key: value}) == kind.from_dict(base)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(
    key=st.from_regex(r"[a-z][a-z_]{3,20}", fullmatch=True),
    value=st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just({"a": [1]}),
)
def test_a_key_that_no_class_has_is_named_in_a_warning(kind, key, value):
    base = KINDS[kind][1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = kind.from_dict({**base, f"{key}_x": value, "optimization_step": 7})
    assert config == kind.from_dict(base)
    (warning,) = caught
    assert f"`{key}_x`" in str(warning.message)
    assert "`optimization_step`" in str(warning.message)


def tiny(kind, changes):
    """The torch model of a tiny config, and what it makes of seeded inputs."""
    component = {UNetConfig: "unet", AutoencoderConfig: "autoencoder"}.get(kind, "text_encoder")
    config = {k: v for k, v in SIZES["tiny"][component].items() if not k.startswith("_")}
    torch.manual_seed(0)
    if kind is TextEncoderConfig:
        module = LDMBertModel(LDMBertConfig(**config | changes))
    else:
        module = KINDS[kind][0](**config | changes)
    module.eval()
    generator = torch.Generator().manual_seed(0)
    for _, parameter in sorted(module.named_parameters()):
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    text = torch.randn(1, 5, 32, generator=generator)
    if kind is UNetConfig:
        return module, lambda: module(latents, torch.tensor(637), text).sample
    if kind is AutoencoderConfig:
        image = torch.rand(1, 3, 64, 64, generator=generator)
        return module, lambda: torch.cat(
            [
                module.decode(latents).sample.flatten(),
                module.encode(image).latent_dist.mean.flatten(),
            ]
        )
    return module, lambda: module(torch.arange(16)[None])[0]


def shapes(module):
    """Of the tensors that a picture is made with."""
    state = module.state_dict()
    return {k: tuple(v.shape) for k, v in state.items() if not k.startswith("to_logits.")}


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_makes_the_same_of_what_is_accepted_with_any_value(kind):
    expected = tiny(kind, {})[1]()
    for key, value in FREE[kind].items():
        assert torch.equal(tiny(kind, {key: value})[1](), expected), key


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_makes_something_else_of_what_is_refused(kind):
    """Or it has other tensors, or cannot run without more inputs."""
    module, run = tiny(kind, {})
    expected, tensors = run(), shapes(module)
    for key, value in REFUSED[kind].items():
        try:
            changed, run = tiny(kind, {key: value})
            same = shapes(changed) == tensors and torch.equal(run(), expected)
        except (AttributeError, RuntimeError, TypeError, ValueError):
            same = False
        assert not same, key


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [(kind, *item) for kind, keys in REFUSED.items() for item in keys.items()]
    + [(AutoencoderConfig, *item) for item in OF_PIPELINES.items()],
)
def test_what_changes_pictures_is_refused_by_name(kind, key, value):
    with pytest.raises(ConfigError, match=f"`{key}` is .* accepted"):
        kind.from_dict({**KINDS[kind][1], key: value})


@pytest.mark.parametrize(("key", "value"), OF_ENCODER.items())
def test_what_the_encoder_alone_has_counts_where_it_is_read(key, value):
    with pytest.raises(ConfigError, match=rf"`{key}` is .*--no-encoder leaves out"):
        AutoencoderConfig.from_dict({key: value})
    without = AutoencoderConfig.from_dict({key: value}, with_encoder=False)
    assert without == AutoencoderConfig.from_dict({}, with_encoder=False)


def test_an_encoder_may_end_without_a_quant_conv():
    assert AutoencoderConfig.from_dict({}).use_quant_conv
    assert not AutoencoderConfig.from_dict({"use_quant_conv": False}).use_quant_conv


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
    ("kind", "raw"),
    [
        (UNetConfig, {"act_fn": "SiLU", "center_input_sample": None, "dual_cross_attention": 0}),
        (UNetConfig, {"only_cross_attention": [False] * 4, "layers_per_block": [2] * 4}),
        (UNetConfig, {"transformer_layers_per_block": [1] * 4, "cross_attention_dim": [1280] * 4}),
        (UNetConfig, {"reverse_transformer_layers_per_block": [1] * 4, "freq_shift": 0.0}),
        (UNetConfig, {"time_embedding_dim": 1280, "sample_size": [32, 32]}),
        (UNetConfig, {"sample_size": None, "data_format": "NCHW", "flip_sin_to_cos": 1}),
        (UNetConfig, {"_use_default_values": ["act_fn"], "act_fn": "gelu"}),
        (AutoencoderConfig, {"down_block_out_channels": [64], "up_block_out_channels": None}),
        (AutoencoderConfig, {"up_block_out_channels": [64], "shift_factor": 0.0}),
        (AutoencoderConfig, {"down_block_types": ["DownEncoderBlock2D"], "use_quant_conv": 1}),
        (TextEncoderConfig, {"activation_function": "gelu_python", "pruned_heads": {}}),
        (TextEncoderConfig, {"model_type": "ldmbert", "return_dict": False, "dtype": "float16"}),
    ],
)
def test_other_spellings_of_the_same_are_accepted(kind, raw):
    base = KINDS[kind][1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kind.from_dict({**base, **raw}) == kind.from_dict(base)


@pytest.mark.parametrize(
    ("kind", "raw", "named"),
    [
        (UNetConfig, {"down_block_types": ["AttnDownBlock2D"] * 4}, "AttnDownBlock2D"),
        (UNetConfig, {"up_block_types": ["UpBlock2D"]}, "up_block_types"),
        (UNetConfig, {"mid_block_type": "UNetMidBlock2D"}, "mid_block_type"),
        (UNetConfig, {"block_out_channels": [48, 64, 64, 64]}, "48 channels"),
        (UNetConfig, {"block_out_channels": "wide"}, "wide"),
        (UNetConfig, {"attention_head_dim": [8, 8]}, "attention_head_dim"),
        (UNetConfig, {"attention_head_dim": 7}, "7 heads"),
        (UNetConfig, {"layers_per_block": 0}, "layers_per_block"),
        (UNetConfig, {"layers_per_block": [2, 2, 2, 3]}, "layers_per_block"),
        (UNetConfig, {"layers_per_block": [2, 2, 2]}, "layers_per_block"),
        (UNetConfig, {"cross_attention_dim": [8, 8, 8, 16]}, "cross_attention_dim"),
        (UNetConfig, {"only_cross_attention": [False, True, False, False]}, "only_cross_attention"),
        (UNetConfig, {"sample_size": [32, 64]}, "sample_size"),
        (UNetConfig, {"flip_sin_to_cos": "false"}, "flip_sin_to_cos"),
        (UNetConfig, {"norm_num_groups": None}, "norm_num_groups"),
        (UNetConfig, {"norm_eps": float("nan")}, "norm_eps"),
        (UNetConfig, {"norm_eps": float("inf")}, "norm_eps"),
        (UNetConfig, {"layers_per_block": 100_000}, "layers_per_block"),
        (UNetConfig, {"freq_shift": 2}, "freq_shift"),
        (UNetConfig, {"freq_shift": None}, "freq_shift"),
        (UNetConfig, {"data_format": "NHWC"}, "'NHWC'; 'NCHW'"),
        (UNetConfig, {"resnet_pre_temb_non_linearity": True}, "resnet_pre_temb_non_linearity"),
        (UNetConfig, {"quantization_config": {"bits": 4}}, "quantization_config"),
        (AutoencoderConfig, {"data_format": "NHWC"}, "data_format"),
        (AutoencoderConfig, {"up_block_types": ["AttnUpDecoderBlock2D"]}, "AttnUpDecoderBlock2D"),
        (AutoencoderConfig, {"up_block_types": ["UpDecoderBlock2D"] * 2}, "2 entries, not 1"),
        (AutoencoderConfig, {"down_block_types": ["DownEncoderBlock2D"] * 2}, "2 entries, not 1"),
        (AutoencoderConfig, {"up_block_out_channels": [32]}, "up_block_out_channels"),
        (AutoencoderConfig, {"out_channels": 4}, "RGB"),
        (AutoencoderConfig, {"scaling_factor": 0}, "scaling_factor"),
        (AutoencoderConfig, {"scaling_factor": None}, "scaling_factor"),
        (AutoencoderConfig, {"scaling_factor": float("inf")}, "scaling_factor"),
        (TextEncoderConfig, {"encoder_layers": "32"}, "encoder_layers"),
        (TextEncoderConfig, {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        (TextEncoderConfig, {"model_type": "clip_text_model"}, "model_type"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(kind, raw, named):
    with pytest.raises(ConfigError, match=named):
        kind.from_dict({**KINDS[kind][1], **raw})


def test_all_violations_are_in_one_message():
    with pytest.raises(ConfigError) as caught:
        UNetConfig.from_dict({"act_fn": "gelu", "layers_per_block": -1, "class_embed_type": "x"})
    for key in ("act_fn", "layers_per_block", "class_embed_type"):
        assert f"`{key}`" in str(caught.value)
