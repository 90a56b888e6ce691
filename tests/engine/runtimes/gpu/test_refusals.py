"""A GPU on a machine without one is refused at once, with what is missing and how to get it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import pytest

from forked import run_command
from ldm_engine import LDMTextToImagePipeline
from ldm_engine.errors import InvalidArgumentError, RuntimeUnavailableError
from ldm_engine.machine.device import Device
from ldm_engine.runtimes import base
from ldm_engine.runtimes.choice import (
    PREFERENCE,
    RUNTIMES,
    choose_runtime,
    resolve_options,
    select_runtimes,
)

GPU_0 = Device("gpu", 0)
PADDLE = (
    "paddlepaddle-gpu is not installed",
    "PyPI's paddlepaddle-gpu stops at 2.6.2",
    "3.x comes from Paddle's own package index",
)
ONNXRUNTIME = ("onnxruntime-gpu is not installed", "pip install 'ldm-engine[onnxruntime-gpu]'")
TENSORRT = ("TensorRT (libnvinfer) is not installed", "pip install 'tensorrt==10.*'")

pytestmark = pytest.mark.skipif(
    any(not RUNTIMES[name].missing("fp16", GPU_0) for name in PREFERENCE["gpu"]),
    reason="this machine has a GPU and a library for it",
)


@pytest.fixture
def broken(tiny_bundle, tmp_path):
    """A bundle whose weights cannot be read: whoever looks at them fails otherwise."""
    path = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    for file in path.glob("*/*.pdiparams"):
        file.unlink()
    return path


@pytest.mark.parametrize(
    ("runtime", "precision", "expected"),
    [
        ("auto", "fp32", PADDLE),
        ("auto", "fp16", PADDLE),
        ("paddle", "bf16", PADDLE),
        ("tensorrt", "fp16", (*PADDLE, *TENSORRT, "--formats paddle,tensorrt")),
        ("onnxruntime", "fp32", (*ONNXRUNTIME, "--formats paddle,onnx")),
        ("onnxruntime-tensorrt", "fp16", ONNXRUNTIME + TENSORRT),
    ],
)
def test_all_that_is_missing_is_named_before_weights_are_read(broken, runtime, precision, expected):
    with pytest.raises(RuntimeUnavailableError) as caught:
        LDMTextToImagePipeline.from_pretrained(
            broken, device="gpu:0", runtime=runtime, precision=precision
        )
    message = str(caught.value)
    assert "\n" not in message
    assert message.count("NVIDIA driver") == 1  # once for all runtimes
    assert "gpu:0" in message
    assert "NVIDIA" in message
    for text in expected:
        assert text in message


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["generate", "BUNDLE", "a", "--device", "gpu:0"], 1, PADDLE[0]),
        (["generate", "BUNDLE", "a", "--device", "gpu", "--precision", "fp16"], 1, PADDLE[1]),
        (["generate", "BUNDLE", "a", "--device", "cuda"], 2, "gpu:0"),
        (["generate", "BUNDLE", "a", "--precision", "fp16"], 1, "computes in fp32, bf16 only"),
        (["generate", "BUNDLE", "a", "--device", "gpu", "--threads", "0"], 2, "1024"),
        (["generate", "BUNDLE", "a", "--runtime", "tensorrt"], 1, "runs on GPUs only"),
        (["verify", "BUNDLE", "--device", "gpu:0"], 1, PADDLE[0]),
        (["render", "BUNDLE", "JOBS", "--output", "out", "--device", "gpu:0"], 1, PADDLE[0]),
        (["export", "CHECKPOINT", "out", "--formats", "paddle,tensorrt"], 1, "cannot be built"),
        (["export", "CHECKPOINT", "out", "--formats", "tensorrt"], 2, "Add paddle"),
        (["export", "CHECKPOINT", "out", "--precision", "fp16"], 2, "Add tensorrt"),
        (["export", "who/ever", "out", "--formats", "paddle,tensorrt"], 1, TENSORRT[0]),
    ],
)
def test_every_command_refuses_in_one_paragraph(
    broken, tiny_checkpoint, tmp_path, arguments, code, message
):
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("a\n")
    places = {"BUNDLE": broken, "CHECKPOINT": tiny_checkpoint, "JOBS": jobs}
    done = run_command(*(places.get(a, a) for a in arguments), cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_it_takes_no_import_of_a_runtime(broken):
    """Refused within the time that the command itself takes."""
    code = (
        "import sys; from ldm_engine import LDMTextToImagePipeline as P\n"
        "try: P.from_pretrained(sys.argv[1], device='gpu:0')\n"
        "except ImportError: print(*({'paddle', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(broken)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"
    assert time.perf_counter() - began < 60


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("paddle", "2.6.2.post120", "2.6.2.post120 is installed, and 3.2.2 or later is needed"),
        ("tensorrt", "2.6.2", PADDLE[2]),
        ("onnxruntime", "1.18.1", "1.18.1 is installed, and 1.23 or later is needed"),
        ("onnxruntime-tensorrt", "1.22", ONNXRUNTIME[1]),
        ("paddle", "3.2.2", None),
        ("paddle", "3.10.0rc1", None),
        ("paddle", "0.0.0", None),  # a nightly build
        ("onnxruntime", "1.23.0", None),
    ],
)
def test_old_packages_are_not_enough(monkeypatch, name, version, expected):
    """Such as the only ones of Paddle that PyPI has."""
    monkeypatch.setattr(base, "installed_version", lambda name: version)
    found = "; ".join(RUNTIMES[name].missing("fp32", GPU_0))
    assert (expected or "driver") in found
    assert ("or later is needed" in found) is (expected is not None)


def test_a_gpu_without_bf16_is_refused(monkeypatch):
    from ldm_engine.machine.gpu import GPU

    monkeypatch.setattr(base, "find_gpu", lambda index: GPU(0, "Tesla T4", (7, 5), 16 << 30))
    assert "the Tesla T4 has no bf16" in RUNTIMES["paddle"].missing("bf16", GPU_0)[0]
    assert "T4" not in RUNTIMES["paddle"].missing("fp16", GPU_0)[0]


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("openvino", "fp32", "runs on the CPU only, not on gpu:0"),
        ("onnxruntime", "bf16", "on GPUs it computes in fp32, fp16 only"),
        ("onnxruntime-tensorrt", "fp32", "on GPUs it computes in fp16 only"),
        ("paddle", "int8", "on GPUs it computes in fp32, fp16, bf16 only"),
    ],
)
def test_what_a_runtime_does_not_do_on_gpus(tiny_bundle, name, precision, message):
    with pytest.raises(RuntimeUnavailableError, match=message):
        choose_runtime(tiny_bundle, name, precision, "gpu:0")


def test_verify_prints_each_reason_once(tiny_bundle):
    with pytest.raises(RuntimeUnavailableError) as caught:
        select_runtimes(tiny_bundle, "all", "all", "gpu:0")
    lines = str(caught.value).splitlines()
    assert len([line for line in lines if line.startswith("The runtime paddle")]) == 1
    assert any("fp32, fp16, bf16 on gpu:0" in line for line in lines)


def test_gpu_alone_is_the_first_one():
    assert resolve_options(RUNTIMES["paddle"], "gpu", "fp16", 1).device == "gpu:0"


def test_info_shows_why_and_the_order(tiny_bundle, capsys):
    from ldm_engine.commands import main as cli

    cli.cli.main(["info", str(tiny_bundle.path)], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "GPU here none: " in shown
    assert "order on GPUs tensorrt (needs the format tensorrt), else paddle" in shown
    assert "paddle (fp32, fp16, bf16), else onnxruntime (needs" in shown
    cli.cli.main(["info", str(tiny_bundle.path), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["format_facts"] == {}


def test_a_picture_from_a_gpu_is_not_rendered_again_on_the_cpu(tiny_bundle, tmp_path):
    from dataclasses import replace

    from ldm_engine.commands.from_image import generate_from_image
    from ldm_engine.sampling.opening import open_to_run
    from ldm_engine.sampling.recipes import Recipe
    from ldm_engine.sampling.saving import save_image

    opened = open_to_run(tiny_bundle.path)
    request = opened.request({"prompt": "a", "num_inference_steps": 1, "seed": 0})
    recipe = Recipe.of(request.values(0), opened, 1)
    with LDMTextToImagePipeline.from_opened(opened) as pipe:
        (image,) = pipe("a", num_inference_steps=1, seed=0).images
    path = save_image(image, tmp_path, "a", replace(recipe, device="gpu"))
    with pytest.raises(InvalidArgumentError, match=r"rendered on a gpu.*--device"):
        generate_from_image(tiny_bundle.path, path, {}, tmp_path, "cpu", "resident", None)
