"""CompVis' tensor names -> diffusers' names: the index arithmetic between the two families.

Source: diffusers' pipelines/stable_diffusion/convert_from_ckpt.py (convert_ldm_unet_checkpoint,
convert_ldm_vae_checkpoint and convert_ldm_bert_checkpoint); the tests hold the UNet's and the
autoencoder's names against the first two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PREFIXES = {
    "text_encoder": "cond_stage_model.transformer.",
    "unet": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
}

# What training keeps beside the models: averaged weights, and the schedule's buffers, which are the
# only names without a dot.
TRAINING_STATE = re.compile(r"model_ema\.|[^.]+$")

UNUSED = re.compile(r"cond_stage_model\.transformer\.to_logits\.|first_stage_model\.loss\.")

UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_FIXED = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
UNET_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}

AUTOENCODER_FIXED = {
    "quant_conv": "quant_conv",
    "post_quant_conv": "post_quant_conv",
    **{
        f"{half}.{old}": f"{half}.{new}"
        for half in ("encoder", "decoder")
        for old, new in (
            ("conv_in", "conv_in"),
            ("norm_out", "conv_norm_out"),
            ("conv_out", "conv_out"),
        )
    },
}
AUTOENCODER_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}

TEXT_FIXED = {
    "token_emb": "model.embed_tokens",
    "pos_emb.emb": "model.embed_positions",
    "norm": "model.layer_norm",
}
# x_transformers alternates layers: even ones attend, odd ones feed forward; each is [norm, block].
TEXT_LAYER = (
    {
        "0": "self_attn_layer_norm",
        "1.to_q": "self_attn.q_proj",
        "1.to_k": "self_attn.k_proj",
        "1.to_v": "self_attn.v_proj",
        "1.to_out": "self_attn.out_proj",
    },
    {"0": "final_layer_norm", "1.net.0.0": "fc1", "1.net.2": "fc2"},
)


@dataclass(frozen=True)
class Geometry:
    """What the index arithmetic depends on, read off the names themselves."""

    unet_layers: int  # residual blocks a level on the way down; one more on the way up
    autoencoder_levels: int

    @classmethod
    def of(cls, names: Iterable[str]) -> Geometry:
        """The geometry of a checkpoint with these (stored) names."""
        blocks: set[int] = set()
        downsamplers: set[int] = set()
        levels: set[int] = set()
        for name in names:
            if found := re.match(r"model\.diffusion_model\.input_blocks\.(\d+)\.(0\.op)?", name):
                (downsamplers if found[2] else blocks).add(int(found[1]))
            elif found := re.match(r"first_stage_model\.decoder\.up\.(\d+)\.", name):
                levels.add(int(found[1]))
        # Block 0 is the first convolution; then each level has its residual blocks and, except the
        # last one, a downsampler of its own index.
        first_level_end = min(downsamplers, default=max(blocks, default=1) + 1)
        return cls(first_level_end - 1, max(levels, default=-1) + 1)


def canonical_name(component: str, geometry: Geometry, name: str) -> str | None:
    """diffusers' name of one stored tensor, or None where it belongs elsewhere or is never read.

    A name of the component that is not understood comes back as it is, so that the check of the
    tensors lists it as unexpected; so do strangers beside the three components, for the UNet.
    """
    if UNUSED.match(name) or TRAINING_STATE.match(name):
        return None
    prefix = PREFIXES[component]
    if not name.startswith(prefix):
        known = name.startswith(tuple(PREFIXES.values()))
        return None if known or component != "unet" else name
    module, _, parameter = name.removeprefix(prefix).rpartition(".")
    if component == "text_encoder":
        canonical = _text_module(module)
    elif component == "unet":
        canonical = unet_module(module, geometry.unet_layers)
    else:
        canonical = autoencoder_module(module, geometry.autoencoder_levels)
    return name if canonical is None else f"{canonical}.{parameter}"


def unet_module(module: str, layers: int) -> str | None:
    """diffusers' name of a module of the UNet with `layers` residual blocks a level."""
    if module in UNET_FIXED:
        return UNET_FIXED[module]
    found = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", module)
    if found is None:
        found = re.fullmatch(r"middle_block\.([012])\.(.+)", module)
        return None if found is None else _joined(f"mid_block.{UNET_MIDDLE[found[1]]}", found[2])
    side, index, part, rest = found[1], int(found[2]), found[3], found[4]
    if side == "input":
        level, layer = divmod(index - 1, layers + 1)
        block = f"down_blocks.{level}"
        if (part, rest) == ("0", "op"):
            return f"{block}.downsamplers.0.conv" if layer == layers else None
    else:
        level, layer = divmod(index, layers + 1)
        block = f"up_blocks.{level}"
        # The upsampler follows the attention, or takes its place where the level has none.
        if part in ("1", "2") and rest == "conv":
            return f"{block}.upsamplers.0.conv" if layer == layers else None
    kind = {"0": "resnets", "1": "attentions"}.get(part)
    return None if kind is None else _joined(f"{block}.{kind}.{layer}", rest)


def _joined(block: str, rest: str) -> str | None:
    """A module inside a residual block is renamed; inside a transformer the names are the same."""
    if ".attentions." in block:
        return f"{block}.{rest}"
    return f"{block}.{UNET_RESNET[rest]}" if rest in UNET_RESNET else None


def autoencoder_module(module: str, levels: int) -> str | None:
    """diffusers' name of a module of either half.

    CompVis numbers the levels of both from the image inwards, diffusers those of the decoder from
    the latents outwards.
    """
    if module in AUTOENCODER_FIXED:
        return AUTOENCODER_FIXED[module]
    module = module.replace("nin_shortcut", "conv_shortcut")
    if found := re.fullmatch(r"(encoder\.down|decoder\.up)\.(\d+)\.(.+)", module):
        is_encoder, level = found[1] == "encoder.down", int(found[2])
        block = f"{found[1]}_blocks.{level if is_encoder else levels - 1 - level}"
        sampler = "downsample" if is_encoder else "upsample"
        if found[3] == f"{sampler}.conv":
            return f"{block}.{sampler}rs.0.conv"
        resnet = re.fullmatch(r"block\.(\d+)\.(\w+)", found[3])
        return resnet and f"{block}.resnets.{resnet[1]}.{resnet[2]}"
    if found := re.fullmatch(r"((?:en|de)coder)\.mid\.block_([12])\.(\w+)", module):
        return f"{found[1]}.mid_block.resnets.{int(found[2]) - 1}.{found[3]}"
    if found := re.fullmatch(r"((?:en|de)coder)\.mid\.attn_1\.(\w+)", module):
        part = AUTOENCODER_ATTENTION.get(found[2])
        return part and f"{found[1]}.mid_block.attentions.0.{part}"
    return None


def _text_module(module: str) -> str | None:
    if module in TEXT_FIXED:
        return TEXT_FIXED[module]
    found = re.fullmatch(r"attn_layers\.layers\.(\d+)\.(.+)", module)
    if found is None:
        return None
    layer, kind = divmod(int(found[1]), 2)
    renamed = TEXT_LAYER[kind].get(found[2])
    return None if renamed is None else f"model.layers.{layer}.{renamed}"
