"""Calling a layer with other tensors in place of its parameters, to trace it with those."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn


@paddle.jit.not_to_static  # type: ignore[untyped-decorator]
def call_with(
    layer: nn.Layer, names: Sequence[str], weights: Sequence[Tensor], inputs: Sequence[Tensor]
) -> Tensor:
    """The output of `layer` for `inputs`, with `weights` as its parameters of these `names`."""
    owners = dict(layer.named_sublayers(include_self=True))
    replaced = []
    try:
        for name, weight in zip(names, weights, strict=True):
            path, _, attribute = name.rpartition(".")
            owner = owners[path]
            replaced.append((owner, attribute, owner._parameters.pop(attribute)))
            object.__setattr__(owner, attribute, weight)
        return layer(*inputs)
    finally:
        for owner, attribute, parameter in replaced:
            object.__delattr__(owner, attribute)
            owner._parameters[attribute] = parameter
