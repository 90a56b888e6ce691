"""One call of an encoder, and the UNet's shapes: how programs are fed before the loop begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..bundle.contract import shapes
from ..bundle.model import ModelInfo
from ..runtimes.base import Program


def encode_text(
    program: Program, model: ModelInfo, input_ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Keys and values [T, .] of one text's ids [1, T], by the program ``text_encoder``."""
    program.allocate(shapes("text_encoder", model, N=1))
    np.copyto(program.inputs["input_ids"], input_ids)
    program.run()
    return np.array(program.outputs["text_kv"][0])


def encode_time(
    program: Program, model: ModelInfo, timesteps: Sequence[int]
) -> NDArray[np.float32]:
    """`time_shift` [S, .] of a schedule, by the program ``time_encoder``."""
    program.allocate(shapes("time_encoder", model, S=len(timesteps)))
    program.inputs["timesteps"][:] = timesteps
    program.run()
    return np.array(program.outputs["time_shift"])


def encode_picture(
    program: Program, model: ModelInfo, picture: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Latents [C, h, w] of one picture [H, W, 3], by the program ``vae_encoder``."""
    height, width = (side // model.scale_factor for side in picture.shape[:2])
    program.allocate(shapes("vae_encoder", model, B=1, h=height, w=width))
    np.divide(picture, np.float32(255), out=program.inputs["image"][0])
    program.run()
    return np.array(program.outputs["latents"][0])


def unet_shapes(
    model: ModelInfo, latents: tuple[int, ...], rows: int
) -> dict[str, tuple[int, ...]]:
    """What ``unet`` is allocated for: `latents` [B, C, h, w] and B or 2B `rows` of text."""
    count, _, height, width = latents
    return shapes("unet", model, B=count, rows=rows, h=height, w=width)
