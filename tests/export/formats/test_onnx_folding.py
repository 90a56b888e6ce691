"""What is folded of graphs that exporters do not write today."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from ldm_export.formats.onnx_folding import fold_constants

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(nodes, outputs):
    """`nodes` on "x" [1, 2] and the weight "W" [2, 3], an input."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
        "graph",
        [value("x", TensorProto.FLOAT, [1, 2]), value("W", TensorProto.FLOAT, [2, 3])],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def results(model, weights):
    inputs = {"x": np.ones((1, 2), np.float32), **weights}
    return ReferenceEvaluator(model).run(None, inputs)


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([("Transpose", ["W"], ["t"]), ("MatMul", ["x", "W"], ["y"])], ["y", "t"]),
        (
            [
                ("MatMul", ["x", "W"], ["W.transpose"]),
                ("Transpose", ["W"], ["t"]),
                ("MatMul", ["W.transpose", "t"], ["y"]),
            ],
            ["y"],
        ),
        (
            [
                ("Transpose", ["W"], ["t"]),
                ("Neg", ["t"], ["n"]),
                ("MatMul", ["x", "W"], ["h"]),
                ("MatMul", ["h", "n"], ["y"]),
            ],
            ["y"],
        ),
    ],
    ids=["an output of weights alone", "a name that is taken", "one after another"],
)
def test_what_a_graph_gives_stays(nodes, outputs):
    graph = model(nodes, outputs)
    expected = results(graph, {"W": WEIGHT})
    weights = fold_constants(graph.graph, {"W": lambda: WEIGHT})
    names = [output.name for output in graph.graph.output]
    assert names == outputs
    for name in weights.keys() - {"W"}:
        graph.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    for given, wanted in zip(
        results(graph, {name: make() for name, make in weights.items()}), expected, strict=True
    ):
        np.testing.assert_array_equal(given, wanted)
