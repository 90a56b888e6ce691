"""What a run depends on: machine, versions, model and the very code that measures."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ldm_engine import Bundle
from ldm_engine.machine.environment import machine_facts, versions
from peer_process import PAUSE_S
from workload import Plan

ROOT = Path(__file__).parent.parent
VERSIONED = (
    *("ldm-engine", "numpy", "openvino", "onnxruntime", "paddlepaddle"),
    *("torch", "diffusers", "transformers"),
)
#: The files whose change makes another measurement; how it is reported is none of it.
_MEASURING = (
    *("engine/**/*.py", "benchmarks/peers/*.py", "benchmarks/worker.py"),
    *("benchmarks/peer_process.py", "benchmarks/suite.py", "benchmarks/workload.py"),
)


def describe(bundle: Bundle, plan: Plan, threads: int) -> dict[str, Any]:
    """The facts; a run is resumed only where all of them are the same."""
    return {
        "machine": machine_facts(),
        "versions": versions(VERSIONED),
        "code": _code_hash(),
        "bundle": bundle.digest,
        "plan": asdict(plan),
        "pause_s": PAUSE_S,
        "threads": threads,
    }


def commit() -> str | None:
    """The commit of the working tree, and whether it was changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _code_hash() -> str:
    digest = hashlib.sha256()
    for pattern in _MEASURING:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
