"""Repairs of the ONNX graphs that paddle2onnx writes; each finds what it expects, or fails.

Nothing here knows of Paddle. Graphs are those of a program traced with its weights as inputs, so a
weight is known by its name in the model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

from ldm_engine.bundle.contract import TensorSpec, dimension_name
from ldm_engine.errors import LDMEngineError


class GraphFormError(LDMEngineError):
    """A converter wrote a graph of another form than its repairs know."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"The ONNX converter wrote a graph of an unknown form: {found}. Install the versions "
            "of paddlepaddle and paddle2onnx that `pip install 'ldm-engine[export]'` asks for."
        )


def repair(
    model: ModelProto,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    norm_epsilons: Mapping[str, float],
) -> None:
    """Make `model` right, in place; weights stay inputs.

    Args:
        model: as paddle2onnx wrote it.
        inputs: the program's inputs, weights not among them.
        outputs: the program's outputs, in the graph's order.
        norm_epsilons: scale weight's name to the epsilon of every GroupNorm and LayerNorm.

    Raises:
        GraphFormError: if the graph is not of the form that is expected.
    """
    graph = model.graph
    drop_identities(graph)
    name_outputs(graph, [t.name for t in outputs])
    set_norm_epsilons(graph, norm_epsilons)
    fold_conv_biases(graph)
    drop_unused(graph)
    describe_tensors(graph, inputs, outputs)
    del graph.value_info[:]
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}.{number}"
    model.producer_name = "ldm-engine"


def drop_identities(graph: GraphProto) -> None:
    """Remove ``Identity`` nodes, of which paddle2onnx writes hundreds."""
    source: dict[str, str] = {}
    kept = []
    outputs = {o.name for o in graph.output}
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = source.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            source[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    replace_nodes(graph, kept)


def name_outputs(graph: GraphProto, names: Sequence[str]) -> None:
    """Give the graph's outputs their names, which are lost on the way through Paddle."""
    if len(graph.output) != len(names):
        raise GraphFormError(f"{len(graph.output)} outputs where {len(names)} were traced")
    renamed = {o.name: name for o, name in zip(graph.output, names, strict=True)}
    for output in graph.output:
        output.name = renamed[output.name]
    for node in graph.node:
        for values in (node.input, node.output):
            for i, name in enumerate(values):
                values[i] = renamed.get(name, name)


def set_norm_epsilons(graph: GraphProto, epsilons: Mapping[str, float]) -> None:
    """Write each normalisation's epsilon; paddle2onnx 2.1.0 takes GroupNorm's from stray memory.

    A GroupNorm comes as reshape, ``InstanceNormalization``, reshape, times scale, plus shift, and
    is known by the name of its scale.
    """
    consumers = _consumers(graph)
    producers = _producers(graph)
    found = []
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            scale = node.input[1]
        elif node.op_type == "InstanceNormalization":
            scale = _group_norm_scale(node, consumers, producers)
        else:
            continue
        if scale not in epsilons:
            raise GraphFormError(f"a {node.op_type} scaled by {scale!r}, which is no normalisation")
        _set_attribute(node, "epsilon", float(epsilons[scale]))
        found.append(scale)
    if sorted(found) != sorted(epsilons):
        raise GraphFormError(
            f"{len(found)} normalisations where the model has {len(epsilons)}; "
            f"missing: {', '.join(sorted(epsilons.keys() - set(found))[:3]) or 'none'}"
        )


def _group_norm_scale(
    norm: NodeProto, consumers: Mapping[str, list[NodeProto]], producers: Mapping[str, NodeProto]
) -> str:
    node = norm
    for op_type in ("Reshape", "Mul"):
        following = consumers.get(node.output[0], [])
        if len(following) != 1 or following[0].op_type != op_type:
            names = ", ".join(n.op_type for n in following) or "nothing"
            raise GraphFormError(f"{names} after {node.op_type} of a GroupNorm, not one {op_type}")
        node = following[0]
    reshaped = producers.get(node.input[1])
    if reshaped is None or reshaped.op_type not in ("Unsqueeze", "Reshape"):
        raise GraphFormError(
            f"a GroupNorm scaled by {node.input[1]!r}, which is no reshaped weight"
        )
    return str(reshaped.input[0])


def fold_conv_biases(graph: GraphProto) -> None:
    """Turn a convolution and the addition of its reshaped bias into one node.

    A transposed one's kernel is computed from the weight, so that only a plain one's name is known.
    """
    consumers, producers = _consumers(graph), _producers(graph)
    weights = {i.name for i in graph.input}
    folded: set[str] = set()
    kinds = ("Conv", "ConvTranspose")
    for conv in (n for n in graph.node if n.op_type in kinds and len(n.input) == 2):
        following = consumers.get(conv.output[0], [])
        if len(following) != 1 or following[0].op_type != "Add":
            raise GraphFormError(f"no bias after the convolution with {conv.input[1]!r}")
        add = following[0]
        reshape = producers.get(next(i for i in add.input if i != conv.output[0]))
        bias = reshape.input[0] if reshape and reshape.op_type == "Reshape" else None
        expected = conv.input[1].removesuffix("weight") + "bias"
        if bias not in weights or (conv.op_type == "Conv" and bias != expected):
            raise GraphFormError(f"{bias!r} added to the convolution with {conv.input[1]!r}")
        conv.input.append(bias)
        conv.output[0] = add.output[0]
        folded.add(add.output[0])
    kept = [n for n in graph.node if not (n.op_type == "Add" and n.output[0] in folded)]
    replace_nodes(graph, kept)


def drop_unused(graph: GraphProto) -> None:
    """Remove nodes whose results nothing uses."""
    used = drop_unused_nodes(graph)
    unused = [i.name for i in graph.input if i.name not in used]
    if unused:
        raise GraphFormError(f"inputs that nothing uses: {', '.join(unused[:3])}")


def drop_unused_nodes(graph: GraphProto) -> set[str]:
    """Remove nodes whose results nothing uses, and return the names of all that is used."""
    used = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in used for name in node.output):
            used.update(node.input)
            kept.append(node)
    replace_nodes(graph, kept[::-1])
    return used


def describe_tensors(
    graph: GraphProto, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Write names, types and shapes of the program's tensors; free dimensions get names too."""
    weights = [i for i in graph.input if i.name not in {t.name for t in inputs}]
    described = [_value_info(t) for t in inputs]
    del graph.input[:]
    graph.input.extend([*described, *weights])
    del graph.output[:]
    graph.output.extend(_value_info(t) for t in outputs)


def _value_info(tensor: TensorSpec) -> ValueInfoProto:
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    dims = [dimension_name(tensor.name, i) if d == -1 else d for i, d in enumerate(tensor.shape)]
    return helper.make_tensor_value_info(tensor.name, kinds[tensor.dtype], dims)


@dataclass(frozen=True)
class StoredWeight:
    """A weight in a data file beside the graph; `dtype` is NumPy's name, offsets are in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def attach_weights(
    graph: GraphProto, inputs: Collection[str], weights: Sequence[StoredWeight], location: str
) -> None:
    """Make `weights` initializers whose values lie in the file `location`; `inputs` stay such.

    Those that are stored as float16 are cast to float32 where they are used.
    """
    for weight in weights:
        tensor = graph.initializer.add()
        tensor.name, tensor.data_location = weight.name, TensorProto.EXTERNAL
        tensor.data_type = helper.np_dtype_to_tensor_dtype(np.dtype(weight.dtype))
        tensor.dims.extend(weight.shape)
        places = {"location": location, "offset": weight.offset, "length": weight.length}
        for key, value in places.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    kept = [i for i in graph.input if i.name in inputs]
    del graph.input[:]
    graph.input.extend(kept)
    _cast_to_float32(graph, [w.name for w in weights if w.dtype == "float16"])


def _cast_to_float32(graph: GraphProto, names: Iterable[str]) -> None:
    casts = {name: f"{name}.float32" for name in names}
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = casts.get(name, name)
    nodes = [
        helper.make_node("Cast", [name], [result], name=f"Cast.{result}", to=TensorProto.FLOAT)
        for name, result in casts.items()
    ]
    replace_nodes(graph, [*nodes, *graph.node])


def _consumers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    consumers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    return consumers


def _producers(graph: GraphProto) -> dict[str, NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _set_attribute(node: NodeProto, name: str, value: float) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def replace_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Make `nodes`, which may be some of its own, all that `graph` has."""
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)
