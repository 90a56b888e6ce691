"""The loop that one writes around three converted components, with diffusers' schedulers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .contract import GUIDANCE_SCALE, TIMESTEP, TOKEN_LENGTH, Array, Call, Peer
from .solvers import scheduler_for


class NaivePeer(Peer):
    """A peer that has an encoder, a UNet and a decoder, and nothing else."""

    def _open_loop(self, checkpoint: Path, threads: int) -> None:
        """The parts around the components: tokenizer, scheduler, scaling factor."""
        from diffusers import AutoencoderKL, DDIMScheduler
        from transformers import BertTokenizer

        torch.set_num_threads(threads)
        self._tokenizer = BertTokenizer.from_pretrained(checkpoint / "tokenizer")
        self._ddim = DDIMScheduler.from_pretrained(checkpoint / "scheduler")
        config = AutoencoderKL.load_config(checkpoint / "vqvae")
        self._scaling_factor: float = config.get("scaling_factor", 0.18215)

    @abstractmethod
    def _encode(self, input_ids: NDArray[np.int64]) -> Array:
        """[1, 77] to hidden states [1, 77, D]."""

    @abstractmethod
    def _predict(self, latents: Array, timestep: int, context: Array) -> Array:
        """Doubled latents [2B, 4, h, w] and context [2B, 77, D] to noise [2B, 4, h, w]."""

    @abstractmethod
    def _decode(self, latents: Array) -> Array:
        """Unscaled latents [1, 4, h, w] to pixels [1, 3, H, W] in [-1, 1]."""

    def text_encoder(self, prompt: str) -> Call:
        return lambda: self._encode(self._ids(prompt))

    def unet_step(self, prompt: str, latents: Array) -> Call:
        context = self._context([prompt])
        doubled = np.concatenate([latents, latents])
        return lambda: self._predict(doubled, TIMESTEP, context)

    def vae_decoder(self, latents: Array) -> Call:
        scaled = latents / np.float32(self._scaling_factor)
        return lambda: _pixels(self._decode(scaled))

    def image(self, prompts: Sequence[str], latents: Array, steps: int, solver: str) -> Call:
        from diffusers import DPMSolverMultistepScheduler

        scheduler = scheduler_for(solver, self._ddim, DPMSolverMultistepScheduler, torch.from_numpy)
        return lambda: self._render(prompts, latents, steps, scheduler)

    def _render(self, prompts: Sequence[str], latents: Array, steps: int, scheduler: Any) -> Array:
        context = self._context(prompts)
        scheduler.set_timesteps(steps)
        for timestep in scheduler.timesteps:
            predicted = self._predict(np.concatenate([latents] * 2), int(timestep), context)
            unconditional, guided = np.split(predicted, 2)
            guided = unconditional + GUIDANCE_SCALE * (guided - unconditional)
            moved = scheduler.step(torch.from_numpy(guided), timestep, torch.from_numpy(latents))
            latents = moved.prev_sample.numpy()
        scaled = latents / np.float32(self._scaling_factor)
        return _pixels(np.concatenate([self._decode(row[None]).copy() for row in scaled]))

    def _context(self, prompts: Sequence[str]) -> Array:
        """[2B, 77, D], unconditional rows first; each text is encoded once a call."""
        empty = self._encode(self._ids("")).copy()
        return np.concatenate(
            [*[empty] * len(prompts), *[self._encode(self._ids(p)).copy() for p in prompts]]
        )

    def _ids(self, text: str) -> NDArray[np.int64]:
        arguments = {"padding": "max_length", "max_length": TOKEN_LENGTH, "truncation": True}
        ids: NDArray[np.int64] = self._tokenizer([text], return_tensors="np", **arguments).input_ids
        return ids.astype(np.int64)


def _pixels(image: Array) -> Array:
    """[B, 3, H, W] in [-1, 1] to [B, H, W, 3] in [0, 1]."""
    return np.clip(image / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
