"""What a run depends on: machine, versions, model, plan, and the code on the measured path."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ldm_engine
import ldm_export
from ldm_engine.machine.device import Device
from ldm_engine.machine.environment import machine_facts, versions
from ldm_engine.machine.gpu import find_gpu
from ldm_engine.sampling.opening import Opened
from ldm_engine.sampling.solvers import FITTED
from peer_process import PAUSE_S
from peers.contract import GUIDANCE_SCALE
from peers.environments import PPDIFFUSERS
from workload import WARM_UP, Plan

BENCHMARKS = Path(__file__).parent
VERSIONED = (
    *("ldm-engine", "numpy", "openvino", "onnxruntime", "paddlepaddle"),
    *("onnxruntime-gpu", "paddlepaddle-gpu", "tensorrt"),
    *("torch", "diffusers", "transformers"),
)
#: What runs while a peer is timed, and what it is given: other files change no measurement.
MEASURED_PATH = {
    Path(str(ldm_engine.__file__)).parent: ("bundle/*.py", "runtimes/**/*.py", "sampling/*.py"),
    Path(str(ldm_export.__file__)).parent: ("models/*.py",),  # which Paddle's dygraph peer runs
    BENCHMARKS: ("peers/*.py", "worker.py", "workload.py"),
}


def describe(opened: Opened, plan: Plan, threads: int) -> dict[str, Any]:
    """The facts; a run is resumed only where all of them are the same.

    Raises:
        InvalidArgumentError: if the bundle lacks a fitted solver that the plan needs.
    """
    fitted = {task.steps for task in plan.tasks if task.solver == FITTED}
    tables = [opened.tables.find(GUIDANCE_SCALE, steps).digest for steps in sorted(fitted)]
    return {
        "machine": {**machine_facts(), **_gpu_facts(plan.device)},
        "versions": {**versions(VERSIONED), **PPDIFFUSERS.versions(["ppdiffusers"])},
        "code": code_hash(),
        "bundle": opened.bundle.digest,
        **({"solver_tables": tables} if tables else {}),
        "plan": asdict(plan),
        "pause_s": PAUSE_S,
        "warm_up_calls": WARM_UP,
        "threads": threads,
    }


def code_hash() -> str:
    """A hash over the sources on the measured path, by name and content."""
    digest = hashlib.sha256()
    for folder, patterns in MEASURED_PATH.items():
        for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
            digest.update(f"{folder.name}/{path.relative_to(folder)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _gpu_facts(device: str) -> dict[str, str]:
    where = Device.parse(device)
    return {} if where.kind == "cpu" else {"gpu": find_gpu(where.index).name}


def commit() -> str | None:
    """The commit of the working tree, and whether it was changed since."""
    command = ["git", "-C", str(BENCHMARKS), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
