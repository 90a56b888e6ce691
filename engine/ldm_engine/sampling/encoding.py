"""One call of an encoder, and the UNet's shapes: how programs are fed before the loop begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import ModelInfo
from ..runtimes.base import Program
from .tokenizer import Tokenizer


def encode_text(
    program: Program, model: ModelInfo, tokenizer: Tokenizer, text: str
) -> NDArray[np.float32]:
    """Keys and values [T, .] of one text, by the program ``text_encoder``."""
    tokens = model.token_length
    program.allocate({"input_ids": (1, tokens), "text_kv": (1, tokens, model.text_kv_width)})
    np.copyto(program.inputs["input_ids"], tokenizer([text]))
    program.run()
    return np.array(program.outputs["text_kv"][0])


def encode_time(
    program: Program, model: ModelInfo, timesteps: Sequence[int]
) -> NDArray[np.float32]:
    """`time_shift` [S, .] of a schedule, by the program ``time_encoder``."""
    count = len(timesteps)
    program.allocate({"timesteps": (count,), "time_shift": (count, model.time_shift_width)})
    program.inputs["timesteps"][:] = timesteps
    program.run()
    return np.array(program.outputs["time_shift"])


def unet_shapes(
    model: ModelInfo, latents: tuple[int, ...], rows: int
) -> dict[str, tuple[int, ...]]:
    """What ``unet`` is allocated for: `latents` [B, 4, h, w] and B or 2B `rows` of text."""
    return {
        "latents": latents,
        "time_shift": (1, model.time_shift_width),
        "text_kv": (rows, model.token_length, model.text_kv_width),
        "noise_pred": (rows, *latents[1:]),
    }
