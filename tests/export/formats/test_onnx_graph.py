"""The repairs on small graphs written by hand, run with ONNX Runtime before and after."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ldm_engine.bundle.contract import TensorSpec
from ldm_engine.errors import LDMEngineError
from ldm_export.formats.onnx_graph import (
    GraphFormError,
    StoredWeight,
    attach_weights,
    describe_tensors,
    drop_identities,
    drop_unused,
    fold_conv_biases,
    name_outputs,
    repair,
    set_norm_epsilons,
)

ROUNDING = 2e-6  # float32 sums of a few dozen numbers near 1, in another order
CHANNELS, GROUPS, EPSILON = 8, 2, 1e-2  # an epsilon so large that a wrong one is plain to see
GARBAGE = [0.0, -2941888.0, float("nan"), None]  # what paddle2onnx was seen to write; None: nothing


def values(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def model_of(nodes, inputs, outputs, constants=()):
    """A model with float32 inputs of given shapes, and outputs of any shape."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in dict(constants).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def run(model, feeds):
    source = model if isinstance(model, str) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(source, options).run(None, feeds)


def types(graph):
    return [node.op_type for node in graph.node]


def test_the_error_names_what_to_install():
    assert issubclass(GraphFormError, LDMEngineError)
    assert "3 outputs" in str(GraphFormError("3 outputs"))
    assert "pip install 'ldm-engine[export]'" in str(GraphFormError("3 outputs"))


# Identities


def test_a_chain_of_identities_goes_and_the_result_stays():
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Identity", ["b"], ["c"]),
        helper.make_node("Neg", ["c"], ["d"]),
        helper.make_node("Identity", ["d"], ["e"]),
        helper.make_node("Mul", ["e", "b"], ["y"]),
    ]
    model = model_of(nodes, {"x": [3]}, ["y"])
    feeds = {"x": values(3)}
    before = run(model, feeds)[0]
    drop_identities(model.graph)
    assert types(model.graph) == ["Neg", "Mul"]
    np.testing.assert_array_equal(run(model, feeds)[0], before)


def test_an_identity_that_makes_an_output_stays_and_reads_past_the_others():
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Identity", ["b"], ["y"]),
        helper.make_node("Identity", ["x"], ["z"]),
    ]
    model = model_of(nodes, {"x": [3]}, ["y", "z"])
    feeds = {"x": values(3)}
    before = run(model, feeds)
    drop_identities(model.graph)
    assert [(n.op_type, n.input[0]) for n in model.graph.node] == [
        ("Neg", "x"),
        ("Identity", "a"),
        ("Identity", "x"),
    ]
    for was, now in zip(before, run(model, feeds), strict=True):
        np.testing.assert_array_equal(now, was)


OPERATIONS = {"Identity": 1, "Neg": 1, "Add": 2, "Mul": 2, "Sin": 1}


@st.composite
def dags(draw):
    """Nodes over x, in an order that runs, and one or two of their results as outputs."""
    names, nodes = ["x"], []
    for i in range(draw(st.integers(1, 12))):
        op_type = draw(st.sampled_from(sorted(OPERATIONS)))
        inputs = [draw(st.sampled_from(names)) for _ in range(OPERATIONS[op_type])]
        nodes.append(helper.make_node(op_type, inputs, [f"t{i}"]))
        names.append(f"t{i}")
    outputs = draw(st.lists(st.sampled_from(names[1:]), min_size=1, max_size=2, unique=True))
    return model_of(nodes, {"x": [3]}, outputs)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=dags())
def test_dropping_what_is_superfluous_changes_no_result(model):
    feeds = {"x": values(3)}
    before = run(model, feeds)
    outputs = {o.name for o in model.graph.output}
    wanted = [f"named {i}" for i in range(len(outputs))]
    drop_identities(model.graph)
    assert all(n.output[0] in outputs for n in model.graph.node if n.op_type == "Identity")
    name_outputs(model.graph, wanted)
    drop_unused(model.graph)
    needed = {i for n in model.graph.node for i in n.input} | set(wanted)
    assert all(n.output[0] in needed for n in model.graph.node)
    for was, now in zip(before, run(model, feeds), strict=True):
        np.testing.assert_array_equal(now, was)


# Outputs


def test_outputs_get_their_names_wherever_they_are_read():
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Sin", ["a"], ["b"]),
        helper.make_node("Add", ["b", "a"], ["c"]),
    ]
    model = model_of(nodes, {"x": [3]}, ["c", "a"])
    feeds = {"x": values(3)}
    before = run(model, feeds)
    name_outputs(model.graph, ["total", "part"])
    assert [o.name for o in model.graph.output] == ["total", "part"]
    assert list(model.graph.node[2].input) == ["b", "part"]
    for was, now in zip(before, run(model, feeds), strict=True):
        np.testing.assert_array_equal(now, was)


@pytest.mark.parametrize("names", [[], ["y", "z"]])
def test_another_number_of_outputs_is_refused(names):
    model = model_of([helper.make_node("Neg", ["x"], ["y"])], {"x": [3]}, ["y"])
    with pytest.raises(GraphFormError, match=f"1 outputs where {len(names)}"):
        name_outputs(model.graph, names)


# Normalisations


def norm(op_type, inputs, output, epsilon, **attributes):
    if epsilon is not None:
        attributes["epsilon"] = epsilon
    return helper.make_node(op_type, inputs, [output], **attributes)


def group_norm(epsilon, reshape="Reshape"):
    """The form that paddle2onnx writes, over x [B, C, H, W]."""
    unsqueezed = {"Reshape": "column", "Unsqueeze": "axes"}[reshape]
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Reshape", ["x", "grouped"], ["a"]),
        norm("InstanceNormalization", ["a", "ones", "zeros"], "b", epsilon),
        helper.make_node("Reshape", ["b", "size"], ["c"]),
        helper.make_node(reshape, ["norm.weight", unsqueezed], ["scale"]),
        helper.make_node("Mul", ["c", "scale"], ["d"]),
        helper.make_node(reshape, ["norm.bias", unsqueezed], ["shift"]),
        helper.make_node("Add", ["d", "shift"], ["y"]),
    ]
    constants = {
        "grouped": np.array([0, GROUPS, -1]),
        "column": np.array([1, CHANNELS, 1, 1]),
        "axes": np.array([0, 2, 3]),
        "ones": np.ones(GROUPS, np.float32),
        "zeros": np.zeros(GROUPS, np.float32),
    }
    inputs = {"x": ["b", CHANNELS, "h", "w"], "norm.weight": [CHANNELS], "norm.bias": [CHANNELS]}
    return model_of(nodes, inputs, ["y"], constants)


def group_norm_feeds():
    return {
        "x": values(2, CHANNELS, 3, 5) * 0.3,
        "norm.weight": values(CHANNELS, seed=1),
        "norm.bias": values(CHANNELS, seed=2),
    }


@pytest.mark.parametrize("reshape", ["Reshape", "Unsqueeze"])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_group_norm_gets_its_epsilon(garbage, reshape):
    model, feeds = group_norm(garbage, reshape), group_norm_feeds()
    set_norm_epsilons(model.graph, {"norm.weight": EPSILON})
    node = next(n for n in model.graph.node if n.op_type == "InstanceNormalization")
    assert [(a.name, a.f) for a in node.attribute] == [("epsilon", np.float32(EPSILON))]
    grouped = feeds["x"].reshape(2, GROUPS, -1).astype(np.float64)
    centred = grouped - grouped.mean(-1, keepdims=True)
    normal = (centred / np.sqrt(grouped.var(-1, keepdims=True) + EPSILON)).reshape(2, -1, 3, 5)
    scale, shift = (feeds[n][:, None, None] for n in ("norm.weight", "norm.bias"))
    np.testing.assert_allclose(run(model, feeds)[0], normal * scale + shift, atol=ROUNDING)


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_layer_norm_gets_its_epsilon_and_keeps_its_axis(garbage):
    node = norm("LayerNormalization", ["x", "w", "b"], "y", garbage, axis=1)
    model = model_of([node], {"x": [2, 3, 4], "w": [3, 4], "b": [3, 4]}, ["y"])
    feeds = {"x": values(2, 3, 4) * 0.3, "w": values(3, 4, seed=1), "b": values(3, 4, seed=2)}
    set_norm_epsilons(model.graph, {"w": EPSILON})
    assert {a.name for a in model.graph.node[0].attribute} == {"axis", "epsilon"}
    wide = feeds["x"].astype(np.float64)
    centred = wide - wide.mean((1, 2), keepdims=True)
    normal = centred / np.sqrt(wide.var((1, 2), keepdims=True) + EPSILON)
    np.testing.assert_allclose(
        run(model, feeds)[0], normal * feeds["w"] + feeds["b"], atol=ROUNDING
    )


def test_each_norm_gets_the_epsilon_of_its_own_scale():
    nodes = [
        norm("LayerNormalization", ["x", f"{n}.weight", f"{n}.bias"], n, 0.0) for n in ("p", "q")
    ]
    weights = {f"{n}.{kind}": [4] for n in ("p", "q") for kind in ("weight", "bias")}
    model = model_of(nodes, {"x": [2, 4], **weights}, ["p", "q"])
    set_norm_epsilons(model.graph, {"q.weight": 0.25, "p.weight": 0.5})
    assert [n.attribute[-1].f for n in model.graph.node] == [0.5, 0.25]


def test_a_norm_of_the_model_that_the_graph_lacks_is_named():
    with pytest.raises(
        GraphFormError, match=r"1 normalisations where .* 2; missing: other\.weight"
    ):
        set_norm_epsilons(group_norm(0.0).graph, {"norm.weight": 1e-5, "other.weight": 1e-5})


def test_a_norm_that_the_model_lacks_is_named():
    with pytest.raises(GraphFormError, match=r"InstanceNormalization scaled by 'norm\.weight'"):
        set_norm_epsilons(group_norm(0.0).graph, {"other.weight": 1e-5})


def test_one_scale_in_two_norms_is_refused():
    nodes = [norm("LayerNormalization", ["x", "w", "b"], n, 0.0) for n in ("p", "q")]
    model = model_of(nodes, {"x": [2, 4], "w": [4], "b": [4]}, ["p", "q"])
    with pytest.raises(GraphFormError, match="2 normalisations where the model has 1"):
        set_norm_epsilons(model.graph, {"w": 1e-5})


def swap_scale(graph):
    multiply = next(n for n in graph.node if n.op_type == "Mul")
    multiply.input[0], multiply.input[1] = multiply.input[1], multiply.input[0]


def scale_directly(graph):
    next(n for n in graph.node if n.op_type == "Mul").input[1] = "norm.weight"


def read_twice(graph):
    graph.node.append(helper.make_node("Neg", ["c"], ["also"]))


def add_instead(graph):
    next(n for n in graph.node if n.op_type == "Mul").op_type = "Sub"


def end_early(graph):
    del graph.node[3:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_scale, "'c', which is no normalisation|'b', which is no normalisation"),
        (scale_directly, r"'norm\.weight', which is no reshaped weight"),
        (read_twice, "Mul, Neg after Reshape of a GroupNorm, not one Mul"),
        (add_instead, "Sub after Reshape of a GroupNorm, not one Mul"),
        (end_early, "nothing after InstanceNormalization of a GroupNorm, not one Reshape"),
    ],
)
def test_a_group_norm_of_another_form_is_refused(change, message):
    graph = group_norm(0.0).graph
    change(graph)
    with pytest.raises(GraphFormError, match=message):
        set_norm_epsilons(graph, {"norm.weight": 1e-5})


# Convolutions


def convolution(swapped=False, reshape="Reshape", bias="conv.bias"):
    added = ["a", "column"]
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node(reshape, [bias, "shape"], ["column"]),
        helper.make_node("Add", added[::-1] if swapped else added, ["sum"]),
        helper.make_node("Neg", ["sum"], ["y"]),
    ]
    inputs = {"x": ["b", 2, "h", "w"], "conv.weight": [3, 2, 3, 3], "conv.bias": [3]}
    return model_of(nodes, inputs, ["y"], {"shape": np.array([1, 3, 1, 1])})


@pytest.mark.parametrize("swapped", [False, True])
def test_a_bias_moves_into_its_convolution(swapped):
    model = convolution(swapped)
    feeds = {
        "x": values(2, 2, 5, 4),
        "conv.weight": values(3, 2, 3, 3, seed=1),
        "conv.bias": values(3, seed=2),
    }
    before = run(model, feeds)[0]
    fold_conv_biases(model.graph)
    drop_unused(model.graph)
    assert types(model.graph) == ["Conv", "Neg"]
    assert list(model.graph.node[0].input) == ["x", "conv.weight", "conv.bias"]
    np.testing.assert_allclose(run(model, feeds)[0], before, atol=ROUNDING)


def test_a_convolution_that_has_its_bias_is_left_alone():
    model = convolution()
    fold_conv_biases(model.graph)
    once = model.SerializeToString()
    fold_conv_biases(model.graph)
    assert model.SerializeToString() == once


def test_other_additions_stay():
    model = convolution()
    model.graph.node.append(helper.make_node("Add", ["y", "sum"], ["z"]))
    model.graph.output[0].name = "z"
    fold_conv_biases(model.graph)
    assert types(model.graph).count("Add") == 1


def without_bias(graph):
    del graph.node[1:]


def activated_first(graph):
    graph.node[2].op_type = "Mul"


def convolution_read_twice(graph):
    graph.node.append(helper.make_node("Neg", ["a"], ["also"]))


def doubled(graph):
    graph.node[2].input[:] = ["a", "a"]


def bias_of_another(graph):
    graph.input[2].name = graph.node[1].input[0] = "conv2.bias"


def bias_not_reshaped(graph):
    graph.node[1].op_type = "Expand"


def bias_computed(graph):
    graph.node[1].input[0] = "computed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_bias, r"no bias after the convolution with 'conv\.weight'"),
        (activated_first, r"no bias after the convolution with 'conv\.weight'"),
        (convolution_read_twice, r"no bias after the convolution with 'conv\.weight'"),
        (doubled, r"no bias after the convolution with 'conv\.weight'"),
        (bias_of_another, r"'conv2\.bias' added to the convolution with 'conv\.weight'"),
        (bias_not_reshaped, r"None added to the convolution with 'conv\.weight'"),
        (bias_computed, r"'computed' added to the convolution with 'conv\.weight'"),
    ],
)
def test_a_convolution_of_another_form_is_refused(change, message):
    graph = convolution().graph
    change(graph)
    with pytest.raises(GraphFormError, match=message):
        fold_conv_biases(graph)


# What nothing uses


def test_what_nothing_uses_goes_with_all_that_led_there():
    nodes = [
        helper.make_node("Sin", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["dead"]),
        helper.make_node("Neg", ["dead"], ["deader"]),
        helper.make_node("Cos", ["a"], ["y"]),
    ]
    model = model_of(nodes, {"x": [3]}, ["y"])
    drop_unused(model.graph)
    assert types(model.graph) == ["Sin", "Cos"]
    np.testing.assert_allclose(
        run(model, {"x": values(3)})[0], np.cos(np.sin(values(3))), atol=ROUNDING
    )


def test_one_used_result_of_several_keeps_the_node():
    node = helper.make_node("Split", ["x"], ["a", "b"])
    model = model_of([node], {"x": [4]}, ["b"])
    drop_unused(model.graph)
    assert types(model.graph) == ["Split"]


def test_an_input_that_nothing_uses_is_an_error():
    model = model_of([helper.make_node("Neg", ["x"], ["y"])], {"x": [3], "lost": [1]}, ["y"])
    with pytest.raises(GraphFormError, match="nothing uses: lost"):
        drop_unused(model.graph)


# Tensors


INPUTS = (TensorSpec("latents", "float32", (-1, 4, -1)), TensorSpec("ids", "int64", (-1, 7)))
OUTPUTS = (TensorSpec("noise_pred", "float32", (-1, 4)),)


def test_tensors_are_described_as_the_manifest_does_and_weights_come_last():
    nodes = [helper.make_node("Gather", ["latents", "ids"], ["noise_pred"])]
    model = model_of(nodes, {"w": [2], "ids": [1], "latents": [1]}, ["noise_pred"])
    describe_tensors(model.graph, INPUTS, OUTPUTS)
    assert [i.name for i in model.graph.input] == ["latents", "ids", "w"]
    described = {
        v.name: (
            v.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],
        )
        for v in (*model.graph.input, *model.graph.output)
    }
    assert described == {
        "latents": (TensorProto.FLOAT, ["latents_0", 4, "latents_2"]),
        "ids": (TensorProto.INT64, ["ids_0", 7]),
        "w": (TensorProto.FLOAT, [2]),
        "noise_pred": (TensorProto.FLOAT, ["noise_pred_0", 4]),
    }


# Weights


def attached(tmp_path, dtype):
    """x @ w + b as a model file whose weights lie in another; w is stored as `dtype`."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
    ]
    model = model_of(nodes, {"b": [4], "x": ["n", 4], "w": [4, 4]}, ["y"])
    w, b = values(4, 4, seed=1).astype(dtype), values(4, seed=2)
    (tmp_path / "data").write_bytes(w.tobytes().ljust(4096, b"\0") + b.tobytes())
    stored = [
        StoredWeight("w", w.dtype.name, w.shape, 0, w.nbytes),
        StoredWeight("b", "float32", b.shape, 4096, b.nbytes),
    ]
    attach_weights(model.graph, {"x"}, stored, "data")
    described = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    model.graph.output[0].CopyFrom(described)  # the checker wants a shape
    onnx.save(model, str(tmp_path / "model.onnx"))
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    return model, w.astype(np.float32), b


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weights_are_read_from_the_data_file(tmp_path, dtype):
    model, w, b = attached(tmp_path, dtype)
    assert [i.name for i in model.graph.input] == ["x"]
    assert not any(t.raw_data or t.float_data for t in model.graph.initializer)
    x = values(3, 4)
    given = run(str(tmp_path / "model.onnx"), {"x": x})[0]
    np.testing.assert_allclose(given, (x @ w + b) @ w, rtol=1e-5, atol=ROUNDING)


def test_a_half_precision_weight_is_cast_once_and_before_its_uses(tmp_path):
    model, _, _ = attached(tmp_path, "float16")
    assert types(model.graph) == ["Cast", "MatMul", "Add", "MatMul"]
    assert helper.get_attribute_value(model.graph.node[0].attribute[0]) == TensorProto.FLOAT
    assert model.graph.node[0].input[0] == "w"
    assert all("w" not in n.input for n in model.graph.node[1:])
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds == {"w": TensorProto.FLOAT16, "b": TensorProto.FLOAT}


def test_a_full_precision_weight_is_not_cast(tmp_path):
    model, _, _ = attached(tmp_path, "float32")
    assert "Cast" not in types(model.graph)


# All of it


def composite(epsilon):
    """A GroupNorm, an Identity, a convolution, an output and a result that nothing reads."""
    model = group_norm(epsilon)
    graph = model.graph
    graph.input.add().CopyFrom(
        helper.make_tensor_value_info("conv.weight", TensorProto.FLOAT, [4, CHANNELS, 1, 1])
    )
    graph.input.add().CopyFrom(helper.make_tensor_value_info("conv.bias", TensorProto.FLOAT, [4]))
    graph.initializer.append(numpy_helper.from_array(np.array([1, 4, 1, 1]), "shape"))
    graph.node.extend(
        [
            helper.make_node("Identity", ["y"], ["i"]),
            helper.make_node("Conv", ["i", "conv.weight"], ["e"]),
            helper.make_node("Reshape", ["conv.bias", "shape"], ["f"]),
            helper.make_node("Add", ["e", "f"], ["g"]),
            helper.make_node("Neg", ["g"], ["dead"]),
            helper.make_node("Identity", ["g"], ["fetch_0"]),
        ]
    )
    graph.output[0].name = "fetch_0"
    return model


def repaired(epsilon):
    model = composite(epsilon)
    inputs = (TensorSpec("x", "float32", (-1, CHANNELS, -1, -1)),)
    outputs = (TensorSpec("result", "float32", (-1, 4, -1, -1)),)
    repair(model, inputs, outputs, {"norm.weight": EPSILON})
    return model


def test_all_repairs_together_leave_a_right_graph():
    model, feeds = repaired(-2941888.0), group_norm_feeds()
    feeds |= {"conv.weight": values(4, CHANNELS, 1, 1, seed=3), "conv.bias": values(4, seed=4)}
    onnx.checker.check_model(model, full_check=True)
    expected = run(composite(EPSILON), feeds)[0]
    np.testing.assert_allclose(run(model, feeds)[0], expected, atol=2 * ROUNDING)
    assert [o.name for o in model.graph.output] == ["result"]
    assert "Neg" not in types(model.graph)
    assert len({n.name for n in model.graph.node}) == len(model.graph.node)
    assert len(model.graph.value_info) == 0


def test_what_was_garbage_leaves_no_trace():
    first = repaired(0.0).SerializeToString()
    assert all(repaired(g).SerializeToString() == first for g in GARBAGE)
