"""The conversion to TensorRT: what is asked of Paddle, and what is made of what it writes.

``paddle.tensorrt`` is in Paddle's wheels for GPUs alone. Its classes stand in here with the
signatures of its sources, and what it writes is written as it would be.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path

import pytest

from ldm_engine.bundle.formats import ENGINE_PLACE
from ldm_engine.errors import LDMEngineError
from ldm_engine.runtimes.gpu.tensorrt import locate_engines
from ldm_engine.runtimes.gpu.tensorrt_build import TensorRTBuild, read_build, shape_ranges
from ldm_export.formats.tensorrt import run_in_process, write_tensorrt
from ldm_export.formats.tensorrt_conversion import Input, Request, convert
from ldm_export.tensorrt_programs import add_tensorrt

REQUEST = Request(
    "in/unet/inference",
    "out/converted",
    "fp16",
    (Input("latents", "float32", (1, 4, 8, 8), (2, 4, 8, 8), (4, 4, 16, 16), (0.0, 1.0)),),
)


class PaddleTensorRT:
    """``paddle.tensorrt.export`` as documented, writing down what it is asked."""

    class PrecisionMode(Enum):
        FP32 = "FP32"
        FP16 = "FP16"
        BF16 = "BF16"
        INT8 = "INT8"

    class Input:
        def __init__(
            self,
            warmup_data=None,
            min_input_shape=None,
            max_input_shape=None,
            optim_input_shape=None,
            input_data_type="float32",
            input_range=None,
            name=None,
        ):
            vars(self).update(locals())

    class TensorRTConfig:
        def __init__(
            self,
            inputs,
            min_subgraph_size=3,
            save_model_dir=None,
            disable_ops=None,
            precision_mode=None,
            ops_run_float=None,
            optimization_level=3,
            disable_passes=(),
            workspace_size=1 << 30,
        ):
            vars(self).update(locals())

    def __init__(self):
        self.calls = []

    def convert(self, model_path, config):
        self.calls.append((model_path, config))


def test_a_request_survives_the_way_to_another_process():
    assert Request.from_json(REQUEST.to_json()) == REQUEST


def test_the_calls_of_paddle():
    library = PaddleTensorRT()
    convert(REQUEST, library)
    ((model, config),) = library.calls
    assert model == "in/unet/inference"
    assert config.save_model_dir == "out/converted"
    assert config.precision_mode is library.PrecisionMode.FP16
    assert config.ops_run_float == ["pd_op.group_norm", "pd_op.softmax"]
    assert config.disable_ops is None
    (tensor,) = config.inputs
    assert tensor.name == "latents"
    assert tensor.input_data_type == "float32"
    assert tensor.min_input_shape == (1, 4, 8, 8)
    assert tensor.optim_input_shape == (2, 4, 8, 8)
    assert tensor.max_input_shape == (4, 4, 16, 16)
    assert tensor.warmup_data is None


def test_in_fp32_no_operator_needs_to_stay_wide():
    library = PaddleTensorRT()
    convert(replace(REQUEST, precision="fp32"), library)
    ((_, config),) = library.calls
    assert config.precision_mode is library.PrecisionMode.FP32
    assert config.ops_run_float is None


class Converter:
    """Writes what Paddle writes: graph and weights, and engines in a folder of that name."""

    def __init__(self, engines=2):
        self.requests = []
        self.engines = engines

    def __call__(self, request):
        self.requests.append(request)
        output = Path(request.output)
        output.mkdir()
        content = json.loads(Path(f"{request.model}.json").read_text())
        block = content["program"]["regions"][0]["blocks"][0]["ops"]
        for i in range(self.engines):
            engine = output / f"engine_1234{i}_{i + 1}.trt"
            engine.write_bytes(b"engine %d" % i)
            engine.with_suffix(".pir").write_text("dump")
            path = {"#": "0.a_str", "D": str(engine)}
            block.append({"#": "1.tensorrt_engine", "A": [{"N": "engine", "AT": path}]})
        for fetch in (op for op in block if op["#"] == "1.fetch"):
            next(a for a in fetch["A"] if a["N"] == "name")["AT"]["D"] = "fetch_name_0"
        Path(f"{output}.json").write_text(json.dumps(content))
        Path(f"{output}.pdiparams").write_bytes(b"left over")


@pytest.fixture
def build(tiny_bundle):
    own = tiny_bundle.model.default_size
    facts = {"gpu": "NVIDIA A10", "tensorrt": "10.5.0", "cuda": "12.6"}
    return TensorRTBuild("fp16", **facts, batch=(1, 1, 4), size=(own, own, 2 * own))


@pytest.fixture
def draft(copy_bundle, tiny_bundle):
    """A bundle as it is while an export still writes it."""
    return replace(tiny_bundle, path=copy_bundle(), files={}, manifest_stamp=None)


def test_every_program_is_converted_in_its_precision_and_ranges(draft, build):
    run = Converter()
    bundle = add_tensorrt(draft, build, lambda stage: None, run)
    assert [Path(r.model).parent.name for r in run.requests] == list(draft.programs)
    assert [r.precision for r in run.requests] == ["fp16", "fp32", "fp16", "fp32", "fp32"]
    for request, (name, info) in zip(run.requests, draft.programs.items(), strict=True):
        ranges = shape_ranges(name, draft.model, build)
        for given, tensor in zip(request.inputs, info.inputs, strict=True):
            assert (given.name, given.dtype) == (tensor.name, tensor.dtype)
            assert (given.least, given.best, given.most) == ranges[tensor.name]
    assert run.requests[0].inputs[0].values == (0, draft.model.vocab_size)
    assert read_build(bundle) == build
    assert bundle.formats == ("paddle", "tensorrt")
    unet = bundle.programs["unet"].formats["tensorrt"]
    assert unet.files == (
        "unet/tensorrt.json",
        "unet/tensorrt.pdiparams",
        "unet/tensorrt_0.trt",
        "unet/tensorrt_1.trt",
    )
    assert unet.weights == "fp16"
    assert bundle.programs["vae_decoder"].formats["tensorrt"].weights == "fp32"


def test_what_is_left_can_be_moved(draft, build):
    bundle = add_tensorrt(draft, build, lambda stage: None, Converter())
    graph, weights, *engines = bundle.program_files("unet", "tensorrt")
    assert {p.name for p in graph.parent.iterdir()} == {
        "inference.json", "inference.pdiparams", graph.name, weights.name,
        *(engine.name for engine in engines),
    }  # fmt: skip
    assert [engine.read_bytes() for engine in engines] == [b"engine 0", b"engine 1"]
    text = graph.read_text()
    assert str(draft.path) not in text
    assert ENGINE_PLACE + "tensorrt_1.trt" in text
    assert "fetch_name_0" not in text
    assert text.count('"noise_pred"') == 1
    assert str(engines[1]) in locate_engines(text, engines)


def test_nothing_for_tensorrt_is_an_error(draft, build):
    with pytest.raises(LDMEngineError, match="nothing of text_encoder to TensorRT"):
        add_tensorrt(draft, build, lambda stage: None, Converter(engines=0))


@pytest.mark.parametrize("content", [None, "{", '{"program": "other/engine_1_1.trt"}'])
def test_another_form_than_the_known_one_is_an_error(draft, build, content):
    def run(request):
        if content is not None:
            Path(f"{request.output}.json").write_text(content)

    info = draft.programs["unet"]
    ranges = shape_ranges("unet", draft.model, build)
    with pytest.raises(LDMEngineError, match="not known here"):
        write_tensorrt("unet", draft.path / "unet", info, ranges, "fp16", 9, run)
    assert not list((draft.path / "unet").glob("*tensorrt*"))


def test_a_conversion_that_fails_reports_the_end_of_its_output(tmp_path):
    """Really run: without ``paddle.tensorrt``, or without such a model."""
    request = replace(REQUEST, model=str(tmp_path / "nowhere"), output=str(tmp_path / "out"))
    with pytest.raises(LDMEngineError, match=r"could not convert .*nowhere to TensorRT: .*Error"):
        run_in_process(request)
    assert "paddle.tensorrt" not in sys.modules
