"""What an ONNX graph computes from weights alone, computed at the export: every run begins without.

A runtime would do it when it loads the graph, and keep copies: of the large UNet 665 MB, most of
them cut or transposed matrices. As weights of their own they can be mapped from the file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from .onnx_graph import drop_unused_nodes, replace_nodes

#: Gives a weight when it is written: of a large model only one is in memory at a time.
Weight = Callable[[], NDArray[np.float32]]


def fold_constants(graph: GraphProto, weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """Take out of `graph`, in place, the nodes that depend on `weights`, its inputs, alone.

    Returns:
        The weights that its nodes take afterwards, by name.
    """
    known, renamed = dict(weights), dict[str, str]()
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    outputs = {output.name for output in graph.output}
    taken = {value.name for value in (*graph.input, *graph.initializer)}
    taken |= {name for node in graph.node for name in node.output}
    kept = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        names = {name for name in node.input if name}
        of_weights = names & known.keys() and names <= known.keys() | constants.keys()
        if of_weights and outputs.isdisjoint(node.output):
            inputs = {name: known.get(name, constants.get(name)) for name in names}
            source = next(name for name in node.input if name in known)
            for number, output in enumerate(node.output):
                renamed[output] = _free(f"{source}.{node.op_type.lower()}", taken)
                taken.add(renamed[output])
                known[renamed[output]] = partial(_computed, node, number, inputs)
            continue
        kept.append(node)
        if names <= constants.keys():  # small: shapes, axes, and what is made of them
            results = _results(node, {name: constants[name] for name in names})
            constants |= dict(zip(node.output, results, strict=True))
    replace_nodes(graph, kept)
    used = drop_unused_nodes(graph)
    small = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(small)
    return {name: weight for name, weight in known.items() if name in used}


def _free(name: str, taken: Collection[str]) -> str:
    """`name`, with a number where it is taken."""
    names = (name if number == 1 else f"{name}{number}" for number in count(1))
    return next(name for name in names if name not in taken)


def _computed(node: NodeProto, number: int, inputs: Mapping[str, Any]) -> NDArray[np.float32]:
    """Output `number` of a node over weights and constants."""
    arrays = {name: value() if callable(value) else value for name, value in inputs.items()}
    result: NDArray[np.float32] = _results(node, arrays)[number]
    return result


def _results(node: NodeProto, inputs: Mapping[str, NDArray[Any]]) -> list[Any]:
    results: list[Any] = ReferenceEvaluator(node).run(None, dict(inputs))
    return results
