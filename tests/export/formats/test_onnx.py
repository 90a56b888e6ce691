"""What is written of the tiny checkpoint's programs."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import paddle
import paddle2onnx
import pytest
from onnx import TensorProto, helper
from paddle import nn

from ldm_engine.bundle.contract import TABLE
from ldm_engine.bundle.formats import FORMAT_FILES
from ldm_engine.checks.tolerances import relative_error
from ldm_engine.errors import CheckpointError
from ldm_export.formats.onnx import OPSET, PAGE_BYTES, write_onnx
from ldm_export.formats.onnx_graph import GraphFormError

PROGRAM_LOADER = Path(__file__).with_name("conftest.py")
GRAPH, DATA = FORMAT_FILES["onnx"]
FP32 = 1e-4  # the gate's own; seen: below 1e-6
FP16 = 3e-3  # each weight is rounded by up to 5e-4; seen: below 1e-3
INLINE_BYTES = 256  # constants of the graph itself: shapes, axes, frequencies
KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}

# Writes every program of the checkpoint into a folder, in an order of its own.
WRITE = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from tests_formats_conftest import load_tiny
from ldm_export.formats.onnx import write_onnx
for name, spec in reversed(load_tiny(Path(sys.argv[1])).programs.items()):
    folder = Path(sys.argv[2]) / name
    folder.mkdir()
    write_onnx(spec, folder)
"""


@pytest.fixture(params=TABLE)
def name(request):
    return request.param


@pytest.fixture
def graph(written, name):
    return onnx.load(str(written[1] / name / GRAPH), load_external_data=False)


def places(graph):
    """Offset and length of each weight that lies outside of the graph file."""
    found = {}
    for tensor in graph.graph.initializer:
        entries = {e.key: e.value for e in tensor.external_data}
        if entries:
            assert entries["location"] == DATA
            found[tensor.name] = (int(entries["offset"]), int(entries["length"]))
    return found


def shape_of(info):
    return tuple(-1 if d.dim_param else d.dim_value for d in info.type.tensor_type.shape.dim)


def inputs_of(model, name, count, h=8, w=8, rows=None):
    """Random inputs at another size than any that was traced."""
    stream = np.random.RandomState(3)

    def normal(*shape):
        return stream.standard_normal(shape).astype(np.float32)

    tokens, kv = model.token_length, model.text_kv_width
    latents = normal(count, model.latent_channels, h, w)
    size = (h * model.scale_factor, w * model.scale_factor)
    return {
        "text_encoder": {"input_ids": stream.randint(0, model.vocab_size, (count, tokens))},
        "time_encoder": {"timesteps": stream.randint(0, 1000, count).astype(np.float32)},
        "unet": {
            "latents": latents,
            "time_shift": normal(1, model.time_shift_width),
            "text_kv": normal(rows or count, tokens, kv),
        },
        "vae_decoder": {"latents": latents},
        "vae_encoder": {"image": stream.uniform(size=(count, *size, 3)).astype(np.float32)},
    }[name]


def run(path, feeds):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def test_the_files_are_those_that_the_manifest_lists(written, name):
    assert {p.name for p in (written[1] / name).iterdir()} == {GRAPH, DATA}


def test_the_checker_accepts_every_graph(written, name, graph):
    onnx.checker.check_model(str(written[1] / name / GRAPH), full_check=True)
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", OPSET)]
    assert OPSET >= 17


def test_every_norm_has_the_epsilon_of_the_model(tiny, name, graph):
    """The converter takes them from stray memory; counted, so that none is left or made up."""
    layer = tiny.programs[name].layer
    expected = Counter(
        np.float32(part._epsilon).item()
        for path, part in layer.named_sublayers()
        if isinstance(part, (nn.GroupNorm, nn.LayerNorm))
        and f"{path}.weight" in tiny.programs[name].parameters
    )
    given = Counter(
        next(a.f for a in node.attribute if a.name == "epsilon")
        for node in graph.graph.node
        if node.op_type in ("InstanceNormalization", "LayerNormalization")
    )
    assert given == expected
    assert (sum(given.values()) > 0) == (name != "time_encoder")


def test_the_unet_has_norms_of_both_epsilons(tiny):
    kinds = {
        part._epsilon
        for part in tiny.programs["unet"].layer.sublayers()
        if isinstance(part, nn.GroupNorm)
    }
    assert kinds == {1e-5, 1e-6}  # else the test above would tell little


def test_weights_lie_in_pages_of_their_own_one_after_the_other(written, name, graph):
    found = places(graph)
    end = 0
    for offset, length in sorted(found.values()):
        assert offset % PAGE_BYTES == 0
        assert 0 <= offset - end < PAGE_BYTES
        end = offset + length
    assert (written[1] / name / DATA).stat().st_size == end


def test_the_weights_are_the_models(written, tiny, name, graph):
    content = (written[1] / name / DATA).read_bytes()
    parameters, found, seen = tiny.programs[name].parameters, places(graph), set()
    for tensor in graph.graph.initializer:
        if tensor.name not in found:
            continue
        source = next(p for p in parameters if f"{tensor.name}.".startswith(f"{p}."))
        seen.add(source)
        expected = parameters[source].numpy()
        halved = written[0] == "fp16" and expected.ndim >= 2
        dtype = np.float16 if halved else np.float32
        assert tensor.data_type == helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        offset, length = found[tensor.name]
        given = np.frombuffer(content[offset : offset + length], dtype)
        if tensor.name == source:
            assert tuple(tensor.dims) == expected.shape
            np.testing.assert_array_equal(given, expected.astype(dtype).reshape(-1))
        elif "matmul" not in tensor.name:  # moved; programs are run below, which shows where to
            assert np.isin(given, expected.astype(dtype)).all()
    assert seen == parameters.keys()


def test_nothing_is_computed_from_weights_alone(graph):
    """So that a runtime, which would do it when it opens the graph, needs no copies."""
    weights = set(places(graph))
    constants = {tensor.name for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        names = {name for name in node.input if name}
        if node.op_type != "Cast" and names <= constants:  # casts are of fp16, where it is used
            assert not names & weights, node.name
            constants.update(node.output)


def test_browsers_have_kernels_for_it(name, graph):
    """ONNX Runtime's WebGPU has no Range of floats."""
    assert name != "time_encoder" or "Range" not in {n.op_type for n in graph.graph.node}


def test_the_graph_file_holds_no_weights_and_nothing_superfluous(graph):
    graph = graph.graph
    read = {name for node in graph.node for name in node.input}
    assert {t.name for t in graph.initializer} <= read
    assert all(
        t.data_location == TensorProto.EXTERNAL or len(t.raw_data) <= INLINE_BYTES
        for t in graph.initializer
    )
    for node in graph.node:
        for attribute in node.attribute:
            assert attribute.ByteSize() <= INLINE_BYTES
    outputs = {o.name for o in graph.output}
    assert all(set(n.output) & (read | outputs) for n in graph.node)
    assert all(set(n.output) & outputs for n in graph.node if n.op_type == "Identity")
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    assert all(len(n.input) == 3 for n in convolutions)


def test_inputs_and_outputs_are_those_of_the_manifest(tiny, name, graph):
    spec = tiny.programs[name]
    for given, wanted in ((graph.graph.input, spec.inputs), (graph.graph.output, spec.outputs)):
        assert [(v.name, v.type.tensor_type.elem_type, shape_of(v)) for v in given] == [
            (t.name, KINDS[t.dtype], t.shape) for t in wanted
        ]


@pytest.mark.parametrize(("count", "rows", "h", "w"), [(1, 1, 8, 8), (3, 6, 8, 24), (2, 2, 24, 16)])
def test_batch_and_size_are_free(written, tiny, name, count, rows, h, w):
    feeds = inputs_of(tiny.model, name, count, h, w, rows)
    (expected,) = tiny.programs[name].run(feeds).values()
    given = run(written[1] / name / GRAPH, feeds)
    assert given.shape == expected.shape
    tolerance = FP32 if written[0] == "fp32" else FP16
    assert relative_error(given, expected) < tolerance


def test_writing_again_gives_the_same_bytes(written, tiny, name, tmp_path):
    paddle.nn.Linear(2, 2)  # the counters of names go on in between
    write_onnx(tiny.programs[name], tmp_path, written[0])
    for file in (GRAPH, DATA):
        assert (tmp_path / file).read_bytes() == (written[1] / name / file).read_bytes()


def test_an_export_and_another_process_give_the_same_bytes(
    tiny_checkpoint, tiny_onnx_bundle, tmp_path
):
    conftest = tmp_path / "path" / "tests_formats_conftest.py"
    conftest.parent.mkdir()
    conftest.write_text((PROGRAM_LOADER).read_text())
    (tmp_path / "out").mkdir()
    arguments = [str(tiny_checkpoint), str(tmp_path / "out"), str(conftest.parent)]
    subprocess.run([sys.executable, "-c", WRITE, *arguments], check=True, capture_output=True)
    for program in TABLE:
        for file in (GRAPH, DATA):
            here = (tiny_onnx_bundle.path / program / file).read_bytes()
            assert here == (tmp_path / "out" / program / file).read_bytes(), program


def test_the_layer_is_left_as_it_was(tiny, name, tmp_path):
    spec = tiny.programs[name]
    feeds = inputs_of(tiny.model, name, 2)
    before = spec.run(feeds)
    names = [n for n, _ in spec.layer.named_parameters()]
    write_onnx(spec, tmp_path)
    assert [n for n, _ in spec.layer.named_parameters()] == names
    for key, value in spec.run(feeds).items():
        np.testing.assert_array_equal(value, before[key])


def test_a_second_program_of_one_model_does_not_disturb_the_first(written, tiny):
    """Three programs share the UNet's layers, and all were written before this runs."""
    feeds = inputs_of(tiny.model, "time_encoder", 3)
    (expected,) = tiny.programs["time_encoder"].run(feeds).values()
    given = run(written[1] / "time_encoder" / GRAPH, feeds)
    assert relative_error(given, expected) < FP16


def test_half_precision_weights_take_half_the_space(tiny, name, tmp_path):
    spec = tiny.programs[name]
    write_onnx(spec, tmp_path, "fp16")
    large = sum(p.numpy().nbytes for p in spec.parameters.values() if p.ndim >= 2)
    small = sum(p.numpy().nbytes for p in spec.parameters.values() if p.ndim < 2)
    pages = PAGE_BYTES * len(spec.parameters)  # what alignment costs at the most
    assert large / 2 + small <= (tmp_path / DATA).stat().st_size <= large / 2 + small + pages


@pytest.mark.parametrize("value", [1e5, -1e5, np.inf, np.nan])
def test_a_weight_too_large_for_half_precision_is_named(tiny, tmp_path, value):
    spec = tiny.programs["time_encoder"]
    name = next(n for n, p in spec.parameters.items() if p.ndim >= 2)
    parameter = spec.parameters[name]
    before = parameter.numpy()
    damaged = before.copy()
    damaged.flat[7] = value
    parameter.set_value(damaged)
    try:
        with pytest.raises(CheckpointError, match="--weights fp32") as caught:
            write_onnx(spec, tmp_path, "fp16")
    finally:
        parameter.set_value(before)
    assert name in str(caught.value)


# paddle2onnx fails in ways of its own


def says(text):
    print(text)
    subprocess.run(["echo", f"C++ {text}"], check=True)  # past Python, to the descriptor


def nothing(*_, **__):
    says("it was too large")
    return b""


def none(*_, **__):
    says("it was too large")


def leaving(*_, **__):
    says("it was too large")
    sys.exit(1)


def raising(*_, **__):
    says("it was too large")
    raise ValueError("inner reason")


CONVERT = paddle2onnx.export


@pytest.mark.parametrize("failure", [nothing, none, leaving, raising])
def test_a_failing_converter_is_reported_with_its_output(
    tiny, tmp_path, monkeypatch, capfd, failure
):
    monkeypatch.setattr(paddle2onnx, "export", failure)
    with pytest.raises(GraphFormError, match=r"time_encoder.*C\+\+ it was too large") as caught:
        write_onnx(tiny.programs["time_encoder"], tmp_path)
    assert "pip install 'ldm-engine[export]'" in str(caught.value)
    assert capfd.readouterr().out == ""
    print("and stdout works again")
    assert "works again" in capfd.readouterr().out


def test_a_converter_that_raises_is_reported_with_its_reason(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(paddle2onnx, "export", raising)
    with pytest.raises(GraphFormError, match="inner reason"):
        write_onnx(tiny.programs["time_encoder"], tmp_path)


@pytest.mark.parametrize("content", [b"garbage", bytes(100), "CUT"], ids=["text", "zeros", "cut"])
def test_a_cut_or_garbled_graph_is_an_error_of_ours(tiny, tmp_path, monkeypatch, content):
    def export(*arguments, **options):
        return CONVERT(*arguments, **options)[:-1000] if content == "CUT" else content

    monkeypatch.setattr(paddle2onnx, "export", export)
    with pytest.raises(GraphFormError):
        write_onnx(tiny.programs["time_encoder"], tmp_path)


def test_an_interrupt_is_no_failure_of_the_converter(tiny, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(paddle2onnx, "export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_onnx(tiny.programs["time_encoder"], tmp_path)


def test_writing_prints_nothing(tiny, tmp_path, capfd):
    write_onnx(tiny.programs["time_encoder"], tmp_path)
    assert capfd.readouterr().out == ""


def test_a_garbage_epsilon_of_the_converter_does_not_get_through(tiny, tmp_path, monkeypatch):
    """Whatever stray memory held this time, the next time it holds something else."""

    def export(*arguments, **options):
        model = onnx.load_model_from_string(CONVERT(*arguments, **options))
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    attribute.f = -2941888.0
        return model.SerializeToString()

    monkeypatch.setattr(paddle2onnx, "export", export)
    spec = tiny.programs["vae_decoder"]
    write_onnx(spec, tmp_path)
    feeds = inputs_of(tiny.model, "vae_decoder", 1)
    (expected,) = spec.run(feeds).values()
    assert relative_error(run(tmp_path / GRAPH, feeds), expected) < FP32
