"""The int8 UNet: what NNCF makes of the shipped, trained checkpoint, and what the gate refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm_engine import Bundle
from ldm_engine.errors import VerificationError
from ldm_engine.export.calibration import Sample, gather_samples
from ldm_engine.export.checkpoint import open_checkpoint
from ldm_engine.export.exporter import _load_models, _model_info, _read_configs
from ldm_engine.export.formats.onnx import write_onnx
from ldm_engine.export.formats.openvino_int8 import quantize_unet, wide_operators
from ldm_engine.export.int8_gate import check_int8
from ldm_engine.export.programs import build_programs
from ldm_engine.runtimes import Choice, Program, Runtime, RuntimeOptions, choose_runtime

openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")

SHAPES = Path(__file__).parents[2] / "examples" / "shapes" / "checkpoint"
CALIBRATION = (
    "a small red circle on the left and a large blue star on the right, white background",
    "a green triangle",
    "a big yellow star at the top and a purple square at the bottom, black background",
    "an orange square in the center, gray background",
    "a little cyan circle on the right",
    "a large pink triangle on the left, black background",
)
HELD_OUT = (
    "a large purple circle at the bottom, gray background",
    "a small blue square on the left and a small orange star on the right",
    "a pink star, black background",
)
STEPS = 20
FP32 = RuntimeOptions("cpu", "fp32", 2)
INT8 = RuntimeOptions("cpu", "int8", 2)


class _UNet(Program):
    """The UNet in OpenVINO; everything in fp32 that is not int8."""

    def __init__(self, bundle: Bundle, graph: Path) -> None:
        info = bundle.programs["unet"]
        super().__init__("unet", info.inputs + info.outputs, {t.name for t in info.outputs})
        self._model = openvino.Core().read_model(graph)
        self._request: Any = None

    def _bind(self) -> None:
        compiled = openvino.Core().compile_model(
            self._model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        self._request = compiled.create_infer_request()

    def run(self) -> None:
        results = self._request.infer(self.inputs)
        np.copyto(self.outputs["noise_pred"], results["noise_pred"])

    def clone(self) -> Program:
        raise NotImplementedError


class _Mixed(Runtime):
    """The UNet in OpenVINO, of a graph for each precision; the other programs in Paddle."""

    name = "mixed"
    format = "paddle"
    install = ""
    devices = ("cpu",)
    precisions = ("fp32", "int8")

    def __init__(self, bundle: Bundle, graphs: dict[str, Path]) -> None:
        self._paddle = choose_runtime(bundle).runtime
        self._graphs = graphs

    def version(self) -> str | None:
        return "0"

    def open(self, bundle: Bundle, program: str, options: RuntimeOptions) -> Program:
        if program == "unet":
            return _UNet(bundle, self._graphs[options.precision])
        return self._paddle.open(bundle, program, FP32)


@pytest.fixture(scope="module")
def unet_ir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unet")
    checkpoint = open_checkpoint(SHAPES)
    models = _load_models(checkpoint, _read_configs(checkpoint), lambda stage: None)
    programs = build_programs(models, _model_info(checkpoint, models, None))
    write_onnx(next(p for p in programs if p.name == "unet"), folder)
    model = openvino.convert_model(folder / "model.onnx")
    openvino.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
    return folder / "openvino_model.xml"


def gather(bundle: Bundle, prompts: tuple[str, ...], seed: int) -> list[Sample]:
    return gather_samples(
        bundle,
        choose_runtime(bundle),
        FP32,
        prompts,
        samples_per_prompt=4,
        guidance_scale=2.0,
        num_inference_steps=STEPS,
        seed=seed,
    )


@pytest.fixture(scope="module")
def samples(shapes_bundle: Bundle) -> list[Sample]:
    return gather(shapes_bundle, CALIBRATION, 100)


@pytest.fixture(scope="module")
def held_out(shapes_bundle: Bundle) -> list[Sample]:
    return gather(shapes_bundle, HELD_OUT, 200)


@pytest.fixture(scope="module")
def int8_ir(unet_ir: Path, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("int8") / "openvino_model_int8.xml"
    quantize_unet(unet_ir, samples, target)
    return target


def noise(samples: list[Sample]) -> list[Sample]:
    """What nobody should calibrate with."""
    stream = np.random.RandomState(0)

    def like(array: np.ndarray) -> np.ndarray:
        return stream.standard_normal(array.shape).astype(np.float32)

    return [
        Sample(like(s.latents), like(s.time_shift), like(s.unconditional_kv), like(s.kv))
        for s in samples
    ]


def test_all_but_the_ends_is_in_int8(unet_ir: Path, int8_ir: Path) -> None:
    core = openvino.Core()
    source, target = core.read_model(unet_ir), core.read_model(int8_ir)
    wide = set(wide_operators(source))
    for operator in target.get_ordered_ops():
        if operator.get_type_name() in ("Convolution", "MatMul"):
            feed = operator.input_value(0).get_node()
            while feed.get_type_name() in ("Transpose", "Reshape", "Gather"):
                feed = feed.input_value(0).get_node()
            is_quantized = feed.get_type_name() == "FakeQuantize"
            assert is_quantized == (operator.get_friendly_name() not in wide)
    assert (
        int8_ir.with_suffix(".bin").stat().st_size
        < 0.3 * unet_ir.with_suffix(".bin").stat().st_size
    )


def test_sizes_stay_dynamic(unet_ir: Path, int8_ir: Path, samples: list[Sample]) -> None:
    core = openvino.Core()
    source, target = core.read_model(unet_ir), core.read_model(int8_ir)
    for before, after in zip(source.inputs, target.inputs, strict=True):
        assert before.get_any_name() == after.get_any_name()
        assert before.get_partial_shape() == after.get_partial_shape()
    compiled = core.compile_model(target, "CPU")
    text_kv = np.stack([samples[0].kv, samples[1].kv, samples[-1].kv])
    latents = np.random.RandomState(0).standard_normal((3, 4, 16, 24)).astype(np.float32)
    inputs = {"latents": latents, "time_shift": samples[0].time_shift, "text_kv": text_kv}
    assert compiled(inputs)["noise_pred"].shape == (3, 4, 16, 24)  # no guidance


def test_the_same_samples_give_the_same_files_without_traces_or_noise(
    unet_ir: Path,
    int8_ir: Path,
    samples: list[Sample],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    again = tmp_path / "again.xml"
    quantize_unet(unet_ir, samples, again)
    assert again.read_bytes() == int8_ir.read_bytes()
    assert again.with_suffix(".bin").read_bytes() == int8_ir.with_suffix(".bin").read_bytes()
    content = again.read_text()
    assert str(unet_ir.parent) not in content
    assert not re.search(r"model\.onnx|<nncf>|calibration", content)
    assert capfd.readouterr() == ("", "")


def test_the_gate_lets_a_good_int8_pass(
    shapes_bundle: Bundle, unet_ir: Path, int8_ir: Path, held_out: list[Sample]
) -> None:
    runtime = _Mixed(shapes_bundle, {"fp32": unet_ir, "int8": int8_ir})
    report = check_int8(
        shapes_bundle,
        Choice(runtime, ""),
        FP32,
        INT8,
        held_out,
        HELD_OUT,
        seed=300,
    )
    assert 0 < report.noise_pred_error <= report.worst_noise_pred_error
    assert report.worst_psnr <= report.psnr < 60


def test_the_gate_refuses_one_that_was_calibrated_with_noise(
    shapes_bundle: Bundle,
    unet_ir: Path,
    samples: list[Sample],
    held_out: list[Sample],
    tmp_path: Path,
) -> None:
    bad = tmp_path / "bad.xml"
    quantize_unet(unet_ir, noise(samples[:4]), bad)
    runtime = _Mixed(shapes_bundle, {"fp32": unet_ir, "int8": bad})
    with pytest.raises(VerificationError, match="too far from the fp32 one"):
        check_int8(
            shapes_bundle,
            Choice(runtime, ""),
            FP32,
            INT8,
            held_out,
            HELD_OUT,
            seed=300,
        )
