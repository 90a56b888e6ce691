"""A bundle is read, chosen for and checked once, whoever runs it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from conftest import without_optional
from ldm_engine.bundle import manifest
from ldm_engine.bundle.bundle import Bundle, Parity
from ldm_engine.bundle.contract import shapes
from ldm_engine.commands.main import cli
from ldm_engine.errors import BundleError, InvalidArgumentError, RuntimeUnavailableError
from ldm_engine.runtimes import choice
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.choice import RUNTIMES, Choice, usable_runtimes
from ldm_engine.sampling import opening, request
from ldm_engine.sampling.opening import open_to_run, prepare

ROUND_TRIP_DB = 30.0


@pytest.fixture
def counts(monkeypatch):
    """How often each step of the ritual was taken."""
    taken = Counter()

    def count(name, *places):
        function = getattr(*places[0])

        def counted(*arguments, **options):
            taken[name] += 1
            return function(*arguments, **options)

        for owner, attribute in places:
            monkeypatch.setattr(owner, attribute, counted)

    parse = (manifest, "_parse")
    count("manifest", parse)
    count("choice", (choice, "choose_runtime"), (opening, "choose_runtime"))
    count("request", (request, "resolve_request"), (opening, "resolve_request"))
    read = Bundle.scheduler_config.fget

    def scheduler_config(self):
        taken["scheduler config"] += 1
        return read(self)

    monkeypatch.setattr(Bundle, "scheduler_config", property(scheduler_config))
    return taken


@pytest.mark.parametrize("images", [1, 5])
def test_one_generate_does_everything_once(tiny_onnx_bundle, tmp_path, counts, images):
    arguments = ["generate", tiny_onnx_bundle.path, "a", "b", "--num-images", images]
    arguments += ["--num-inference-steps", 2, "--output", tmp_path, "--batch-size", 2]
    cli.main([str(a) for a in arguments], standalone_mode=False)
    assert counts == {"manifest": 1, "choice": 1, "request": 1, "scheduler config": 1}
    counts.clear()
    (path, *_) = tmp_path.glob("*.png")
    arguments = ["generate", tiny_onnx_bundle.path, "--from-image", path, "--output", tmp_path]
    cli.main([str(a) for a in arguments], standalone_mode=False)
    assert counts == {"manifest": 1, "choice": 1, "request": 1, "scheduler config": 1}


def test_one_render_opens_once(tiny_onnx_bundle, tmp_path, counts):
    (tmp_path / "jobs.txt").write_text("a\nb\n")
    arguments = ["render", tiny_onnx_bundle.path, tmp_path / "jobs.txt", "--batch-size", 1]
    arguments += ["--num-inference-steps", 2, "--output", tmp_path / "out"]
    cli.main([str(a) for a in arguments], standalone_mode=False)
    assert {counts[name] for name in ("manifest", "choice", "scheduler config")} == {1}


def test_all_wrong_options_are_named_at_once(tiny_onnx_bundle):
    with pytest.raises(InvalidArgumentError) as caught:
        open_to_run(
            tiny_onnx_bundle.path, runtime="x", precision="banana", device="moon", threads=-4
        )
    assert all(f"`{n}`" in str(caught.value) for n in ("runtime", "precision", "device", "threads"))


@pytest.mark.parametrize(
    ("runtime", "in_fp32"),
    [
        ("paddle", "paddle"),
        ("openvino", "openvino"),
        ("tensorrt", "paddle"),
        ("onnxruntime-tensorrt", "onnxruntime"),
    ],
)
def test_what_computes_in_fp32_from_the_same_files(tiny_onnx_bundle, runtime, in_fp32):
    device = "cpu" if "cpu" in RUNTIMES[runtime].precisions else "gpu:0"
    options = RuntimeOptions(device=device, precision="fp16")
    opened = open_to_run(tiny_onnx_bundle.path)
    opened = replace(opened, choice=Choice(RUNTIMES[runtime], ""), options=options)
    assert opened.in_fp32().choice.runtime.name == in_fp32
    assert opened.in_fp32().options.precision == "fp32"
    kind = "cpu" if device == "cpu" else "gpu"
    assert "fp32" in RUNTIMES[in_fp32].precisions[kind]


def test_an_encoder_opens_in_every_runtime_and_precision(shapes_bundle, shapes_pipe):
    """A picture that the model drew, encoded and decoded again, is the same to the eye."""
    picture = shapes_pipe("a red circle", seed=1, num_inference_steps=4, output_type="np").images
    seen = set()
    for chosen, precision in usable_runtimes(shapes_bundle):
        opened = prepare(shapes_bundle, chosen, RuntimeOptions(precision=precision, threads=1))
        with opened.open_program("vae_encoder") as encoder:
            cells = {"B": 1, "h": shapes_bundle.model.sample_size}
            cells["w"] = cells["h"]
            encoder.allocate(shapes("vae_encoder", shapes_bundle.model, **cells))
            np.copyto(encoder.inputs["image"], picture)
            encoder.run()
            again = shapes_pipe.decode(encoder.outputs["latents"].copy())
        error = float(np.square(again - picture).mean())
        assert 10 * np.log10(1 / error) > ROUND_TRIP_DB, (chosen.runtime.name, precision)
        seen.add((chosen.runtime.name, precision))
    assert seen >= {(r, "fp32") for r in ("openvino", "onnxruntime", "paddle")}


def test_a_bundle_without_an_encoder_says_how_to_get_it(tiny_bundle):
    opened = open_to_run(tiny_bundle.path)
    opened = replace(opened, bundle=without_optional(opened.bundle))
    with pytest.raises(BundleError, match=r"has no program vae_encoder.* without --no-encoder"):
        opened.open_program("vae_encoder")


def test_an_encoder_outside_its_tolerance_is_refused_alone(tiny_bundle):
    opened = open_to_run(tiny_bundle.path)
    parity = {"paddle": {"fp32": {"vae_encoder": Parity(0.5, 1e-4, "batch 1")}}}
    opened = replace(opened, bundle=replace(opened.bundle, parity=parity))
    with pytest.raises(RuntimeUnavailableError, match=r"vae_encoder, batch 1: relative error 0\.5"):
        opened.open_program("vae_encoder")
    opened.open_program("time_encoder").close()
    assert choice.choose_runtime(opened.bundle).runtime.name == "paddle"
