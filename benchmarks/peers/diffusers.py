"""diffusers' own pipeline in torch, eager or compiled.

On a GPU torch is as it comes, but for TF32, which would round fp32's convolutions: neither
``cudnn.benchmark`` nor ``channels_last`` is set, which could speed it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler

from .contract import GUIDANCE_SCALE, TIMESTEP, TOKEN_LENGTH, Array, Call, Peer, Setup, Sources
from .conversions import weight_files
from .solvers import scheduler_for

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_pipeline(checkpoint: Path, precision: str = "fp32") -> Any:
    """The published pipeline class over a folder in the diffusers layout."""
    from diffusers import LDMTextToImagePipeline

    pipe = LDMTextToImagePipeline.from_pretrained(checkpoint, dtype=DTYPES[precision])
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Diffusers(Peer):
    """The pipeline as a user of diffusers has it."""

    def __init__(self, sources: Sources, setup: Setup) -> None:
        torch.set_num_threads(setup.threads)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self._kind = {
            "device": torch.device(setup.device.replace("gpu", "cuda")),
            "dtype": DTYPES[setup.precision],
        }
        self._pipe = load_pipeline(sources.checkpoint, setup.precision).to(self._kind["device"])
        self._ddim = self._pipe.scheduler
        if setup.precision != "fp32":  # the pipeline gives its pixels to NumPy: no bfloat16 there
            _widen_pixels(self._pipe.vqvae)
        if setup.variant == "compile":
            mode = None if setup.device == "cpu" else "reduce-overhead"
            compiled = partial(torch.compile, dynamic=False, mode=mode)
            self._pipe.unet = compiled(self._pipe.unet)
            self._pipe.bert = compiled(self._pipe.bert)
            self._pipe.vqvae.decode = compiled(self._pipe.vqvae.decode)

    def text_encoder(self, prompt: str) -> Call:
        def encode() -> Array:
            with torch.inference_mode():
                return _numpy(self._states(prompt))

        return encode

    def unet_step(self, prompt: str, latents: Array) -> Call:
        with torch.inference_mode():
            context = torch.cat([self._states(text).clone() for text in ("", prompt)])
        doubled = torch.from_numpy(np.concatenate([latents] * 2)).to(**self._kind)
        timestep = torch.tensor(TIMESTEP, device=self._kind["device"])

        def step() -> Array:
            with torch.inference_mode():
                predicted = self._pipe.unet(doubled, timestep, encoder_hidden_states=context)
                return _numpy(predicted.sample)

        return step

    def vae_decoder(self, latents: Array) -> Call:
        factor = self._pipe.vqvae.config.scaling_factor
        scaled = torch.from_numpy(latents / factor).to(**self._kind)

        def decode() -> Array:
            with torch.inference_mode():
                image = self._pipe.vqvae.decode(scaled).sample
                return _numpy((image / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1))

        return decode

    def image(self, prompts: Sequence[str], latents: Array, steps: int, solver: str) -> Call:
        self._pipe.scheduler = scheduler_for(
            solver, self._ddim, DPMSolverMultistepScheduler, torch.from_numpy
        )
        start = torch.from_numpy(latents).to(**self._kind)

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

    def _states(self, text: str) -> torch.Tensor:
        """[1, 77, D], as the pipeline makes them."""
        arguments = {"padding": "max_length", "max_length": TOKEN_LENGTH, "truncation": True}
        ids = self._pipe.tokenizer([text], return_tensors="pt", **arguments).input_ids
        states: torch.Tensor = self._pipe.bert(ids.to(self._kind["device"]))[0]
        return states

    @staticmethod
    def files(sources: Sources, setup: Setup) -> list[Path]:
        return weight_files(sources.checkpoint)


def _widen_pixels(vqvae: Any) -> None:
    decode = vqvae.decode

    def widened(*arguments: Any, **keywords: Any) -> Any:
        output = decode(*arguments, **keywords)
        output.sample = output.sample.float()
        return output

    vqvae.decode = widened


def _numpy(values: torch.Tensor) -> Array:
    array: Array = values.float().cpu().numpy()
    return array
