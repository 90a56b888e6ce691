"""Between a layer and a state dict of torch layout: which shapes it needs, and how to fill it.

The one difference in layout: ``paddle.nn.Linear`` keeps its weight as [in, out], torch as
[out, in].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from paddle import nn


def _linear_weights(layer: nn.Layer) -> set[str]:
    return {
        f"{name}.weight" if name else "weight"
        for name, sublayer in layer.named_sublayers(include_self=True)
        if isinstance(sublayer, nn.Linear)
    }


def tensor_shapes(layer: nn.Layer) -> dict[str, tuple[int, ...]]:
    """Name to shape, in torch layout, of every tensor that `layer` needs."""
    transposed = _linear_weights(layer)
    return {
        name: tuple(p.shape[::-1] if name in transposed else p.shape)
        for name, p in layer.named_parameters()
    }


def load_tensors(layer: nn.Layer, state: Mapping[str, np.ndarray]) -> None:
    """Copy `state`, checked before against ``tensor_shapes``, into the parameters of `layer`."""
    transposed = _linear_weights(layer)
    for name, parameter in layer.named_parameters():
        value = state[name].astype(np.float32, copy=False)
        parameter.set_value(np.ascontiguousarray(value.T) if name in transposed else value)
