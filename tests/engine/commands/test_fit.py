"""``ldm-engine fit`` on a tiny bundle, as users run it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import SHAPES
from forked import run_command
from ldm_engine import LDMTextToImagePipeline
from ldm_engine.bundle.bundle import MANIFEST, PROMPTS, SOLVERS
from ldm_engine.commands.fit import save
from ldm_engine.errors import OutputError
from ldm_engine.machine.cache import cache_folder
from ldm_engine.sampling.opening import open_to_run
from ldm_engine.sampling.recipes import read_recipe

COMMAND = Path(sys.executable).parent / "ldm-engine"
QUICK = (
    "--steps", "3,4", "--images", 4, "--held-out-images", 4, "--reference-steps", 10,
    "--floor", -1000,
)  # fmt: skip


def run(*arguments, code=0):
    done = run_command(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def fitted(tiny_onnx_bundle, tmp_path_factory):
    """A bundle with solvers, and what the command printed."""
    path = tmp_path_factory.mktemp("fitted") / "bundle"
    shutil.copytree(tiny_onnx_bundle.path, path)
    before = (path / MANIFEST).read_bytes()
    done = run("fit", path, *QUICK, "--guidance", "2,1")
    assert (path / MANIFEST).read_bytes() == before
    return path, done


@pytest.fixture
def copied(fitted, tmp_path):
    return Path(shutil.copytree(fitted[0], tmp_path / "bundle"))


def test_solvers_are_fitted_to_the_prompts_that_the_bundle_brings(fitted, tiny_onnx_bundle):
    path, done = fitted
    assert (path / PROMPTS).read_bytes().count(b"\n") == 24  # general ones: the checkpoint has none
    lines = [line.split()[:2] for line in done.stdout.splitlines()[2:]]
    assert lines == [["1", "3"], ["1", "4"], ["2", "3"], ["2", "4"]]
    content = json.loads((path / SOLVERS).read_text())
    assert content["bundle"] == tiny_onnx_bundle.digest
    facts = json.loads(run("info", path, "--json").stdout)
    assert [table["guidance_scale"] for table in facts["solvers"]] == [1, 1, 2, 2]
    assert facts["digest"] == tiny_onnx_bundle.digest
    assert "fitted solvers are whole" in run("verify", path, "--runtime", "openvino").stdout


def test_pictures_by_a_fitted_solver_can_be_made_again(fitted, tmp_path):
    path, _ = fitted
    arguments = ("--solver", "fitted", "--num-inference-steps", 4, "--guidance-scale", 2)
    run("generate", path, "a", "b", *arguments, "--seed", 3, "-o", tmp_path)
    recipe = read_recipe(tmp_path / "a-3.png")
    assert recipe.settings["solver"] == "fitted"
    again = run("generate", path, "--from-image", tmp_path / "a-3.png", "-o", tmp_path / "again")
    assert Path(again.stdout.strip()).read_bytes() == (tmp_path / "a-3.png").read_bytes()
    with LDMTextToImagePipeline.from_pretrained(path) as pipe:
        assert pipe(**recipe.settings).num_steps_run == 4


def test_another_table_of_the_same_name_is_noticed(copied, tmp_path):
    """In recipes, and by a run that is resumed."""
    arguments = ("--solver", "fitted", "--num-inference-steps", 3, "--guidance-scale", 2)
    run("generate", copied, "a", *arguments, "--seed", 3, "-o", tmp_path)
    jobs, output = tmp_path / "jobs.jsonl", tmp_path / "out"
    jobs.write_text('{"id": "x", "prompt": "a"}\n{"id": "y", "prompt": "a", "seed": 3}\n')
    run("render", copied, jobs, *arguments, "-o", output)
    first = (output / "records.jsonl").read_bytes()
    run("render", copied, jobs, *arguments, "-o", output)
    assert (output / "records.jsonl").read_bytes() == first
    more = [*QUICK, "--images", 5]
    run("fit", copied, *more, "--guidance", 2)
    other = run("generate", copied, "--from-image", tmp_path / "a-3.png", "-o", tmp_path, code=2)
    assert "was rendered by the fitted solver" in other.stderr
    assert "not one that ldm-engine wrote" not in other.stderr
    run("render", copied, jobs, *arguments, "-o", output, code=1)
    failures = (output / "failures.jsonl").read_text()
    assert failures.count("another prompt, seed, picture or setting") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--steps", "x"], 2, "whole numbers from 2 to 200"),
        (["--steps", "1"], 2, "whole numbers from 2 to 200"),
        (["--steps", "3,201"], 2, "whole numbers from 2 to 200"),
        (["--steps", ""], 2, "whole numbers from 2 to 200"),
        (["--guidance", "nan"], 2, "numbers from -10000 to 10000"),
        (["--guidance", "6,1e9"], 2, "numbers from -10000 to 10000"),
        (["--floor", "nan"], 2, "a number of dB"),
        (["--images", "1"], 2, "--images"),
        (["--reference-steps", "501"], 2, "at most 500"),
        (["--prompts", "missing.txt"], 2, "cannot be read"),
        (["--precision", "fp64"], 2, "fp64"),
        (["--runtime", "paddle"], 1, "paddle"),
    ],
)
def test_bad_usage_is_one_clear_sentence(tiny_onnx_bundle, arguments, code, says):
    done = run("fit", tiny_onnx_bundle.path, *arguments, code=code)
    assert says in done.stderr


def test_a_bundle_without_prompts_wants_some(shapes_bundle, tmp_path):
    """As those that were exported before."""
    kept = Path(__file__).parents[2] / "data" / "bundle-v1"
    path = shutil.copytree(kept, tmp_path / "bundle")
    done = run("fit", path, code=2)
    assert "--prompts FILE" in done.stderr
    two = tmp_path / "two.txt"
    two.write_text("a\nb\n")
    assert "hold 2 different prompts" in run("fit", path, "--prompts", two, code=2).stderr


def test_what_is_below_the_floor_is_not_kept(copied):
    before = (copied / SOLVERS).read_bytes()
    done = run("fit", copied, *QUICK[:-2], "--floor", 1000, "--guidance", 2, code=1)
    told = " ".join(done.stderr.split())
    assert "Not kept: 3 steps at a guidance of 2" in told
    assert "Not kept: 4 steps at a guidance of 2" in told
    assert "the floor of 1000.0 dB" in told
    assert (copied / SOLVERS).read_bytes() == before
    assert list(cache_folder("fits").glob("*/*.npz"))  # for another floor
    run("fit", copied, *QUICK, "--guidance", 2)
    assert not list(cache_folder("fits").glob("*/*.npz"))


def test_damage_is_told_when_a_solver_is_asked_for_and_mended_by_a_fit(copied, tmp_path):
    text = (copied / SOLVERS).read_text()
    (copied / SOLVERS).write_text(text.replace("0.", "1.", 1))
    plain = ("generate", copied, "a", "--num-inference-steps", 1, "-o", tmp_path)
    run(*plain)
    asked = ("--solver", "fitted", "--guidance-scale", 2)
    assert "was altered after" in run(*plain, *asked, code=1).stderr
    assert "was altered after" in run("info", copied).stdout
    assert "was altered after" in run("verify", copied, code=1).stderr
    done = run("fit", copied, *QUICK, "--guidance", 2)
    assert "is replaced" in done.stderr
    run(*plain[:3], "--num-inference-steps", 3, *asked, "-o", tmp_path)


def test_tables_of_another_bundle_are_refused(fitted, shapes_bundle, tmp_path):
    path = shutil.copytree(shapes_bundle.path, tmp_path / "bundle")
    shutil.copy(fitted[0] / SOLVERS, path / SOLVERS)
    arguments = ("--solver", "fitted", "--num-inference-steps", 3, "--guidance-scale", 2)
    done = run("generate", path, "a", *arguments, "-o", tmp_path, code=1)
    assert "was fitted to the bundle" in done.stderr


def test_a_bundle_that_was_exchanged_meanwhile_keeps_its_own_solvers(copied, shapes_bundle):
    opened = open_to_run(copied)
    tables = opened.tables.tables
    shutil.copy(shapes_bundle.path / MANIFEST, copied / MANIFEST)
    before = (copied / SOLVERS).read_bytes()
    with pytest.raises(OutputError, match="was replaced by another bundle"):
        save(opened, tables)
    assert (copied / SOLVERS).read_bytes() == before


def test_a_fit_that_is_stopped_leaves_the_bundle_as_it_was_and_goes_on(copied):
    (copied / SOLVERS).unlink()
    shutil.rmtree(cache_folder("fits"), ignore_errors=True)
    before = {p.name: p.read_bytes() for p in copied.iterdir() if p.is_file()}
    words = ["fit", copied, "--steps", "5", "--images", "16", "--held-out-images", "16"]
    words += ["--reference-steps", "40", "--floor", "-1000", "--guidance", "2"]

    def kept():
        return len(list(cache_folder("fits").glob("*/*.npz")))

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(
            [COMMAND, *map(str, words)],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a parent may ignore
        )
        begun = kept()
        while kept() == begun and process.poll() is None:  # until it is at work
            time.sleep(0.05)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        assert process.returncode in (128 + number, -number), told
        assert "Traceback" not in told
        assert {p.name: p.read_bytes() for p in copied.iterdir() if p.is_file()} == before
    run(*words)
    assert kept() == 0
    resumed = (copied / SOLVERS).read_bytes()
    run(*words)
    assert (copied / SOLVERS).read_bytes() == resumed


def test_general_prompts_of_a_checkpoint_are_its_own(shapes_bundle):
    own = (SHAPES / "calibration_prompts.txt").read_text().split("\n")
    assert (shapes_bundle.path / PROMPTS).read_text().split("\n") == own
