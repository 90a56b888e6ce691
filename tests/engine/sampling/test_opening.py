"""A bundle is read, chosen for and checked once, whoever runs it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from ldm_engine.bundle import manifest
from ldm_engine.bundle.bundle import Bundle
from ldm_engine.commands.main import cli
from ldm_engine.errors import InvalidArgumentError
from ldm_engine.runtimes import choice
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.choice import RUNTIMES, Choice
from ldm_engine.sampling import opening, request
from ldm_engine.sampling.opening import open_to_run


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
