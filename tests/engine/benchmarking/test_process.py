"""A worker answers, or the error says how it failed; it never outlives who started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from ldm_engine.benchmarking.measure import start_worker
from ldm_engine.errors import BenchmarkError
from made_results import SETTINGS
from processes import ends, is_running


@pytest.fixture
def opening(tiny_onnx_bundle):
    """The arguments that open a pipeline."""
    pipeline = {"path": str(tiny_onnx_bundle.path), "runtime": "onnxruntime", "threads": 2}
    return {"pipeline": pipeline, "prompts": ["a", "b"], "call": SETTINGS.call}


def test_a_worker_reports_seconds_by_stage(opening, tmp_path):
    with start_worker(tmp_path) as worker:
        assert worker.call("open", **opening)["load_s"] > 0
        first = worker.call("first_call", stops_after_step=False)
        assert 0 < first["first_step_s"] < first["first_call_s"]
        call = worker.call("call")
        assert {name: len(s) for name, s in call.items()} == {
            "text_encoder": 2, "time_encoder": 0, "unet": 2, "vae_decoder": 2,
            "end_to_end": 1, "host": 1,
        }  # fmt: skip
        assert sum(map(sum, call.values())) == pytest.approx(2 * call["end_to_end"][0])
        assert len(worker.call("time_encoder", count=3)["time_encoder"]) == 3
    assert not is_running(worker.pid)


def test_an_error_is_the_workers_own_text(opening, tmp_path):
    opening["pipeline"]["path"] = str(tmp_path)
    with start_worker(tmp_path) as worker, pytest.raises(BenchmarkError, match="no bundle"):
        worker.call("open", **opening)


def test_a_killed_worker_is_reported(opening, tmp_path):
    with start_worker(tmp_path) as worker:
        worker.call("open", **opening)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(BenchmarkError, match="killed by SIGKILL, as the system does"):
            worker.call("call")


def test_a_worker_that_ends_leaves_its_last_words(opening, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('this is no numpy')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with start_worker(tmp_path) as worker, pytest.raises(BenchmarkError) as caught:
        worker.call("open", **opening)
    assert "exit code 1" in str(caught.value)
    assert "this is no numpy" in str(caught.value)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always looks there")
def test_the_current_folder_is_no_code(opening, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('this is no numpy')")
    monkeypatch.chdir(tmp_path)
    with start_worker(tmp_path) as worker:
        assert worker.call("open", **opening)["load_s"] > 0


def test_a_worker_ends_with_its_parent(opening, tmp_path):
    code = (
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from ldm_engine.benchmarking.measure import start_worker\n"
        "worker = start_worker(Path(sys.argv[2]))\n"
        "worker.call('open', **json.loads(sys.argv[1]))\n"
        "print(worker.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(opening), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ends(int(done.stdout))
