"""``ldm-generate`` refuses what ``ldm-engine generate`` refuses, with the same exit code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from conftest import ROOT
from ldm_engine.sampling.saving import slug

BENCHMARK = ROOT / "benchmarks/cpp_beside_python.py"
PYTHON = [sys.executable, "-c", "from ldm_engine.commands.main import main; main()", "generate"]
REFUSED = {
    "no prompt": [],
    "an unknown option": ["a", "--none"],
    "a number that is none": ["a", "--seed", "x"],
    "a seed too large": ["a", "--seed", "4294967296"],
    "too many seeds": ["a", "b", "--seed", "4294967295"],
    "a height that does not divide": ["a", "--height", "65"],
    "a height of 0": ["a", "--height", "0"],
    "too many steps": ["a", "--num-inference-steps", "1001"],
    "fewer steps than there are": ["a", "--num-inference-steps", "-2147483648"],
    "an unknown solver": ["a", "--solver", "none"],
    "timesteps with a comma too many": ["a", "--timesteps", "900,"],
    "timesteps with other digits": ["a", "--timesteps", "9_99,1"],
    "timesteps that ascend": ["a", "--timesteps", "1,900"],
    "auto without tables": ["a", "--num-inference-steps", "auto"],
    "an eta above 1": ["a", "--eta", "1.5"],
    "guidance that is no number": ["a", "--guidance-scale", "nan"],
    "no threads": ["a", "--threads", "0"],
    "an unknown runtime": ["a", "--runtime", "none"],
    "an unknown precision": ["a", "--precision", "fp8"],
    "a precision of GPUs": ["a", "--runtime", "openvino", "--precision", "fp16"],
    "a device that is none": ["a", "--device", "gpu:1234"],
    "a device that is not offered": ["a", "--device", "gpu"],
    "an unknown memory mode": ["a", "--memory", "none"],
    "no batch": ["a", "--batch-size", "0"],
    "a batch too large": ["a", "--batch-size", "1025"],
    "part of an option's name": ["a", "--heig", "64"],
    "a number in hexadecimal": ["a", "--eta", "0x1p-1"],
    "more images than seeds": ["a", "--seed", "4294967295", "--num-images", "2"],
}


def _run(*command, **options):
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize("name", REFUSED)
def test_bad_arguments(cpp_build, shapes_bundle, tmp_path, name):
    output = ["-o", tmp_path / "out"]
    ours = _run(cpp_build.generate, shapes_bundle.path, *REFUSED[name], *output)
    python = _run(*PYTHON, shapes_bundle.path, *REFUSED[name], *output)
    assert ours.returncode == python.returncode != 0, (ours.stderr, python.stderr)
    assert "Error: " in ours.stderr
    assert "terminate" not in ours.stderr
    assert not (tmp_path / "out").exists()


def test_very_many_images_take_no_memory_beforehand(cpp_build, shapes_bundle, tmp_path):
    options = ["--num-images", 2_000_000_000, "--height", 65, "-o", tmp_path / "out"]
    done = _run("sh", "-c", 'ulimit -v 4000000 && exec "$@"', "sh", cpp_build.generate,
                shapes_bundle.path, "a", *options)  # fmt: skip
    assert done.returncode == 2
    assert "`height` is 65" in done.stderr


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: shutil.rmtree(path), "There is no bundle folder"),
        (lambda path: (path / "bundle.json").unlink(), "is not a finished bundle"),
        (lambda path: (path / "bundle.json").write_bytes(b"\xff"), "cannot be read"),
        (lambda path: (path / "vocab.txt").write_text("x"), "vocab.txt has 1 bytes, not"),
        (lambda path: (path / "unet/openvino_model.bin").unlink(), "openvino_model.bin is missing"),
    ],
)
def test_damaged_bundles(cpp_build, shapes_bundle, tmp_path, damage, says):
    copy = shutil.copytree(shapes_bundle.path, tmp_path / "copy", copy_function=os.link)
    for path in ("bundle.json", "vocab.txt"):  # what is written to is no link
        content = (copy / path).read_bytes()
        (copy / path).unlink()
        (copy / path).write_bytes(content)
    damage(copy)
    for command in ([cpp_build.generate], PYTHON):
        done = _run(*command, copy, "a", "-o", tmp_path, "--num-inference-steps", 1)
        assert done.returncode == 1
        assert says in done.stderr.replace("\n", " "), done.stderr


def test_names_of_pictures_and_no_overwriting(cpp_build, shapes_bundle, tmp_path):
    prompts = ["A Café, 50%!", "日本", "x" * 80]
    command = [cpp_build.generate, shapes_bundle.path, *prompts, "-o", tmp_path, "--seed", 4]
    for _ in range(2):
        done = _run(*command, "--num-inference-steps", 1, "--batch-size", 2)
        assert done.returncode == 0, done.stderr
    names = {f"{slug(p)}-{4 + i}" for i, p in enumerate(prompts)}
    assert {p.stem for p in tmp_path.iterdir()} == names | {f"{n}-2" for n in names}
    for path in tmp_path.iterdir():
        Image.open(path).verify()


def test_output_that_cannot_be_written_is_reported(cpp_build, shapes_bundle, tmp_path):
    command = [cpp_build.generate, shapes_bundle.path, "a", "--num-inference-steps", 1, "-o"]
    assert "cannot be written to" in _run(*command, shapes_bundle.path / "vocab.txt/x").stderr
    words = [str(word) for word in (*command, tmp_path)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "Standard output cannot be written to" in done.stderr


def test_a_long_prompt_is_warned_about(cpp_build, shapes_bundle, tmp_path):
    words = ["-o", tmp_path, "--num-inference-steps", 1, "--guidance-scale", 1]
    done = _run(cpp_build.generate, shapes_bundle.path, "red " * 75 + "blue star", *words)
    assert done.returncode == 0
    assert "Warning: The prompt 'red" in done.stderr
    assert "no effect: 'blue star'" in done.stderr


def test_an_interrupt_ends_it_in_order(cpp_build, shapes_bundle, tmp_path):
    command = [cpp_build.generate, shapes_bundle.path, "a", "-o", tmp_path]
    options = ["--num-inference-steps", "1000", "--num-images", "50"]
    process = subprocess.Popen(
        [*map(str, command), *options],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a parent may ignore it
    )
    try:
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Interrupted." in said
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".png"]


@pytest.mark.parametrize(
    ("what", "says"), [("steps", "C++ / Python"), ("start", "kept cache, C++")]
)
def test_it_is_measured_beside_python(cpp_build, shapes_bundle, what, says):
    options = ["--prefix", cpp_build.prefix, "--rounds", 1, "--steps", 3]
    done = _run(sys.executable, BENCHMARK, what, shapes_bundle.path, *options)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
