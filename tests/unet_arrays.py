"""Shapes of the UNet's arrays, and numbers to fill its inputs with."""

from __future__ import annotations

import numpy as np


def shapes(bundle, batch, rows, height=8, width=None):
    """All arrays of the UNet, of square latents unless `width` says otherwise."""
    model = bundle.model
    sides = (height, height if width is None else width)
    return {
        "latents": (batch, 4, *sides),
        "time_shift": (1, model.time_shift_width),
        "text_kv": (rows, model.token_length, model.text_kv_width),
        "noise_pred": (rows, 4, *sides),
    }


def fill(program, seed=0):
    stream = np.random.RandomState(seed)
    for array in program.inputs.values():
        array[:] = stream.standard_normal(array.shape)
