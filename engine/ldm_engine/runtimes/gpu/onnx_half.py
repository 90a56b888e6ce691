"""An ONNX program rewritten in memory to compute in fp16, as its graph and its weights.

ONNX Runtime's CUDA provider computes in what the graph says. Inputs and outputs stay float32, and
so do instance norms, which group norms are written with, and softmax: sums of squares and of
exponentials.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BundleError, RuntimeUnavailableError

#: Operators that compute in fp32.
FP32_OPERATORS = ("InstanceNormalization", "Softmax")
MISSING = "fp16 with ONNX Runtime needs the package onnx; install it with `pip install onnx`"
_FP16, _FP32 = ".fp16", ".fp32"


@dataclass(frozen=True)
class HalfProgram:
    """A graph without weights, and the weights by name."""

    graph: bytes
    weights: dict[str, NDArray[Any]]


def halve_program(graph: Path, data: Path) -> HalfProgram:
    """The program whose graph and weights are these files, in fp16.

    Raises:
        RuntimeUnavailableError: if the package onnx is not installed.
        BundleError: if the graph cannot be read.
    """
    try:
        import onnx
    except ImportError as error:
        raise RuntimeUnavailableError(f"{MISSING} ({error}).") from error
    try:
        model = onnx.load(str(graph), load_external_data=False)
        weights = dict(_halve_weights(model.graph, data))
    except Exception as error:  # protobuf's own, which has no public name in onnx
        raise BundleError(
            f"{graph} cannot be read in fp16: {error}. Copy the bundle again, or export it again."
        ) from error
    _halve_nodes(model.graph)
    del model.graph.value_info[:]
    return HalfProgram(model.SerializeToString(), weights)


def _halve_weights(graph: Any, data: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """The weights by name, with float32 turned into fp16, as `graph` declares them afterwards."""
    from onnx import TensorProto, helper

    for weight in graph.initializer:
        place = {entry.key: entry.value for entry in weight.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(weight.data_type)
        shape = tuple(weight.dims)
        values = np.memmap(data, dtype, "r", int(place.get("offset", 0)), shape or (1,))
        if weight.data_type == TensorProto.FLOAT:
            weight.data_type = TensorProto.FLOAT16
            yield weight.name, values.astype(np.float16).reshape(shape)
        else:
            yield weight.name, np.array(values).reshape(shape)


def _halve_nodes(graph: Any) -> None:
    """Have all nodes but ``FP32_OPERATORS`` compute in fp16, with casts where fp32 meets it."""
    from onnx import TensorProto, helper

    def is_float(value: Any) -> bool:
        return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)

    def cast(source: str, target: str, kind: int) -> Any:
        return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=kind)

    fp16, fp32 = TensorProto.FLOAT16, TensorProto.FLOAT
    ends = {value.name for value in (*graph.input, *graph.output) if is_float(value)}

    def inner(name: str) -> str:
        return name + _FP16 if name in ends else name

    nodes = [cast(v.name, inner(v.name), fp16) for v in graph.input if v.name in ends]
    in_fp32: set[str] = set()
    for node in graph.node:
        inputs, outputs = ([inner(name) for name in names] for names in (node.input, node.output))
        casts_back = []
        if node.op_type in FP32_OPERATORS:
            nodes += [cast(n, n + _FP32, fp32) for n in dict.fromkeys(inputs) if n not in in_fp32]
            in_fp32.update(inputs)
            casts_back = [cast(name + _FP32, name, fp16) for name in outputs]
            inputs, outputs = ([name + _FP32 for name in names] for names in (inputs, outputs))
        else:
            _halve_attributes(node)
        node.input[:], node.output[:] = inputs, outputs
        nodes += [node, *casts_back]
    nodes += [cast(inner(v.name), v.name, fp32) for v in graph.output if v.name in ends]
    copies = []
    for node in nodes:  # before the graph, which holds some of them, is emptied
        copies.append(type(node)())
        copies[-1].CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)


def _halve_attributes(node: Any) -> None:
    """Turn a constant of fp32, or a cast to it, into one of fp16."""
    from onnx import TensorProto, numpy_helper

    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(attribute.t).astype(np.float16)
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
