"""The int8 UNet: what NNCF makes of the shipped, trained checkpoint, and what the gate refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import openvino
import pytest
from openvino import opset13 as operators

from conftest import SHAPES
from ldm_engine.bundle.formats import INT8_FORMAT
from ldm_engine.errors import InvalidArgumentError, RuntimeUnavailableError, VerificationError
from ldm_engine.machine.cpu import available_threads
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.choice import choose_runtime
from ldm_engine.runtimes.openvino import shared_core
from ldm_export.calibration import (
    DEFAULT_PROMPTS,
    PROMPTS_FILE,
    Sample,
    gather_samples,
    read_calibration_prompts,
    split_prompts,
)
from ldm_export.checkpoint import open_checkpoint
from ldm_export.exporter import export_bundle
from ldm_export.formats.openvino_int8 import make_symmetric, quantize_unet, unquantized_operators
from ldm_export.int8_gate import MAX_NOISE_PRED_ERROR, compare_int8
from ldm_export.quantization import HELD_OUT, Prompts, choose_prompts, find_prompts

PROMPTS = read_calibration_prompts(SHAPES / PROMPTS_FILE)[:3]
FP32 = RuntimeOptions(threads=available_threads())


@pytest.fixture(scope="module")
def irs(shapes_bundle):
    """The UNet's graphs in fp32 and in int8."""
    return [shapes_bundle.program_files("unet", f)[0] for f in ("openvino", INT8_FORMAT)]


@pytest.fixture(scope="module")
def samples(shapes_bundle):
    return gather_samples(
        shapes_bundle,
        choose_runtime(shapes_bundle, "openvino"),
        FP32,
        PROMPTS,
        samples_per_prompt=2,
        guidance_scale=2.0,
        num_inference_steps=10,
    )


def noise(samples):
    """What nobody should calibrate with."""
    stream = np.random.RandomState(0)

    def like(array):
        return stream.standard_normal(array.shape).astype(np.float32)

    return [
        Sample(like(s.latents), like(s.time_shift), like(s.unconditional_kv), like(s.kv))
        for s in samples
    ]


def test_all_but_the_ends_and_the_shortcuts_is_in_int8(irs):
    source, target = map(openvino.Core().read_model, irs)
    plain = []
    for operator in target.get_ordered_ops():
        if operator.get_type_name() in ("Convolution", "MatMul"):
            feed = operator.input_value(0).get_node()
            while feed.get_type_name() in ("Transpose", "Reshape", "Gather"):
                feed = feed.input_value(0).get_node()
            if feed.get_type_name() != "FakeQuantize":
                plain.append(operator)
    assert len(plain) == len(unquantized_operators(source)) > 2
    kernels = [w.input(1).get_partial_shape().to_shape() for w in plain]
    assert all(w.get_type_name() == "Convolution" for w in plain)
    ends = [k for k in kernels if k[2] == 3]  # the shortcuts' are 1x1
    assert sorted(4 if 4 in k[:2] else 0 for k in ends) == [4, 4]
    fp32_bytes, int8_bytes = (ir.with_suffix(".bin").stat().st_size for ir in irs)
    assert int8_bytes < 0.3 * fp32_bytes


def test_names_and_free_sizes_stay(irs):
    source, target = map(openvino.Core().read_model, irs)
    for before, after in zip(source.inputs, target.inputs, strict=True):
        assert before.get_any_name() == after.get_any_name()
        assert before.get_partial_shape() == after.get_partial_shape()


def test_other_sizes_run_without_guidance(shapes_bundle):
    options = replace(FP32, precision="int8")
    unet = choose_runtime(shapes_bundle, "openvino", "int8").runtime.open(
        shapes_bundle, "unet", options
    )
    model = shapes_bundle.model
    unet.allocate(
        {
            "latents": (3, 4, 16, 24),
            "time_shift": (1, model.time_shift_width),
            "text_kv": (3, model.token_length, model.text_kv_width),
            "noise_pred": (3, 4, 16, 24),
        }
    )
    unet.inputs["latents"][:] = np.random.RandomState(0).standard_normal((3, 4, 16, 24))
    unet.run()
    assert 0 < np.abs(unet.outputs["noise_pred"]).max() < 100


def test_the_same_samples_give_the_same_files_without_traces_or_noise(
    irs, samples, tmp_path, capfd
):
    contents = []
    for name in ("one.xml", "two.xml"):
        quantize_unet(irs[0], samples[:2], tmp_path / name)
        data = (tmp_path / name).with_suffix(".bin").read_bytes()
        contents.append(((tmp_path / name).read_bytes(), data))
    assert contents[0] == contents[1]
    assert capfd.readouterr() == ("", "")
    text = irs[1].read_text()
    assert not re.search(r"model\.onnx|<nncf>|calibration|" + re.escape(str(irs[1].parent)), text)


def test_the_gate_lets_a_good_int8_pass_and_refuses_one_calibrated_with_noise(
    shapes_bundle, irs, samples, tmp_path
):
    options = replace(FP32, precision="int8")
    held_out = read_calibration_prompts(SHAPES / PROMPTS_FILE)[3:6]
    path = tmp_path / "bundle"
    shutil.copytree(shapes_bundle.path, path, copy_function=os.link)
    bundle = replace(shapes_bundle, path=path, files={})  # no hashes, so nothing is cached
    choice = choose_runtime(bundle, "openvino", "int8")

    def gate():
        return compare_int8(bundle, choice, FP32, options, samples, held_out, guidance_scales=[2.0])

    report = gate()
    assert 0 < report.noise_pred_error <= report.worst_noise_pred_error
    assert report.worst_psnr <= report.psnr < 60
    files = bundle.program_files("unet", INT8_FORMAT)
    for file in files:
        file.unlink()
    quantize_unet(irs[0], noise(samples), files[0])
    with pytest.raises(VerificationError, match="too far from the fp32 one"):
        gate()


def test_transposed_convolutions_are_computed_in_int8(irs):
    """That is, their inputs' ranges are symmetric; the runtime says what it computes them in."""
    model = shared_core().read_model(irs[1])
    convolutions = [o for o in model.get_ops() if o.get_type_name() == "ConvolutionBackpropData"]
    assert len(convolutions) == 3
    for convolution in convolutions:
        quantizer = convolution.input_value(0).get_node()
        low, high, *outputs = (quantizer.input_value(i).get_node().data for i in (1, 2, 3, 4))
        np.testing.assert_allclose(low, -high * 128 / 127, rtol=1e-6)
        np.testing.assert_array_equal(outputs, [low, high])
    compiled = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    precisions = [f["runtimePrecision"] for f in facts if f["layerType"] == "Deconvolution"]
    assert {p.astype(str) for p in precisions} == {"i8"}


def test_only_a_quantized_input_is_made_symmetric():
    """And for the transposed convolution alone, whoever else reads it."""
    x = operators.parameter([1, 2, 4, 4], np.float32)
    ends = [operators.constant(np.float32(end)) for end in (0, 6)]
    shared = operators.fake_quantize(x, *ends, *ends, 256)
    kernel = operators.constant(np.ones((2, 2, 4, 4), np.float32))
    padding = {"pads_begin": [1, 1], "pads_end": [1, 1]}
    quantized, plain = (
        operators.convolution_backprop_data(source, kernel, [2, 2], **padding)
        for source in (shared, x)
    )
    model = openvino.Model([operators.result(n) for n in (quantized, plain, shared)], [x])
    make_symmetric(model)
    own, untouched = (c.input_value(0).get_node() for c in (quantized, plain))
    assert [float(own.input_value(i).get_node().data) for i in (2, 4)] == [6.0, 6.0]
    assert float(own.input_value(1).get_node().data) == pytest.approx(-6 * 128 / 127)
    assert untouched.get_type_name() == "Parameter"
    assert float(shared.input_value(1).get_node().data) == 0.0


def test_what_the_gate_measured_is_recorded(shapes_bundle):
    parity = shapes_bundle.parity["openvino"]["int8"][HELD_OUT]
    assert 0 < parity.relative_l2_error < MAX_NOISE_PRED_ERROR == parity.tolerance
    assert shapes_bundle.programs["unet"].formats[INT8_FORMAT].weights == "int8"
    assert "nncf" in shapes_bundle.versions
    raw = json.loads((shapes_bundle.path / "bundle.json").read_text())
    assert INT8_FORMAT not in raw["programs"]["vae_decoder"]["formats"]


def test_prompts_come_from_the_file_given_or_the_checkpoint_or_the_package(tmp_path):
    own = read_calibration_prompts(SHAPES / PROMPTS_FILE)
    assert choose_prompts(SHAPES, None) == Prompts(*split_prompts(own))
    with pytest.warns(UserWarning, match="general prompts"):
        assert choose_prompts(tmp_path, None) == Prompts(*split_prompts(DEFAULT_PROMPTS))
    given = tmp_path / "prompts.txt"
    given.write_text("a\nb\nc\nd\n")
    assert choose_prompts(tmp_path, given) == Prompts(("a", "b", "c"), ("d",))


def test_the_checkpoints_own_prompts_judge_whatever_calibrated(tmp_path):
    given = tmp_path / "prompts.txt"
    given.write_text("a\nb\nc\nd\n")
    own = read_calibration_prompts(SHAPES / PROMPTS_FILE)
    assert choose_prompts(SHAPES, given) == Prompts(("a", "b", "c"), split_prompts(own)[1])


def test_what_a_bundle_brings_to_fit_solvers_to(tmp_path):
    assert find_prompts(SHAPES, None) == read_calibration_prompts(SHAPES / PROMPTS_FILE)
    given = tmp_path / "given.txt"
    given.write_text("a\nb\nc\nd\n")
    assert find_prompts(SHAPES, given) == ("a", "b", "c", "d")
    assert find_prompts(tmp_path, None) == DEFAULT_PROMPTS
    (tmp_path / PROMPTS_FILE).write_text("a\n")  # which need not keep anybody from exporting
    with pytest.warns(UserWarning, match="goes without prompts.* hold 1 different"):
        assert find_prompts(tmp_path, None) == ()


@pytest.mark.parametrize("int8", [False, True])
def test_int8_without_openvino_and_missing_prompts_are_refused(tiny_checkpoint, tmp_path, int8):
    checkpoint = open_checkpoint(tiny_checkpoint)
    with pytest.raises(InvalidArgumentError, match="Add openvino to --formats"):
        export_bundle(checkpoint, tmp_path / "b", formats=["paddle"], int8=True)
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        export_bundle(
            checkpoint,
            tmp_path / "b",
            formats=["openvino"],
            int8=int8,
            calibration_prompts=tmp_path / "missing.txt",
        )
    assert not (tmp_path / "b").exists()


def test_int8_without_nncf_is_refused_with_the_install_line(tiny_checkpoint, tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name)
    )
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'ldm-engine\[int8\]'"):
        export_bundle(
            open_checkpoint(tiny_checkpoint), tmp_path / "b", formats=["openvino"], int8=True
        )
