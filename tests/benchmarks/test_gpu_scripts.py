"""The GPU benchmarks as far as they go without one: arguments, refusals, and what is measured."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT
from ldm_engine.checks.tolerances import relative_error
from ldm_engine.machine.device import Device
from ldm_engine.runtimes.choice import PREFERENCE, RUNTIMES, choose_runtime

FP32 = 1e-4  # relative L2 of a step's noise prediction to diffusers'
FOLDER = ROOT / "benchmarks" / "gpu"
without_gpu = pytest.mark.skipif(
    any(not RUNTIMES[n].missing("fp16", Device("gpu", 0)) for n in PREFERENCE["gpu"]),
    reason="this machine has a GPU and a library for it",
)


@pytest.fixture(scope="module")
def scripts():
    """The scripts as modules, with their folder where a script finds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield {name: load(name) for name in ("contestants", "unet_step", "render")}


def load(name):
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(FOLDER / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@without_gpu
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("render.py", ["BUNDLE"]),
        ("render.py", ["BUNDLE", "--precision", "fp16", "--runtime", "paddle"]),
        ("unet_step.py", ["BUNDLE", "CHECKPOINT"]),
        ("unet_step.py", ["BUNDLE", "CHECKPOINT", "--ours", "paddle:fp16", "--torch", "none"]),
    ],
)
def test_without_a_gpu_they_refuse_at_once(tiny_bundle, tiny_checkpoint, script, arguments):
    places = {"BUNDLE": tiny_bundle.path, "CHECKPOINT": tiny_checkpoint}
    done = run(script, *(places.get(a, a) for a in arguments))
    assert done.returncode == 1
    assert "paddlepaddle-gpu is not installed" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("render.py", [], "bundle"),
        ("render.py", ["b", "--precision", "int8"], "invalid choice"),
        ("unet_step.py", ["b"], "checkpoint"),
        ("render.py", ["b", "--count", "0"], "0 is less than 1"),
        ("unet_step.py", ["b", "c", "--rounds", "many"], "invalid int"),
        ("unet_step.py", ["b", "c", "--warm-up", "-1"], "-1 is less than 0"),
    ],
)
def test_wrong_arguments_are_told(script, arguments, message):
    done = run(script, *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_pair_is_a_runtime_and_a_precision(tiny_bundle, tiny_checkpoint):
    done = run("unet_step.py", tiny_bundle.path, tiny_checkpoint, "--ours", "paddle")
    assert done.returncode == 1
    assert "RUNTIME:PRECISION" in done.stderr


def test_defaults(scripts):
    a = scripts["unet_step"].parse(["b", "c"])
    assert (a.device, a.torch, a.torch_precision) == ("gpu:0", "eager,compile", "fp16")
    assert scripts["render"].parse(["b"]).runtime == "auto"


def test_contestants_take_turns(scripts):
    order = []
    names = ("ours a", "torch b", "torch c")
    contestants = {name: (lambda name=name: order.append(name)) for name in names}
    samples = scripts["unet_step"].measure(contestants, rounds=3, steps=2)
    assert {name: len(values) for name, values in samples.items()} == dict.fromkeys(names, 3)
    assert order[::2] == [
        *("ours a", "torch b", "torch c"),
        *("torch b", "torch c", "ours a"),
        *("torch c", "ours a", "torch b"),
    ]


def test_ratios_are_to_the_fastest_of_ours(scripts):
    module = scripts["unet_step"]
    rows = module.summarize({"ours a": [2.0, 2.0], "ours b": [1.0, 1.0], "torch": [3.0, 5.0]})
    assert rows["torch"]["times_ours"] == pytest.approx(4)
    assert rows["ours b"]["median_ms"] == pytest.approx(1000)
    lines = module.table(rows, {"torch": 1e-3}).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "1.0e-03" in lines[-1]


def test_a_step_of_ours_is_that_of_the_engine(scripts, tiny_bundle):
    """On the CPU: the same code, with another device."""
    choice = choose_runtime(tiny_bundle, "paddle")
    ours = scripts["contestants"].Ours(tiny_bundle, choice, "fp32", "cpu")
    ours()
    first = ours.result()
    ours()
    np.testing.assert_array_equal(ours.result(), first)
    assert first.shape[0] == 2
    assert relative_error(first[:1], first[1:]) > 1e-3  # guided: the halves differ


def test_the_measurement_is_rehearsed_on_the_cpu(tiny_bundle, tiny_checkpoint, tmp_path):
    """All but the device is real: this engine and diffusers, on the same inputs."""
    output = tmp_path / "steps.json"
    done = run(
        "unet_step.py", tiny_bundle.path, tiny_checkpoint, "--device", "cpu", "--output", output,
        "--ours", "paddle:fp32", "--torch", "eager", "--torch-precision", "fp32",
        "--rounds", "2", "--steps", "1", "--warm-up", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert set(found["samples_s"]) == {"ours paddle fp32", "torch eager fp32"}
    assert found["errors"]["ours paddle fp32"] < FP32
    assert found["errors"]["torch eager fp32"] == 0
    assert done.stdout.count("| ours paddle fp32 |") == 1


def test_pictures_are_compared(scripts):
    module = scripts["render"]
    images = np.random.RandomState(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)
    assert (module.psnr(images, images) >= 99.9).all()
    assert module.psnr(images + np.float32(0.01), images) == pytest.approx([40, 40], abs=0.01)


def test_the_demo_is_rendered_and_compared(scripts, tiny_bundle, tmp_path, monkeypatch):
    """On the CPU against itself: all but the device is real."""
    arguments = ["--device", "cpu", "--runtime", "paddle", "--count", "2", "--steps", "2"]
    found = scripts["render"].run(
        scripts["render"].parse([str(tiny_bundle.path), *arguments, "--output", str(tmp_path)])
    )
    assert found["psnr_least"] > 60
    assert found["unet_step_ms"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cpu.png", "gpu.png"]
