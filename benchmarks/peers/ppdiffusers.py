"""ppdiffusers' own pipeline in Paddle, eager: what a user of Paddle has."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from ppdiffusers import DPMSolverMultistepScheduler, LDMTextToImagePipeline
from safetensors.numpy import load_file, save_file

from .contract import GUIDANCE_SCALE, TIMESTEP, TOKEN_LENGTH, Array, Call, Peer, Setup, Sources
from .conversions import WEIGHTS, conversion_folder, convert_once, weight_files
from .solvers import scheduler_for

#: Folder -> the name of its weights, and whose arrays ppdiffusers takes them for.
_LAYOUT = {
    "bert": ("model.safetensors", "np"),
    "unet": ("diffusion_paddle_model.safetensors", "pd"),
    "vqvae": ("diffusion_paddle_model.safetensors", "pd"),
}


class PPDiffusers(Peer):
    """The pipeline over the checkpoint in ppdiffusers' own layout."""

    def __init__(self, sources: Sources, setup: Setup) -> None:
        paddle.set_device("cpu")
        folder = _folder_of(sources)
        convert_once(folder, lambda scratch: _convert(sources.checkpoint, scratch))
        self._pipe = LDMTextToImagePipeline.from_pretrained(str(folder))
        self._pipe.set_progress_bar_config(disable=True)
        self._ddim = self._pipe.scheduler

    def text_encoder(self, prompt: str) -> Call:
        def encode() -> Array:
            with paddle.no_grad():
                return _numpy(self._states(prompt))

        return encode

    def unet_step(self, prompt: str, latents: Array) -> Call:
        with paddle.no_grad():
            context = paddle.concat([self._states(text) for text in ("", prompt)])
        doubled = paddle.to_tensor(np.concatenate([latents] * 2))
        timestep = paddle.to_tensor(TIMESTEP)

        def step() -> Array:
            with paddle.no_grad():
                predicted = self._pipe.unet(doubled, timestep, encoder_hidden_states=context)
                return _numpy(predicted.sample)

        return step

    def vae_decoder(self, latents: Array) -> Call:
        scaled = paddle.to_tensor(latents / self._pipe.vqvae.config.scaling_factor)

        def decode() -> Array:
            with paddle.no_grad():
                image = self._pipe.vqvae.decode(scaled).sample
                return _numpy((image / 2 + 0.5).clip(0, 1).transpose([0, 2, 3, 1]))

        return decode

    def image(self, prompts: Sequence[str], latents: Array, steps: int, solver: str) -> Call:
        start = paddle.to_tensor(latents)
        self._pipe.scheduler = scheduler_for(
            solver, self._ddim, DPMSolverMultistepScheduler, paddle.to_tensor
        )

        def render() -> Array:
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

    def _states(self, text: str) -> paddle.Tensor:
        """[1, 77, D], as the pipeline makes them."""
        arguments = {"padding": "max_length", "max_length": TOKEN_LENGTH, "truncation": True}
        ids = self._pipe.tokenizer([text], return_tensors="pd", **arguments).input_ids
        return self._pipe.bert(ids)[0]

    @staticmethod
    def files(sources: Sources, setup: Setup) -> list[Path]:
        return weight_files(_folder_of(sources))


def _folder_of(sources: Sources) -> Path:
    return conversion_folder(sources, "ppdiffusers", ("ppdiffusers",))


def _convert(checkpoint: Path, folder: Path) -> None:
    """Its layout: weights of linear layers are the other way round. It fails to convert itself."""
    others = shutil.ignore_patterns(*(f"*{suffix}" for suffix in WEIGHTS))
    shutil.copytree(checkpoint, folder, ignore=others, dirs_exist_ok=True)
    for component, (name, format_) in _LAYOUT.items():
        (path,) = weight_files(checkpoint / component)
        tensors = load_file(path)
        for key, values in tensors.items():
            if values.ndim == 2 and "embed_" not in key:
                tensors[key] = np.ascontiguousarray(values.T)
        save_file(tensors, folder / component / name, metadata={"format": format_})


def _numpy(values: paddle.Tensor) -> Array:
    array: Array = values.numpy()
    return array
