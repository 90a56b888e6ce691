from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from ldm_export.checkpoint.compvis_names import (  # noqa: E402
    Geometry,
    autoencoder_module,
    canonical_name,
    unet_module,
)


def test_agrees_with_the_conversion_of_diffusers(compvis, configs, truth) -> None:
    """An independent oracle, which knows the same index arithmetic."""
    convert = pytest.importorskip("diffusers.pipelines.stable_diffusion.convert_from_ckpt")
    state = {name: torch.from_numpy(np.array(value)) for name, value in compvis.items()}
    unet_config = configs["unet"] | {"class_embed_type": None, "addition_embed_type": None}
    theirs = {
        "unet": convert.convert_ldm_unet_checkpoint(dict(state), unet_config),
        "autoencoder": convert.convert_ldm_vae_checkpoint(dict(state), configs["autoencoder"]),
    }
    geometry = Geometry.of(compvis)
    for component, converted in theirs.items():
        ours = {canonical_name(component, geometry, name): name for name in compvis}
        ours.pop(None)
        assert set(ours) == set(truth[component]) <= set(converted)
        for name, stored in ours.items():
            theirs_flat = converted[name].numpy().ravel()
            np.testing.assert_array_equal(compvis[stored].ravel(), theirs_flat, err_msg=name)


@given(
    levels=st.integers(1, 6),
    layers=st.integers(1, 4),
    attends=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_every_module_of_any_unet(levels: int, layers: int, attends: list[bool]) -> None:
    """Number the blocks of any depth as CompVis does; names map one to one onto diffusers'."""
    from_compvis: dict[str, str] = {}
    block = 1
    for level in range(levels):
        for layer in range(layers):
            resnet = f"down_blocks.{level}.resnets.{layer}"
            from_compvis[f"input_blocks.{block}.0.in_layers.2"] = f"{resnet}.conv1"
            if attends[level]:
                attention = f"down_blocks.{level}.attentions.{layer}.proj_in"
                from_compvis[f"input_blocks.{block}.1.proj_in"] = attention
            block += 1
        if level < levels - 1:
            from_compvis[f"input_blocks.{block}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            block += 1
    block = 0
    for level in range(levels):
        for layer in range(layers + 1):
            resnet = f"up_blocks.{level}.resnets.{layer}"
            from_compvis[f"output_blocks.{block}.0.out_layers.3"] = f"{resnet}.conv2"
            part = 1
            if attends[levels - 1 - level]:
                attention = f"up_blocks.{level}.attentions.{layer}.proj_out"
                from_compvis[f"output_blocks.{block}.1.proj_out"] = attention
                part = 2
            if layer == layers and level < levels - 1:
                upsampler = f"up_blocks.{level}.upsamplers.0.conv"
                from_compvis[f"output_blocks.{block}.{part}.conv"] = upsampler
            block += 1
    stored = [f"model.diffusion_model.{module}.weight" for module in from_compvis]
    stored.append("model.diffusion_model.input_blocks.0.0.weight")
    assert Geometry.of(stored).unet_layers == layers
    assert {old: unet_module(old, layers) for old in from_compvis} == from_compvis


@given(levels=st.integers(1, 8), level=st.integers(0, 7), layer=st.integers(0, 5))
def test_levels_of_the_decoder_are_reversed(levels: int, level: int, layer: int) -> None:
    level %= levels
    for side, there in (("encoder.down", level), ("decoder.up", levels - 1 - level)):
        module = f"{side}.{level}.block.{layer}.nin_shortcut"
        expected = f"{side}_blocks.{there}.resnets.{layer}.conv_shortcut"
        assert autoencoder_module(module, levels) == expected


@pytest.mark.parametrize(
    "module",
    [
        "encoder.up.0.block.0.conv1",
        "encoder.down.0.attn.0.q",
        "encoder.down.0.upsample.conv",
        "decoder.up.1.downsample.conv",
        "decoder.mid.attn_1.qkv",
        "quantize.embedding",
    ],
)
def test_unknown_modules_of_the_autoencoder(module: str) -> None:
    assert autoencoder_module(module, 4) is None


@pytest.mark.parametrize(
    "module",
    [
        "input_blocks.3.0.op.x",
        "label_emb.0",
        "output_blocks.2.3.conv",
        "middle_block.3.in_layers.0",
    ],
)
def test_unknown_modules(module: str) -> None:
    assert unet_module(module, 2) is None
