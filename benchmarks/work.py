"""How much each stage of the model must compute and read, counted on diffusers' classes.

Operations are those of matrix products and convolutions, an addition and a multiplication each one;
bytes are the parameters, read once. A 3x3 convolution over an image whose pixels were doubled in
both directions counts as what it comes to: four 2x2 ones over the image as it was. This engine
computes it so; as published it takes 9/4 of that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peers.contract import TOKEN_LENGTH

UPSAMPLING = ".upsamplers.0.conv"  #: the end of a module's name in diffusers
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def count_work(checkpoint: Path) -> dict[str, dict[str, float]]:
    """{stage: {"operations", "parameters"}} of one text, one guided step, one image."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
        LDMBertConfig,
        LDMBertModel,
    )

    with torch.device("meta"):
        bert = LDMBertModel(LDMBertConfig.from_pretrained(checkpoint / "bert"))
        unet = UNet2DConditionModel.from_config(
            UNet2DConditionModel.load_config(checkpoint / "unet")
        )
        vqvae = AutoencoderKL.from_config(AutoencoderKL.load_config(checkpoint / "vqvae"))
        size, channels = unet.config.sample_size, unet.config.in_channels
        latents = torch.empty(2, channels, size, size)
        context = torch.empty(2, TOKEN_LENGTH, unet.config.cross_attention_dim)
        ids = torch.ones(1, TOKEN_LENGTH, dtype=torch.int64)
        return {
            "text_encoder": _stage(bert.model, lambda: bert(ids)),
            "unet_step": _stage(unet, lambda: unet(latents, torch.tensor(1), context)),
            "vae_decoder": _stage(vqvae.decoder, lambda: vqvae.decode(latents[:1])),
        }


def _stage(module: Any, call: Any) -> dict[str, float]:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    parameters = sum(p.numel() for p in module.parameters())
    doubled = sum(
        sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
        if name.endswith(UPSAMPLING)
    )
    operations = counter.get_total_flops() - doubled * 5 / 9
    return {"operations": float(operations), "parameters": float(parameters)}


def least_seconds(
    work: dict[str, float], limits: dict[str, float], precision: str, batch: int = 1
) -> float:
    """The roofline: what a stage takes at least, for `batch` images at once."""
    return max(
        batch * work["operations"] / limits[precision],
        work["parameters"] * BYTES[precision] / limits["memory"],
    )
