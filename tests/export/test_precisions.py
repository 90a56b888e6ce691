"""Which precisions an export must hold, and what becomes of one that it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from forked import run_command
from ldm_engine import LDMTextToImagePipeline, open_bundle
from ldm_engine.bundle.bundle import NO_FIGURE, Parity
from ldm_engine.bundle.manifest import save_manifest
from ldm_engine.checks import tolerances
from ldm_engine.checks.verification import Finding
from ldm_engine.errors import InvalidArgumentError, RuntimeUnavailableError, VerificationError
from ldm_engine.machine.cpu import supports_bf16
from ldm_engine.runtimes import base
from ldm_engine.runtimes.choice import choose_runtime, select_runtimes, usable_runtimes
from ldm_export.checkpoint import open_checkpoint
from ldm_export.exporter import export_bundle
from ldm_export.precisions import required_precisions
from ldm_export.tensorrt_programs import BuildOptions
from ldm_export.verify import parity_report

OUTSIDE = Parity(0.0429, 0.03, "batch 2, 64x128, guided")
SENTENCE = "unet, batch 2, 64x128, guided: relative error 0.0429, tolerance 0.03"


def required(require, formats=("paddle",), int8=False, precision=None):
    return required_precisions(require, formats, int8, BuildOptions(precision))


@pytest.fixture
def outside_in_bf16(copy_bundle):
    """A bundle whose export found that bf16 does not suit its model."""
    path = copy_bundle()
    bundle = open_bundle(path)
    parity = {"paddle": {"fp32": bundle.parity["paddle"]["fp32"], "bf16": {"unet": OUTSIDE}}}
    save_manifest(replace(bundle, parity=parity))
    return path


def test_fp32_is_always_required_and_int8_where_it_is_added(monkeypatch):
    monkeypatch.setattr(base, "supports_bf16", lambda: True)
    assert required(()) == {"fp32"}
    assert required(("bf16", "fp32")) == {"fp32", "bf16"}
    assert required((), ("openvino",), int8=True) == {"fp32", "int8"}
    assert required(("fp16",), ("paddle", "tensorrt")) == {"fp32", "fp16"}


@pytest.mark.parametrize(
    ("require", "formats", "says"),
    [
        (("fp64",), ("paddle",), "'fp64'; fp32"),
        (("int8",), ("openvino",), "--int8"),
        (("bf16",), ("onnx",), "formats onnx. Add openvino or paddle"),
        (("fp16",), ("paddle",), "leave it out"),
    ],
)
def test_what_cannot_be_measured_cannot_be_required(require, formats, says):
    with pytest.raises(InvalidArgumentError, match=says):
        required(require, formats)


def test_a_precision_that_this_machine_lacks_cannot_be_required(monkeypatch):
    monkeypatch.setattr(base, "supports_bf16", lambda: False)
    with pytest.raises(RuntimeUnavailableError, match="no bf16 instructions"):
        required(("bf16",))


def test_the_report_keeps_the_worst_case_of_each_program():
    findings = [
        Finding("paddle", "bf16", "unet", "a", 0.02, 0.03),
        Finding("paddle", "bf16", "unet", "b", 0.04, 0.03),
        Finding("paddle", "bf16", "unet", "c", 0.05, 0.06),
        Finding("paddle", "bf16", "vae_decoder", "opening", float("inf"), 0.03, "It fails."),
    ]
    programs = parity_report(findings)["paddle"]["bf16"]
    assert programs["unet"] == Parity(0.04, 0.03, "b")
    assert programs["vae_decoder"] == Parity(NO_FIGURE, 0.03, "opening", "It fails.")
    assert str(programs["vae_decoder"]) == "opening: It fails."


def test_a_precision_outside_its_tolerance_is_recorded_and_not_a_failure(
    tiny_checkpoint, tmp_path, monkeypatch
):
    """Where the CPU has none it is not measured, and the export is the same."""
    monkeypatch.setitem(tolerances.PROGRAM_TOLERANCES, "bf16", 1e-5)
    made = export_bundle(open_checkpoint(tiny_checkpoint), tmp_path / "out", formats=["paddle"])
    opened = open_bundle(tmp_path / "out")
    assert opened.parity == made.parity
    assert opened.outside("paddle", "fp32") == ""
    assert ("bf16" in opened.parity["paddle"]) == supports_bf16()
    if supports_bf16():
        assert "unet, batch" in opened.outside("paddle", "bf16")
    assert ("paddle", "fp32") in [(c.runtime.name, p) for c, p in usable_runtimes(opened)]
    with pytest.raises(RuntimeUnavailableError, match=r"tolerance 1e-05|no bf16 instructions"):
        LDMTextToImagePipeline.from_pretrained(opened.path, precision="bf16")


def test_a_required_precision_outside_its_tolerance_fails_the_export(
    tiny_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setitem(tolerances.PROGRAM_TOLERANCES, "bf16", 1e-5)
    expected = VerificationError if supports_bf16() else RuntimeUnavailableError
    with pytest.raises(expected, match="bf16"):
        export_bundle(
            open_checkpoint(tiny_checkpoint), tmp_path / "o", formats=["paddle"], require=["bf16"]
        )
    assert not list(tmp_path.iterdir())


def test_what_is_outside_is_refused_with_its_figures(outside_in_bf16, monkeypatch):
    monkeypatch.setattr(base, "supports_bf16", lambda: True)
    bundle = open_bundle(outside_in_bf16)
    for runtime in ("paddle", "auto"):
        with pytest.raises(RuntimeUnavailableError) as caught:
            choose_runtime(bundle, runtime, "bf16")
        assert SENTENCE in str(caught.value)
        assert "fp32" in str(caught.value)
    assert choose_runtime(bundle).runtime.name == "paddle"
    usable, refusals = select_runtimes(bundle, "all", "all")
    assert [p for _, p in usable] == ["fp32"]
    assert any(SENTENCE in refusal for refusal in refusals)


def test_commands_say_so(outside_in_bf16, tmp_path):
    shown = run_command("info", outside_in_bf16)
    assert f"paddle bf16 is outside its tolerance and refused: {SENTENCE}." in shown.stdout
    verified = run_command("verify", outside_in_bf16)
    assert verified.returncode == 0, verified.stderr
    assert SENTENCE in verified.stderr
    drawn = run_command(
        "generate", outside_in_bf16, "a cat", "-o", tmp_path / "out", "--precision", "bf16"
    )
    assert drawn.returncode == 1
    assert SENTENCE in drawn.stderr
    assert not (tmp_path / "out").exists()


def test_commands_say_that_an_encoder_alone_is_refused(copy_bundle):
    path = copy_bundle()
    bundle = open_bundle(path)
    parity = {"paddle": {"fp32": {"vae_encoder": OUTSIDE}}}
    save_manifest(replace(bundle, parity=parity))
    sentence = SENTENCE.replace("unet", "vae_encoder")
    said = f"vae_encoder is refused in paddle fp32, outside its tolerance: {sentence}."
    assert said in run_command("info", path).stdout
    verified = run_command("verify", path, "--precision", "fp32")
    assert verified.returncode == 0, verified.stderr
    assert f"Not checked: {said}" in verified.stderr
    assert "vae_encoder" not in verified.stdout


def test_what_was_not_measured_is_said(copy_bundle):
    path = copy_bundle()
    bundle = open_bundle(path)
    save_manifest(replace(bundle, parity={"paddle": {"fp32": bundle.parity["paddle"]["fp32"]}}))
    assert "paddle bf16 was not measured" in run_command("info", path).stdout
