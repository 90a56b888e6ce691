"""This project's Paddle models before they are exported: what eager Paddle would give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
from numpy.typing import NDArray

from ldm_export.checkpoint import open_checkpoint
from ldm_export.loading import load_models, read_configs

from .contract import Array, Setup, Sources
from .conversions import weight_files
from .naive import NaivePeer


class PaddleDygraph(NaivePeer):
    """The undivided models in eager mode."""

    def __init__(self, sources: Sources, setup: Setup) -> None:
        paddle.set_device("cpu")
        checkpoint = open_checkpoint(sources.checkpoint)
        self._models = load_models(checkpoint, read_configs(checkpoint, with_encoder=False))
        self._open_loop(sources.checkpoint, setup.threads)

    def _encode(self, input_ids: NDArray[np.int64]) -> Array:
        with paddle.no_grad():
            states: Array = self._models.text_encoder(paddle.to_tensor(input_ids)).numpy()
        return states

    def _predict(self, latents: Array, timestep: int, context: Array) -> Array:
        inputs = (paddle.to_tensor(a) for a in (latents, np.array([timestep], np.float32), context))
        with paddle.no_grad():
            predicted: Array = self._models.unet(*inputs).numpy()
        return predicted

    def _decode(self, latents: Array) -> Array:
        with paddle.no_grad():
            pixels: Array = self._models.autoencoder(paddle.to_tensor(latents)).numpy()
        return pixels

    @staticmethod
    def files(sources: Sources, setup: Setup) -> list[Path]:
        return weight_files(sources.checkpoint)
