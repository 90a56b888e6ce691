"""The engine on Windows and macOS, as far as a process shows that lacks what they lack."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT

SYSTEMS = ("windows", "macos")
COMMAND = """
import sys
from other_systems import become
become(sys.argv[1])
sys.argv = ["ldm-engine", *sys.argv[2:]]
from ldm_engine.commands.entry import main
main()
"""
IMPORT_ALL = """
import importlib, pkgutil, sys
from other_systems import become
become(sys.argv[1], *sys.argv[3:])
package = importlib.import_module(sys.argv[2])
for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    importlib.import_module(module.name)
"""
PICTURE = ("a red circle", "--num-inference-steps", 2, "--guidance-scale", 2, "--seed", 3)


PLACES = os.pathsep.join(str(ROOT / name) for name in ("tests", "engine", "export"))


def python(code, *words, **environment):
    """Run `code` with nothing of this project imported."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env={**os.environ, "PYTHONPATH": PLACES, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def run(system, *words, code=0):
    done = python(COMMAND, system, *words)
    assert done.returncode == code, done.stderr[-3000:]
    return done


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_module_of_the_engine_is_imported(system):
    done = python(IMPORT_ALL, system, "ldm_engine")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_module_of_the_export_is_imported(system):
    done = python(IMPORT_ALL, system, "ldm_export", "paddle", "onnx")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def expected(tiny_onnx_bundle, tmp_path_factory):
    """What is drawn here."""
    folder = tmp_path_factory.mktemp("here")
    command = "import sys; from ldm_engine.commands.entry import main; main()"
    for runtime in ("onnxruntime", "openvino"):
        words = ("generate", tiny_onnx_bundle.path, *PICTURE, "--runtime", runtime)
        done = python(command, *words, "--output", folder / runtime)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_pictures_are_the_same(tiny_onnx_bundle, expected, tmp_path, system, runtime):
    words = ("generate", tiny_onnx_bundle.path, *PICTURE, "--runtime", runtime)
    run(system, *words, "--output", tmp_path)
    (drawn,), (there,) = tmp_path.glob("*.png"), (expected / runtime).glob("*.png")
    assert drawn.name == there.name
    np.testing.assert_array_equal(np.asarray(Image.open(drawn)), np.asarray(Image.open(there)))


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_bundle_is_shown_and_verified(tiny_onnx_bundle, system):
    assert "openvino" in run(system, "info", tiny_onnx_bundle.path).stdout
    run(system, "verify", tiny_onnx_bundle.path, "--precision", "fp32")


@pytest.mark.parametrize("system", SYSTEMS)
def test_jobs_are_rendered_and_gone_on_with(tiny_onnx_bundle, tmp_path, system):
    jobs, output = tmp_path / "jobs.txt", tmp_path / "out"
    words = ("render", tiny_onnx_bundle.path, jobs, "-o", output, "--num-inference-steps", 1)
    jobs.write_text("a\nb\n")
    run(system, *words)
    jobs.write_text("a\nb\nc\n")
    assert "1 of them by this run" in run(system, *words).stdout
    assert len(list(output.glob("images/*/*.png"))) == 3
    refused = run(
        system, *words, "--force", "--memory-limit", "9GiB", "--guidance-scale", 3, code=2
    )
    assert "does not report what a process takes" in refused.stderr


HOLD = """
import sys
from pathlib import Path
from other_systems import become
become("windows")
from ldm_engine.machine.files import held
from ldm_engine.machine.lock import locked
from ldm_engine.rendering.places import open_storage
with locked(open_storage(sys.argv[1], "run"), "run"), held(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""
WAIT = """
import sys, threading
from pathlib import Path
from other_systems import become
become("windows")
from ldm_engine.machine.files import held
def hold():
    with held(Path(sys.argv[1])):
        pass
waiting = threading.Thread(target=hold, daemon=True)
waiting.start()
waiting.join(1)
print(waiting.is_alive())
"""


def test_on_windows_a_place_has_one_writer(tiny_onnx_bundle, tmp_path):
    jobs, file = tmp_path / "jobs.txt", tmp_path / "file"
    jobs.write_text("a\n")
    file.touch()
    words = ("render", tiny_onnx_bundle.path, jobs, "-o", tmp_path / "out")
    words = (*words, "--num-inference-steps", 1)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "out", file],
        env={**os.environ, "PYTHONPATH": PLACES},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdout.readline() == b"held\n"
        assert f"process {holder.pid} on" in run("windows", *words, code=1).stderr
        assert python(WAIT, file).stdout == "True\n"
        holder.kill()
        holder.wait()
        assert python(WAIT, file).stdout == "False\n"
        run("windows", *words)


def test_at_a_url_on_windows_no_process_is_asked_whether_it_lives(tmp_path):
    """Its number may be that of another one, which would get a Ctrl-C."""
    code = (
        "import os, socket, time; from other_systems import become; become('windows')\n"
        "from ldm_engine.machine.lock import _is_gone\n"
        "holder = {'host': socket.gethostname(), 'pid': os.getpid(), 'seen': time.time()}\n"
        "print(_is_gone(holder), _is_gone({**holder, 'seen': time.time() - 100}))"
    )
    assert python(code).stdout == "False True\n"


def test_what_windows_cannot_do_is_refused_by_name(tiny_onnx_bundle, tmp_path):
    (tmp_path / "jobs.txt").write_text("a\n")
    words = ("render", tiny_onnx_bundle.path, tmp_path / "jobs.txt", "-o", tmp_path / "out")
    refused = run("windows", *words, "--workers", 2, code=2).stderr
    assert "`workers` is 2; on Windows" in refused
    assert "`shard` 1/n" in refused
    assert (
        "This is Windows; Linux and macOS"
        in run("windows", "bench", tiny_onnx_bundle.path, code=1).stderr
    )


def test_a_decimal_comma_is_refused_on_windows(decimal_comma):
    code = (
        "import locale; from other_systems import become; become('windows')\n"
        "from ldm_engine.machine.locales import decimal_points\n"
        "locale.setlocale(locale.LC_ALL, '')\n"
        "with decimal_points(): pass"
    )
    assert "a decimal point is accepted" in python(code, **decimal_comma).stderr


def test_what_the_output_has_no_letters_for_is_printed_all_the_same(tiny_onnx_bundle, tmp_path):
    """As in a file or pipe on Windows."""
    words = ("generate", tiny_onnx_bundle.path, *PICTURE, "--output", tmp_path / "狐")
    done = python(COMMAND, "windows", *words, PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(f"{tmp_path}/\\u72d0/a-red-circle-3.png")


def test_machine_facts_are_there(tmp_path):
    code = (
        "import json, sys; from other_systems import become; become(sys.argv[1])\n"
        "from ldm_engine.machine import cpu, environment, memory\n"
        "print(json.dumps([environment.machine_facts(), environment.load_average(),\n"
        "    memory.free_memory_bytes(), cpu.processor(), cpu.supports_bf16()]))"
    )
    for system in SYSTEMS:
        facts, load, *unknown = json.loads(python(code, system).stdout)
        assert facts["threads"] == os.cpu_count()
        assert unknown == [None, "", False]
        assert (facts["memory_bytes"] > 0) == (system == "macos")
        assert (system == "macos") or load == 0
