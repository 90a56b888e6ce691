"""The IR that is written of the tiny checkpoint's programs."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import openvino
import pytest

from ldm_engine.bundle.contract import TABLE
from ldm_engine.bundle.formats import FORMAT_FILES
from ldm_engine.checks.cases import reference_cases
from ldm_engine.checks.tolerances import relative_error
from ldm_engine.errors import LDMEngineError, OutputError
from ldm_export.formats.openvino import finish_ir, write_openvino

ONNX_GRAPH = FORMAT_FILES["onnx"][0]
GRAPH, DATA = FORMAT_FILES["openvino"]
TOLERANCES = {"fp32": 1e-4, "fp16": 3e-3}  # the gate's own; fp16 rounds each weight by up to 5e-4
# Large enough to be matrices and kernels; whatever is left in fp32 is smaller than this.
SMALL_BYTES = 4096

# Writes the IR of one graph with room for files of so many bytes.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from ldm_engine.errors import LDMEngineError
from ldm_export.formats.openvino import write_openvino
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    write_openvino(Path(sys.argv[1]), Path(sys.argv[2]))
except LDMEngineError as error:
    print(error)
    sys.exit(7)
"""


@pytest.fixture(scope="module")
def converted(written, tmp_path_factory):
    weights, onnx_folder = written
    folder = tmp_path_factory.mktemp(f"openvino-{weights}")
    for name in TABLE:
        (folder / name).mkdir()
        write_openvino(onnx_folder / name / ONNX_GRAPH, folder / name, weights)
    return weights, folder


@pytest.fixture(params=TABLE)
def name(request):
    return request.param


def constants(graph):
    """(bytes, element type, shape) of each constant."""
    layers = (layer for layer in ET.parse(graph).iter("layer") if layer.attrib["type"] == "Const")
    for data in (layer.find("data").attrib for layer in layers):
        shape = [int(d) for d in data["shape"].split(",") if d.strip()]
        yield int(data["size"]), data["element_type"], shape


def test_the_files_are_those_that_the_manifest_lists(converted, name):
    assert {p.name for p in (converted[1] / name).iterdir()} == {GRAPH, DATA}


def test_the_graph_holds_nothing_of_the_machine_and_the_time(converted, written, name):
    text = (converted[1] / name / GRAPH).read_text()
    for trace in (str(written[1]), str(converted[1]), "/tmp", "/home", ".onnx", "conversion_param"):
        assert trace not in text
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b(?!\d)", text.replace(openvino.__version__, ""))


def test_an_export_gives_the_same_bytes(converted, tiny_onnx_bundle, name):
    if converted[0] == "fp16":
        pytest.skip("the bundle is in fp32")
    for file in (GRAPH, DATA):
        here = (converted[1] / name / file).read_bytes()
        assert here == (tiny_onnx_bundle.path / name / file).read_bytes()


def test_converting_again_gives_the_same_bytes(converted, written, name, tmp_path):
    write_openvino(written[1] / name / ONNX_GRAPH, tmp_path, written[0])
    for file in (GRAPH, DATA):
        assert (tmp_path / file).read_bytes() == (converted[1] / name / file).read_bytes()


def test_outputs_agree_with_dygraph(converted, tiny, name):
    weights, folder = converted
    core = openvino.Core()
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(folder / name / GRAPH), "CPU", config)
    case = next(reference_cases(name, tiny.model))
    inputs = case.inputs()
    for output, expected in tiny.programs[name].run(inputs).items():
        assert relative_error(compiled(inputs)[output], expected) < TOLERANCES[weights]


def test_tensors_are_named_and_shaped_as_in_the_manifest(converted, tiny, name):
    spec = tiny.programs[name]
    model = openvino.Core().read_model(converted[1] / name / GRAPH)
    for given, wanted in ((model.inputs, spec.inputs), (model.outputs, spec.outputs)):
        assert [v.any_name for v in given] == [t.name for t in wanted]
    for given, wanted in zip(model.inputs, spec.inputs, strict=True):
        assert [d.get_length() if d.is_static else -1 for d in given.partial_shape] == [
            *wanted.shape
        ]


def test_half_precision_is_for_matrices_and_kernels_alone(converted, name):
    weights, folder = converted
    kinds = list(constants(folder / name / GRAPH))
    assert not any(kind == "bf16" for _, kind, _ in kinds)
    halved = [shape for _, kind, shape in kinds if kind == "f16"]
    kept = [(size, shape) for size, kind, shape in kinds if kind == "f32"]
    if weights == "fp32":
        assert not halved
    else:
        assert halved
        assert all(sum(d > 1 for d in shape) >= 2 for shape in halved)
        assert all(sum(d > 1 for d in shape) < 2 for _, shape in kept)
        assert all(size < SMALL_BYTES for size, _ in kept)


def test_the_frequencies_of_the_timesteps_stay_in_full_precision(converted):
    """In half precision they are off by whole units at high timesteps."""
    kept = {
        tuple(s) for _, kind, s in constants(converted[1] / "time_encoder" / GRAPH) if kind == "f32"
    }
    assert (1, 8) in kept  # half of the tiny UNet's first level


def test_casts_of_constants_are_marked_for_the_library(converted, name):
    """Without the mark it makes a float32 copy of each when it loads."""
    weights, folder = converted
    model = openvino.Core().read_model(folder / name / GRAPH)
    halves = [
        op
        for op in model.get_ops()
        if op.get_type_name() == "Constant" and op.get_element_type().get_type_name() == "f16"
    ]
    assert bool(halves) == (weights == "fp16")
    for constant in halves:
        (user,) = constant.output(0).get_target_inputs()
        assert user.get_node().get_type_name() == "Convert"
        assert any(key.startswith("decompression") for key in user.get_node().get_rt_info())


def test_half_precision_takes_half_the_space(written, tiny_onnx_bundle, converted):
    if converted[0] == "fp32":
        pytest.skip("nothing is halved")
    for name in TABLE:
        whole = (tiny_onnx_bundle.path / name / DATA).stat().st_size
        assert 0.5 * whole <= (converted[1] / name / DATA).stat().st_size < 0.6 * whole


@pytest.mark.parametrize("left", [0.0, 0.5, 0.999, None])
def test_constants_that_were_not_written_whole_are_found(written, tmp_path, monkeypatch, left):
    save = openvino.save_model

    def save_and_cut(model, graph, **options):
        save(model, graph, **options)
        data = tmp_path / DATA
        if left is None:
            data.unlink()
        else:
            data.write_bytes(data.read_bytes()[: int(left * data.stat().st_size)])

    monkeypatch.setattr(openvino, "save_model", save_and_cut)
    with pytest.raises(OutputError, match=rf"{DATA} was not written whole"):
        write_openvino(written[1] / "time_encoder" / ONNX_GRAPH, tmp_path, written[0])


@pytest.mark.parametrize("room", [20_000, 100_000])
def test_a_full_disk_is_reported(written, tmp_path, room):
    """First the graph does not fit (34 kB), then the constants (125 kB, or 63 in fp16)."""
    if written[0] == "fp16":
        pytest.skip("as in fp32")
    graph = written[1] / "time_encoder" / ONNX_GRAPH
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(graph), str(tmp_path), str(room)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stdout + done.stderr[-2000:]
    assert "disk is full" in done.stdout or "not written whole" in done.stdout


def test_a_graph_that_cannot_be_converted_is_an_error(tmp_path):
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(LDMEngineError, match="could not convert text_encoder"):
        write_openvino(tmp_path / "model.onnx", tmp_path / "text_encoder")


IR = """<?xml version="1.0"?>
<net name="net" version="11">
  <layers>
    <layer id="0" name="a" type="Const"><data offset="0" size="12"/></layer>
    <layer id="1" name="a.to_fp32" type="Convert"><data destination_type="f32"/></layer>
    <layer id="2" name="b" type="Const"><data offset="12" size="8"/></layer>
    <layer id="3" name="c" type="Convert"><data destination_type="f32"/></layer>
  </layers>
  <rt_info>
    <Runtime_version value="1"/>
    <conversion_parameters><input_model value="/root/secret/model.onnx"/></conversion_parameters>
    <nncf><friendly_names_were_updated value="True"/></nncf>
  </rt_info>
</net>
"""


def test_finishing_marks_casts_and_drops_all_of_the_machine_but_the_version(tmp_path):
    (tmp_path / GRAPH).write_text(IR)
    (tmp_path / DATA).write_bytes(bytes(20))
    finish_ir(tmp_path / GRAPH, tmp_path / DATA)
    root = ET.parse(tmp_path / GRAPH).getroot()
    assert [e.tag for e in root.find("rt_info")] == ["Runtime_version"]
    marked = {e.attrib["name"] for e in root.iter("layer") if e.find("rt_info") is not None}
    assert marked == {"Convert.1"}
    assert root.find(".//layer[@id='1']/rt_info/attribute").attrib["name"] == "decompression"


@pytest.mark.parametrize("written_bytes", [19, 0, None])
def test_one_byte_too_few_is_too_few(tmp_path, written_bytes):
    (tmp_path / GRAPH).write_text(IR)
    if written_bytes is not None:
        (tmp_path / DATA).write_bytes(bytes(written_bytes))
    with pytest.raises(OutputError, match=rf"\({written_bytes or 0} bytes of 20\)"):
        finish_ir(tmp_path / GRAPH, tmp_path / DATA)


def test_a_graph_without_constants_needs_no_data(tmp_path):
    (tmp_path / GRAPH).write_text('<net name="n"><layers/></net>')
    finish_ir(tmp_path / GRAPH, tmp_path / DATA)
    assert ET.parse(tmp_path / GRAPH).getroot().tag == "net"


def test_weights_are_what_was_given(converted, tiny):
    """The embedding is used as it is: every value of it, rounded or not."""
    weights, folder = converted
    expected = tiny.programs["text_encoder"].parameters["text_encoder.model.embed_tokens.weight"]
    wanted = expected.numpy()
    if weights == "fp16":
        wanted = wanted.astype(np.float16)
    content = (folder / "text_encoder" / DATA).read_bytes()
    assert wanted.tobytes() in content
