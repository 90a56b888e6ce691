"""A worker answers, or it is told how it failed; it never outlives who started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest

from ldm_engine.benchmarking.measure import Worker
from ldm_engine.errors import BenchmarkError
from made_results import SETTINGS
from processes import ends, is_running


@pytest.fixture
def setup(tiny_onnx_bundle):
    return {
        "bundle": str(tiny_onnx_bundle.path),
        "runtime": "onnxruntime",
        "precision": "fp32",
        "prompts": ["a", "b"],
        "settings": asdict(SETTINGS),
    }


def test_a_worker_tells_seconds_by_stage(setup, tmp_path):
    with Worker(setup, tmp_path) as worker:
        assert worker.load() > 0
        first = worker.ask(do="first_call", stops_after_step=False)
        assert 0 < first["first_step_s"] < first["first_call_s"]
        call = worker.ask(do="call")
        assert {name: len(s) for name, s in call.items()} == {
            "text_encoder": 2, "time_encoder": 0, "unet": 2, "vae_decoder": 2,
            "end_to_end": 1, "host": 1,
        }  # fmt: skip
        assert sum(map(sum, call.values())) == pytest.approx(2 * call["end_to_end"][0])
        assert len(worker.ask(do="time_encoder", count=3)["time_encoder"]) == 3
    assert not is_running(worker.pid)


def test_an_error_is_the_workers_own_text(setup, tmp_path):
    with (
        Worker({**setup, "bundle": str(tmp_path)}, tmp_path) as worker,
        pytest.raises(BenchmarkError, match="no bundle"),
    ):
        worker.load()


def test_a_killed_worker_is_told(setup, tmp_path):
    with Worker(setup, tmp_path) as worker:
        worker.load()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(BenchmarkError, match="killed by SIGKILL, as the system does"):
            worker.ask(do="call")


def test_a_worker_that_ends_leaves_its_last_words(setup, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('this is no numpy')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with Worker(setup, tmp_path) as worker, pytest.raises(BenchmarkError) as caught:
        worker.load()
    assert "exit code 1" in str(caught.value)
    assert "this is no numpy" in str(caught.value)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always looks there")
def test_the_folder_one_is_in_is_no_code(setup, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('this is no numpy')")
    monkeypatch.chdir(tmp_path)
    with Worker(setup, tmp_path) as worker:
        assert worker.load() > 0


def test_a_worker_ends_with_its_parent(setup, tmp_path):
    code = (
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from ldm_engine.benchmarking.measure import Worker\n"
        "worker = Worker(json.loads(sys.argv[1]), Path(sys.argv[2]))\n"
        "worker.load()\n"
        "print(worker.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(setup), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ends(int(done.stdout))
