"""diffusers' own pipeline in torch, eager or compiled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .contract import GUIDANCE_SCALE, TIMESTEP, TOKEN_LENGTH, Array, Call, Peer, Sources
from .conversions import weight_files

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_pipeline(checkpoint: Path, precision: str = "fp32") -> Any:
    """The published pipeline class over a folder in the diffusers layout."""
    from diffusers import LDMTextToImagePipeline

    pipe = LDMTextToImagePipeline.from_pretrained(checkpoint, dtype=DTYPES[precision])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def token_ids(pipe: Any, texts: Sequence[str]) -> torch.Tensor:
    """`input_ids` [N, 77], as the pipeline makes them."""
    arguments = {"padding": "max_length", "max_length": TOKEN_LENGTH, "truncation": True}
    ids: torch.Tensor = pipe.tokenizer(list(texts), return_tensors="pt", **arguments).input_ids
    return ids


class Diffusers(Peer):
    """The pipeline as a user of diffusers has it."""

    def __init__(self, sources: Sources, variant: str, precision: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._dtype = DTYPES[precision]
        self._pipe = load_pipeline(sources.checkpoint, precision)
        if precision != "fp32":  # the pipeline hands the pixels to NumPy, which has no bfloat16
            _widen_pixels(self._pipe.vqvae)
        if variant == "compile":
            self._pipe.unet = torch.compile(self._pipe.unet, dynamic=False)
            self._pipe.bert = torch.compile(self._pipe.bert, dynamic=False)
            self._pipe.vqvae.decode = torch.compile(self._pipe.vqvae.decode, dynamic=False)

    def text_encoder(self, prompt: str) -> Call:
        def encode() -> Array:
            with torch.inference_mode():
                states = self._pipe.bert(token_ids(self._pipe, [prompt]))[0]
                return _numpy(states)

        return encode

    def unet_step(self, prompt: str, latents: Array) -> Call:
        with torch.inference_mode():
            states = [self._pipe.bert(token_ids(self._pipe, [text]))[0] for text in ("", prompt)]
            context = torch.cat(states)
        doubled = torch.from_numpy(np.concatenate([latents] * 2)).to(self._dtype)
        timestep = torch.tensor(TIMESTEP)

        def step() -> Array:
            with torch.inference_mode():
                predicted = self._pipe.unet(doubled, timestep, encoder_hidden_states=context)
                return _numpy(predicted.sample)

        return step

    def vae_decoder(self, latents: Array) -> Call:
        factor = self._pipe.vqvae.config.scaling_factor
        scaled = torch.from_numpy(latents / factor).to(self._dtype)

        def decode() -> Array:
            with torch.inference_mode():
                image = self._pipe.vqvae.decode(scaled).sample
                return _numpy((image / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1))

        return decode

    def image(self, prompts: Sequence[str], latents: Array, steps: int) -> Call:
        start = torch.from_numpy(latents).to(self._dtype)

        def render() -> Array:
            with torch.inference_mode():
                images: Array = self._pipe(
                    list(prompts),
                    latents=start,
                    num_inference_steps=steps,
                    guidance_scale=GUIDANCE_SCALE,
                    eta=0.0,
                    output_type="np",
                ).images
            return images

        return render

    @staticmethod
    def files(sources: Sources, variant: str, precision: str) -> list[Path]:
        return weight_files(sources.checkpoint)


def _widen_pixels(vqvae: Any) -> None:
    decode = vqvae.decode

    def widened(*arguments: Any, **keywords: Any) -> Any:
        output = decode(*arguments, **keywords)
        output.sample = output.sample.float()
        return output

    vqvae.decode = widened


def _numpy(values: torch.Tensor) -> Array:
    array: Array = values.float().numpy()
    return array
