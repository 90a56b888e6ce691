"""Forks and signals in a process of each runtime: no child hangs or dies, and no signal kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCENES = Path(__file__).with_name("scenes.py")
INERT = {
    "exit": "done",
    "drop": "done",
    "close": "done",
    "use": "ClosedError",
    "use sequential": "ClosedError",
    "clone": "ClosedError",
    "leave a block": "done",
    "in use": "ClosedError",
}
SIGNALS = ["SIGUSR1", "SIGALRM", "SIGTERM", "SIGHUP", "KeyboardInterrupt"]


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "paddle"])
def test_a_fork_and_a_signal_harm_nobody(tiny_bundle, tiny_onnx_bundle, runtime):
    bundle = tiny_bundle if runtime == "paddle" else tiny_onnx_bundle
    # ONNX Runtime is another one where CI is set: without its telemetry.
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY")}
    done = subprocess.run(
        [sys.executable, SCENES, bundle.path, runtime],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout.splitlines()[-1])
    assert ended.pop("signals") == SIGNALS
    # OpenVINO compiles with threads that it started before; the others start their own.
    opened = "RuntimeUnavailableError" if runtime == "openvino" else "done"
    assert ended == INERT | {"open": opened, "open after close": opened}
