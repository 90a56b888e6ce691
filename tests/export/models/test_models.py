"""Each dygraph component against diffusers' own class, on the same random weights."""

from __future__ import annotations

import diffusers
import numpy as np
import paddle
import pytest
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)

from ldm_export.checkpoint import check_tensors
from ldm_export.models import (
    AutoencoderConfig,
    AutoencoderDecoder,
    AutoencoderEncoder,
    LDMBert,
    TextEncoderConfig,
    UNet,
    UNetConfig,
    load_tensors,
    norms_in_two_passes,
    tensor_shapes,
)
from ldm_export.models.blocks import GroupNorm

# Relative L2 error in fp32. Seen: 1e-6, and 6e-6 for the decoder, whose norms divide by small
# variances.
TOLERANCE = 1e-5

PUBLISHED_BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
UNETS = {
    "small": {
        **PUBLISHED_BLOCKS,
        "block_out_channels": (32, 64, 64, 64),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
        "sample_size": 8,
    },
    # An eighth of the published widths: same ratios, blocks and number of heads.
    "published ratios": {
        **PUBLISHED_BLOCKS,
        "block_out_channels": (40, 80, 160, 160),
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 160,
        "norm_num_groups": 8,
        "sample_size": 32,
    },
    "attention first at the second level": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "attention_head_dim": (2, 4),
        "cross_attention_dim": 24,
        "norm_num_groups": 16,
        "sample_size": 8,
        "freq_shift": 1,
        "flip_sin_to_cos": False,
    },
    "attention in the middle only": {
        "down_block_types": ("DownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 32, 64),
        "layers_per_block": 2,
        "attention_head_dim": 4,
        "cross_attention_dim": 24,
        "sample_size": 8,
    },
}
AUTOENCODERS = {
    "small": {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1},
    "published ratios": {"block_out_channels": (32, 64, 128, 128), "layers_per_block": 2},
    "three levels": {"block_out_channels": (16, 48, 32), "norm_num_groups": 8},
}
TEXT_ENCODERS = {
    "small": {"encoder_layers": 2, "d_model": 32, "encoder_ffn_dim": 64, "vocab_size": 50},
    # As published, the inner width (8 heads of 16) is not the model's width.
    "published ratios": {
        "encoder_layers": 4,
        "d_model": 320,
        "encoder_ffn_dim": 1280,
        "encoder_attention_heads": 8,
        "head_dim": 16,
        "vocab_size": 500,
    },
    "short": {
        "encoder_layers": 1,
        "d_model": 48,
        "encoder_ffn_dim": 20,
        "encoder_attention_heads": 3,
        "head_dim": 8,
        "max_position_embeddings": 12,
        "vocab_size": 99,
    },
}


def relative_error(given, reference):
    return float(np.linalg.norm(given - reference) / np.linalg.norm(reference))


def normals(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def fill(layer, module, ignored=()):
    """Copy the torch module's weights, all names and shapes being exactly those expected."""
    module.eval()
    layer.eval()
    for parameter in module.parameters():  # norms start at exactly 1 and 0: make them count
        parameter.data += 0.1 * torch.randn_like(parameter)
    state = {k: v.numpy() for k, v in module.state_dict().items() if not k.startswith(ignored)}
    check_tensors("component", state, tensor_shapes(layer))
    load_tensors(layer, state)


@pytest.fixture(autouse=True)
def _seeded_without_gradients():
    torch.manual_seed(0)
    with torch.no_grad(), paddle.no_grad():
        yield


@pytest.mark.parametrize("name", UNETS)
def test_unet(name):
    module = diffusers.UNet2DConditionModel(**UNETS[name])
    config = UNetConfig.from_dict(dict(module.config))
    unet = UNet(config)
    fill(unet, module)
    step = config.size_multiple
    latents = np.concatenate([normals(2, 4, 2 * step, step)] * 2)
    context = normals(4, 7, config.cross_attention_dim, seed=1)
    reference = module(
        torch.tensor(latents), torch.tensor(637), torch.tensor(context)
    ).sample.numpy()
    time, text = paddle.to_tensor([637.0]), paddle.to_tensor(context)
    undivided = unet(paddle.to_tensor(latents), time, text).numpy()
    assert relative_error(undivided, reference) < TOLERANCE
    # The parts, with one row of latents an image and two of text.
    time_shift, text_kv = unet.encode_time(time), unet.project_text(text)
    assert time_shift.shape == [1, unet.time_shift_width]
    assert text_kv.shape == [4, 7, unet.text_kv_width]
    divided = unet.denoise(paddle.to_tensor(latents[:2]), time_shift, text_kv).numpy()
    assert relative_error(divided, reference) < TOLERANCE


def test_the_published_unet_has_its_published_size():
    from random_checkpoint import UNET as LARGE_UNET

    config = UNetConfig.from_dict(LARGE_UNET)
    with paddle.LazyGuard():
        unet = UNet(config)
    shapes = tensor_shapes(unet)
    assert len(shapes) == 686
    assert sum(int(np.prod(s)) for s in shapes.values()) == 872_300_484
    assert (unet.time_shift_width, unet.text_kv_width) == (20_160, 24_960)


@pytest.mark.parametrize(("groups", "size"), [(4, (8, 6)), (16, (2, 1))])
def test_norms_in_two_passes_are_torchs(groups, size):
    """Of two almost equal values, where Paddle's own loses most digits, too."""
    norm, reference = GroupNorm(groups, 16), torch.nn.GroupNorm(groups, 16)
    values = 3 + 0.01 * normals(2, 16, *size)
    expected = reference.double()(torch.tensor(values).double()).numpy()
    own = norm(paddle.to_tensor(values)).numpy()
    with norms_in_two_passes(paddle.nn.Sequential(norm)):
        given = norm(paddle.to_tensor(values)).numpy()
    assert relative_error(given, expected) < 1e-4
    assert relative_error(own, expected) > 10 * relative_error(given, expected)
    np.testing.assert_array_equal(norm(paddle.to_tensor(values)).numpy(), own)


def autoencoder(name, **changes):
    levels = len(AUTOENCODERS[name]["block_out_channels"])
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        scaling_factor=0.3,
        **AUTOENCODERS[name],
        **changes,
    )


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder(name):
    module = autoencoder(name)
    decoder = AutoencoderDecoder(AutoencoderConfig.from_dict(dict(module.config)))
    fill(decoder, module, ignored=("encoder.", "quant_conv."))
    latents = normals(2, 4, 8, 16)
    reference = module.decode(torch.tensor(latents / 0.3)).sample
    given = decoder(paddle.to_tensor(latents / 0.3, dtype="float32")).numpy()
    assert relative_error(given, reference.numpy()) < TOLERANCE
    image = (reference / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert relative_error(decoder.render(paddle.to_tensor(latents)).numpy(), image) < TOLERANCE


@pytest.mark.parametrize("use_quant_conv", [True, False])
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_encoder(name, use_quant_conv):
    """Images are wider than high, and what pads them shows at their lower and right edges."""
    module = autoencoder(name, use_quant_conv=use_quant_conv)
    config = AutoencoderConfig.from_dict(dict(module.config))
    encoder = AutoencoderEncoder(config)
    fill(encoder, module, ignored=("decoder.", "post_quant_conv."))
    size = (4 * config.scale_factor, 6 * config.scale_factor)
    image = np.random.RandomState(0).uniform(size=(2, *size, 3)).astype(np.float32)
    pixels = 2 * torch.tensor(image).permute(0, 3, 1, 2) - 1
    reference = 0.3 * module.encode(pixels).latent_dist.mean.numpy()
    given = encoder.encode(paddle.to_tensor(image)).numpy()
    assert given.shape == (2, 4, 4, 6)
    assert relative_error(given, reference) < TOLERANCE


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_text_encoder(name):
    module = LDMBertModel(LDMBertConfig(**TEXT_ENCODERS[name]))
    config = TextEncoderConfig.from_dict(module.config.to_dict())
    encoder = LDMBert(config)
    fill(encoder, module, ignored=("to_logits.",))
    shape = (3, config.max_position_embeddings)
    input_ids = np.random.RandomState(0).randint(0, config.vocab_size, shape)
    reference = module(torch.tensor(input_ids))[0].numpy()
    assert relative_error(encoder(paddle.to_tensor(input_ids)).numpy(), reference) < TOLERANCE
