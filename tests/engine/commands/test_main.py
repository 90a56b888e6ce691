from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from forked import run_command
from ldm_engine import LDMTextToImagePipeline, __version__
from ldm_engine.bundle.bundle import FileInfo
from ldm_engine.bundle.contract import TABLE
from ldm_engine.bundle.manifest import save_manifest
from ldm_engine.commands import main as cli
from ldm_engine.commands.options import LETTERS
from ldm_engine.errors import RuntimeUnavailableError
from ldm_engine.machine.cpu import supports_bf16
from ldm_engine.machine.files import hash_file
from ldm_engine.sampling.recipes import read_recipe

COMMAND = Path(sys.executable).parent / "ldm-engine"


def run(*arguments, code=0, **options):
    done = run_command(*arguments, **options)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_version_and_help():
    shown = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == f"ldm-engine, version {__version__}"
    for command in ("export", "verify", "info", "generate", "render"):
        assert command in run("--help").stdout
        assert "Usage" in run(command, "--help").stdout


def test_export_then_verify_then_info(tiny_checkpoint, tmp_path):
    out = tmp_path / "bundle"
    shown = run("export", tiny_checkpoint, out, "--formats", "paddle").stdout
    for name in (*TABLE, "end_to_end"):
        assert name in shown
    verified = run("verify", out, "--golden")
    assert verified.stdout.count("pass") == 12 * (1 + supports_bf16())
    assert "does not apply to this bundle" in verified.stdout
    found = json.loads(run("verify", out, "--precision", "fp32", "--golden", "--json").stdout)
    assert found["passed"]
    assert len(found["findings"]) == 12
    assert found["golden"]["not_applicable"]
    shown = run("info", out).stdout
    assert "runtime here" in shown
    facts = json.loads(run("info", out, "--json").stdout)
    assert facts["formats"] == ["paddle"]
    again = run("export", tiny_checkpoint, out, code=1)
    assert "--force" in again.stderr


def test_verify_finds_what_hashes_cannot(tiny_bundle, tmp_path):
    """Damage that was hashed: the manifest is true to the files, the outputs are not."""
    path = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    reference = json.loads((path / "reference.json").read_text())
    for entry in reference["references"]:
        if entry["program"] == "unet":
            entry["outputs"]["noise_pred"][0] += 1
    (path / "reference.json").write_text(json.dumps(reference))
    files = dict(tiny_bundle.files)
    changed = path / "reference.json"
    files["reference.json"] = FileInfo(hash_file(changed), changed.stat().st_size)
    save_manifest(replace(tiny_bundle, path=path, files=files))
    done = run("verify", path, code=1)
    assert "unet in paddle" in done.stderr
    assert "text_encoder in paddle" not in done.stderr


def test_generate_writes_pictures_that_can_be_made_again(tiny_bundle, tmp_path):
    done = run(
        "generate", tiny_bundle.path, "a cat", "a [bold] dog", "-o", tmp_path, "--grid",
        "--num_inference_steps", 3, "--guidance-scale", 2.5, "--eta", 0.5, "--seed", 7,
        "--num-images", 2, "--batch-size", 3,
    )  # fmt: skip
    names = [Path(line).name for line in done.stdout.splitlines()]
    assert names == [
        "a-cat-7.png", "a-cat-8.png", "a-bold-dog-9.png", "a-bold-dog-10.png", "grid.png"
    ]  # fmt: skip
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.size == (2 * 66 + 2, 2 * 66 + 2)
    recipe = read_recipe(tmp_path / "a-bold-dog-9.png")
    assert (recipe.settings["prompt"], recipe.settings["seed"]) == ("a [bold] dog", 9)
    assert recipe.bundle == tiny_bundle.digest
    pipe = LDMTextToImagePipeline.from_pretrained(tiny_bundle.path)
    (again,) = pipe(
        **recipe.settings,
    ).images
    with Image.open(tmp_path / "a-bold-dog-9.png") as written:
        difference = np.abs(np.asarray(written, int) - np.asarray(again, int))
    assert difference.max() <= 1


def test_a_second_run_overwrites_nothing(tiny_bundle, tmp_path):
    arguments = ("generate", tiny_bundle.path, "a", "-o", tmp_path, "--seed", 0)
    for _ in range(2):
        run(*arguments, "--num-inference-steps", 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-0-2.png", "a-0.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["generate", "BUNDLE"], 2, "PROMPT"),
        (["generate", "BUNDLE", "--from-image", "nowhere.png"], 2, "nowhere.png cannot be read"),
        (["generate", "BUNDLE", "a", "--from-image", "x.png"], 2, "PROMPT cannot be given beside"),
        (["generate", "BUNDLE", "a", "--num-images", "200000000"], 2, "100000"),
        (["generate", "BUNDLE", "--seed", "1", "--from-image", "x.png"], 2, "--seed"),
        (["generate", "BUNDLE", "a", "--num-inference-steps", "0"], 2, "1 to 1000"),
        (["generate", "BUNDLE", "a", "--eta", "nan"], 2, "eta"),
        (["generate", "BUNDLE", "a", "--seed", "-1"], 2, "-1"),
        (["generate", "BUNDLE", "a", "--height", "100"], 2, "multiples of 64"),
        (["generate", "BUNDLE", "a", "--guidance", "3"], 2, "--guidance"),
        (["generate", "BUNDLE", "a", "--precision", "fp64"], 2, "fp32"),
        (["generate", "BUNDLE", "a", "--precision", "int8"], 1, "fp32"),
        (["generate", "BUNDLE", "a", "--threads", "100000"], 2, "1024"),
        (["generate", "BUNDLE", "a", "-o", "out", "--eta", "7"], 2, "eta"),
        (["generate", "nowhere", "a"], 1, "nowhere"),
        (["info", "nowhere"], 1, "ldm-engine export"),
        (["verify", "BUNDLE", "--runtime", "nothing"], 2, "paddle"),
        (["export", "nowhere", "out"], 2, "nowhere"),
        (["generate", "BUNDLE", "a", "--precision", "bf16", "--runtime", "onnxruntime"], 1, "onnx"),
        (["generate", "BUNDLE", "a", "--threads", "0"], 2, "1024"),
        (["generate", "BUNDLE", "a", "--memory", "banana"], 2, "sequential"),
        (["verify", "BUNDLE", "--precision", "banana"], 2, "fp32, fp16, bf16, int8"),
        (["verify", "BUNDLE", "--runtime", "paddle", "--precision", "int8"], 1, "fp32, bf16 only"),
        (["verify", "BUNDLE", "--runtime", "onnxruntime"], 1, "--formats paddle,onnx"),
        (["export", "CHECKPOINT", "out", "--formats", "tflite"], 2, "onnx, openvino, paddle"),
        (["export", "CHECKPOINT", "out", "--formats", "paddle,banana"], 2, "banana"),
        (["export", "CHECKPOINT", "out", "--formats", " , "], 2, "empty"),
        (["export", "CHECKPOINT", "out", "--weights", "banana"], 2, "fp32 or fp16"),
        (["export", "who/ever", "out", "--weights", "banana"], 2, "fp32 or fp16"),  # no download
        (["sing"], 2, "sing"),
    ],
)
def test_mistakes_end_in_one_paragraph(
    tiny_bundle, tiny_checkpoint, tmp_path, arguments, code, message
):
    places = {"BUNDLE": str(tiny_bundle.path), "CHECKPOINT": str(tiny_checkpoint)}
    done = run(*(places.get(a, a) for a in arguments), code=code, cwd=tmp_path)
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("runtime", "precision", "checks", "not_checked"),
    [
        ("onnxruntime", "fp32", 1, 0),
        ("openvino", "fp32", 1, 0),
        ("openvino", "bf16", 1, 0),
        ("onnxruntime", "all", 1, 1),
        ("all", "fp32", 3, 1),
        ("all", "all", 4, 5),
    ],
)
def test_verify_checks_what_was_asked_for(
    tiny_onnx_bundle, capsys, runtime, precision, checks, not_checked
):
    if not supports_bf16():
        if precision == "bf16":
            pytest.skip("no bf16 here")
        checks, not_checked = checks - (runtime == precision), not_checked + (runtime == precision)
    arguments = ["verify", str(tiny_onnx_bundle.path)]
    cli.cli.main(
        [*arguments, "--runtime", runtime, "--precision", precision], standalone_mode=False
    )
    shown = capsys.readouterr()
    assert shown.out.count("pass") == 12 * checks
    assert "FAIL" not in shown.out
    assert shown.err.count("Not checked: ") == not_checked


@pytest.mark.parametrize(("runtime", "precision"), [("all", "int8"), ("openvino", "int8")])
def test_verify_without_anything_to_check_is_an_error(tiny_onnx_bundle, runtime, precision):
    arguments = ["verify", str(tiny_onnx_bundle.path), "--runtime", runtime]
    with pytest.raises(RuntimeUnavailableError, match="int8"):
        cli.cli.main([*arguments, "--precision", precision], standalone_mode=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_an_export_in_order(tiny_checkpoint, tmp_path, number):
    process = subprocess.Popen(
        [COMMAND, "export", str(tiny_checkpoint), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What the parent ignores stays ignored, and whoever runs these tests may ignore some.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.partial-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(number)
    if number != signal.SIGINT:  # a second one does not cut the cleaning up short
        time.sleep(0.02)
        process.send_signal(number)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 128 + number, shown
    assert "Interrupted." in shown
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code"), [(["info"], 1), (["generate", "--from-image", "nowhere.png"], 2)]
)
def test_debug_shows_the_traceback(tmp_path, words, code):
    done = run_command(*words, tmp_path, "--debug")
    assert done.returncode == code
    assert "Traceback" in done.stderr


def test_an_output_folder_that_cannot_be_written_is_told_before_rendering(tiny_bundle, tmp_path):
    (tmp_path / "file").write_text("kept")
    done = run("generate", tiny_bundle.path, "a", "-o", tmp_path / "file", code=1)
    assert "Choose another folder" in done.stderr
    assert (tmp_path / "file").read_text() == "kept"


def test_a_recipe_of_another_runtime_is_not_rendered_from_mapped_weights(shapes_bundle, tmp_path):
    arguments = ("--seed", "0", "--num-inference-steps", "2", "--runtime", "openvino")
    run("generate", shapes_bundle.path, "a word", *arguments, "--output", tmp_path)
    (picture,) = tmp_path.glob("*.png")
    arguments = ("--from-image", picture, "--memory", "mapped", "--output", tmp_path)
    shown = run("generate", shapes_bundle.path, *arguments, code=2)
    assert "rendered by openvino" in shown.stderr


def test_options_have_the_same_letter_in_each_command():
    for name in cli.COMMANDS:
        command = cli.cli.get_command(click.Context(cli.cli), name)
        words = [word for option in command.params for word in option.opts]
        assert len(words) == len(set(words)), name
        for word in words:
            if letter := LETTERS.get(word.removeprefix("--")):
                assert f"-{letter}" in words, (name, word)
        letters = {word[1:] for word in words if len(word) == 2 and word[0] == "-"}
        assert letters <= set(LETTERS.values()), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_the_command(shell):
    def answer(instruction, **variables):
        environment = {**os.environ, "_LDM_ENGINE_COMPLETE": f"{shell}_{instruction}", **variables}
        done = subprocess.run([COMMAND], env=environment, capture_output=True, text=True)
        return done.stdout

    assert "_ldm_engine_completion" in answer("source")
    typed = {"COMP_WORDS": "ldm-engine render --dry", "COMP_CWORD": "2"}
    if shell == "fish":
        typed["COMP_CWORD"] = "--dry"
    assert "--dry-run" in answer("complete", **typed)


def test_completing_neither_logs_nor_imports(tmp_path):
    (tmp_path / "rules.py").write_text("open('imported', 'w')")
    words = "ldm-engine render --log-file log --check rules:f --dry"
    typed = {"COMP_WORDS": words, "COMP_CWORD": "6", "_LDM_ENGINE_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [COMMAND], env={**os.environ, **typed}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "plain,--dry-run\n"
    assert [path.name for path in tmp_path.iterdir()] == ["rules.py"]
