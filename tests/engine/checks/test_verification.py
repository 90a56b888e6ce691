from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from conftest import without_optional
from ldm_engine.bundle.bundle import FormatInfo, Parity
from ldm_engine.checks.cases import END_TO_END_KEY, reference_cases
from ldm_engine.checks.references import load_references, sample
from ldm_engine.checks.tolerances import (
    ROUNDING_LIMIT,
    end_to_end_tolerance,
    program_tolerance,
    relative_error,
    worst_image_error,
)
from ldm_engine.checks.verification import Finding, check_runtime, require_passed
from ldm_engine.errors import BundleError, RuntimeUnavailableError, VerificationError
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.choice import RUNTIMES, choose_runtime


def test_every_program_is_checked_at_two_batch_and_two_image_sizes(tiny_bundle):
    for name in tiny_bundle.programs:
        cases = reference_cases(name, tiny_bundle.model)
        inputs = [next(iter(case.input_shapes.values())) for case in cases]
        assert len({shape[0] for shape in inputs}) == 2
        if name in ("unet", "vae_decoder"):
            assert len({shape[2:] for shape in inputs}) >= 2
        if name == "vae_encoder":
            assert len({shape[1:3] for shape in inputs}) == 2


def test_inputs_are_the_same_everywhere(tiny_bundle):
    case = next(reference_cases("unet", tiny_bundle.model))
    first, second = case.inputs(), case.inputs()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    stream = np.random.RandomState(0)
    expected = stream.standard_normal((1, 4, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(first["latents"], expected)


def test_relative_error():
    reference = np.array([3.0, 4.0], np.float32)
    assert relative_error(reference, reference) == 0
    assert relative_error(np.array([3.0, 4.5]), reference) == pytest.approx(0.1)
    assert relative_error(np.array([np.nan, 4.0]), reference) == float("inf")
    assert relative_error(np.array([np.inf, 4.0]), reference) == float("inf")
    assert relative_error(reference, np.zeros(2)) > 1


def test_samples_reach_from_the_first_to_the_last_value():
    values = np.arange(10_000, dtype=np.float32).reshape(10, 1000)
    kept = sample(values)
    assert (kept[0], kept[-1], len(kept)) == (0, 9999, 256)
    assert len(sample(values[0, :7])) == 7


def test_all_failures_are_named():
    good = Finding("paddle", "fp32", "unet", "case a", 1e-6, 1e-4)
    bad = Finding("paddle", "fp32", "vae_decoder", "case b", 3e-3, 1e-4)
    nan = Finding("paddle", "fp32", "text_encoder", "case c", float("inf"), 1e-4)
    require_passed([good], "It")
    with pytest.raises(VerificationError) as caught:
        require_passed([good, bad, nan], "It")
    assert "vae_decoder in paddle fp32 (case b): relative error 0.003" in str(caught.value)
    assert "text_encoder" in str(caught.value)
    assert "unet" not in str(caught.value)


def stored_as(bundle, weights):
    """The bundle, said to store weights in another way."""
    programs = {
        name: replace(p, formats={f: replace(i, weights=weights) for f, i in p.formats.items()})
        for name, p in bundle.programs.items()
    }
    return replace(bundle, programs=programs)


@pytest.mark.parametrize(
    ("program", "precision", "weights", "expected"),
    [
        ("unet", "fp32", "fp32", 1e-4),
        ("unet", "fp32", "fp16", 3e-3),
        ("unet", "bf16", "fp32", 3e-2),
        ("unet", "bf16", "fp16", 3e-2),
        ("time_encoder", "bf16", "fp32", 1e-4),  # it runs in fp32 all the same
        ("time_encoder", "bf16", "fp16", 3e-3),
        ("unet", "fp16", "fp32", 2e-2),
        ("unet", "fp16", "fp16", 2e-2),
        ("time_encoder", "fp16", "fp32", 1e-4),
        ("vae_decoder", "fp16", "fp32", 1e-4),
        ("vae_encoder", "fp16", "fp32", 1e-4),
        ("vae_encoder", "bf16", "fp32", 3e-2),
    ],
)
def test_tolerances_follow_precision_and_stored_weights(
    tiny_bundle, program, precision, weights, expected
):
    bundle = stored_as(tiny_bundle, weights)
    assert program_tolerance(bundle, RUNTIMES["paddle"], program, precision) == expected


@pytest.mark.parametrize(
    ("built_in", "weights", "expected"),
    [("fp32", "fp32", 1e-4), ("fp32", "fp16", 3e-3), ("fp16", "fp16", 2e-2)],
)
def test_tensorrt_programs_were_made_from_stored_weights(tiny_bundle, built_in, weights, expected):
    bundle = stored_as(tiny_bundle, weights)
    programs = {
        name: replace(p, formats={**p.formats, "tensorrt": FormatInfo((), built_in)})
        for name, p in bundle.programs.items()
    }
    bundle = replace(bundle, programs=programs)
    assert program_tolerance(bundle, RUNTIMES["tensorrt"], "unet", "fp16") == expected


@pytest.mark.parametrize(
    ("precision", "weights", "expected"),
    [
        ("fp32", "fp32", 1e-3),
        ("fp32", "fp16", 3e-2),
        ("bf16", "fp32", 3e-2),
        ("bf16", "fp16", 3e-2),
    ],
)
def test_tolerances_of_the_loop(tiny_bundle, precision, weights, expected):
    bundle = stored_as(tiny_bundle, weights)
    assert end_to_end_tolerance(bundle, RUNTIMES["paddle"], precision) == expected


@pytest.mark.parametrize("reduce", [lambda values: values, sample])
@pytest.mark.parametrize("worse", [0, 1])
def test_in_fp16_the_worse_image_is_held_by_its_psnr(tiny_bundle, reduce, worse):
    """Also by samples, half of which are of each image: over both it would pass."""
    images = np.random.RandomState(0).uniform(size=(2, 64, 64, 3)).astype(np.float32)
    tolerance = end_to_end_tolerance(tiny_bundle, RUNTIMES["paddle"], "fp16")
    for psnr, passes in ((34.9, False), (35.1, True)):
        given = images.copy()
        given[worse] += 10 ** (-psnr / 20)  # that far in each value
        error = worst_image_error(reduce(given), reduce(images))
        assert Finding("paddle", "fp16", "end_to_end", "", error, tolerance).passed is passes
    given[worse, 0] = np.nan
    assert worst_image_error(reduce(given), reduce(images)) == float("inf")


def test_what_a_program_was_not_built_for_is_not_checked(tiny_bundle, monkeypatch):
    choice = choose_runtime(tiny_bundle)
    monkeypatch.setattr(
        type(choice.runtime), "covers", lambda self, b, name, shapes: name != "vae_decoder"
    )
    references = load_references(tiny_bundle)
    findings = check_runtime(
        tiny_bundle, choice, RuntimeOptions(threads=1), references, reduce=sample
    )
    assert {f.program for f in findings} == {
        "text_encoder", "time_encoder", "unet", "vae_encoder", "end_to_end"
    }  # fmt: skip


def test_what_the_machine_lacks_is_not_laid_on_the_bundle(tiny_bundle, monkeypatch):
    choice = choose_runtime(tiny_bundle)

    def refuse(*_):
        raise RuntimeUnavailableError("CUDA cannot be loaded")

    monkeypatch.setattr(type(choice.runtime), "open", refuse)
    with pytest.raises(RuntimeUnavailableError, match="CUDA"):
        check_runtime(tiny_bundle, choice, RuntimeOptions(), load_references(tiny_bundle))


def test_a_wrong_reference_is_found(tiny_bundle):
    references = load_references(tiny_bundle)
    references[END_TO_END_KEY]["image"] = references[END_TO_END_KEY]["image"] + np.float32(0.01)
    options = RuntimeOptions(threads=1)
    findings = check_runtime(
        tiny_bundle, choose_runtime(tiny_bundle), options, references, reduce=sample
    )
    assert [f.program for f in findings if not f.passed] == ["end_to_end"]


def test_a_runtime_may_differ_as_much_as_the_model_from_itself(tiny_bundle):
    """Not more than a few times, and never beyond what would be visible."""
    references = load_references(tiny_bundle)
    assert references.rounding.keys() == references.keys()
    assert all(0 <= apart < 1e-5 for apart in references.rounding.values())
    key = next(key for key in references if key[0] == "unet")
    references[key]["noise_pred"] = references[key]["noise_pred"] * np.float32(1.002)
    passed = {}
    for rounding in (1e-4, 1e-3, 1.0):
        references.rounding[key] = rounding
        findings = check_runtime(
            tiny_bundle, choose_runtime(tiny_bundle), RuntimeOptions(threads=1), references, sample
        )
        (found,) = (f for f in findings if (f.program, f.label) == key)
        passed[rounding] = (found.passed, found.tolerance)
    assert passed == {1e-4: (False, 4e-4), 1e-3: (True, 4e-3), 1.0: (True, ROUNDING_LIMIT)}


def test_references_of_earlier_exports_have_no_rounding(tiny_bundle, tmp_path):
    path = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    content = json.loads((path / "reference.json").read_text())
    for entry in content["references"]:
        del entry["rounding"]
    (path / "reference.json").write_text(json.dumps(content))
    assert set(load_references(replace(tiny_bundle, path=path)).rounding.values()) == {0.0}


def test_short_samples_are_refused(tiny_bundle, tmp_path):
    path = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    content = json.loads((path / "reference.json").read_text())
    content["references"][0]["outputs"]["text_kv"].pop()
    (path / "reference.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="255"):
        load_references(replace(tiny_bundle, path=path))


@pytest.mark.parametrize("content", ["{}", '{"references": [{}]}', '{"references": []}', "[]"])
def test_a_broken_reference_file_is_refused(tiny_bundle, tmp_path, content):
    path = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    (path / "reference.json").write_text(content)
    json.loads(content)
    with pytest.raises(BundleError, match=r"reference\.json"):
        load_references(replace(tiny_bundle, path=path))


def verified(bundle, references):
    findings = check_runtime(
        bundle, choose_runtime(bundle), RuntimeOptions(threads=1), references, reduce=sample
    )
    return [f.program for f in findings], {f.program for f in findings if not f.passed}


def test_a_bundle_without_an_optional_program_is_verified_without_it(tiny_bundle):
    without = without_optional(tiny_bundle)
    references = load_references(without)
    programs, failed = verified(without, references)
    assert "vae_encoder" not in programs
    assert programs[-1] == "end_to_end"
    assert not failed


def test_an_optional_program_that_is_off_is_named_and_hides_nothing_else(tiny_bundle):
    references = load_references(tiny_bundle)
    for case in reference_cases("vae_encoder", tiny_bundle.model):
        assert case.inputs()["image"].min() >= 0
        assert case.inputs()["image"].max() <= 1
        references["vae_encoder", case.label]["latents"] *= np.float32(1.01)
    programs, failed = verified(tiny_bundle, references)
    assert failed == {"vae_encoder"}
    assert programs[-3:] == ["vae_encoder", "vae_encoder", "end_to_end"]
    # What the export recorded so is refused wherever it is asked for, and not checked again.
    outside = {"paddle": {"fp32": {"vae_encoder": Parity(0.01, 1e-4)}}}
    programs, failed = verified(replace(tiny_bundle, parity=outside), references)
    assert "vae_encoder" not in programs
    assert programs[-1] == "end_to_end"
    assert not failed
