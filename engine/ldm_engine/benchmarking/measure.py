"""Measures one case: what a process that finds no cache needs, then, in a fresh one, all else."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ..bundle.bundle import Bundle
from ..machine.cache import VARIABLE
from ..machine.memory import PeakMemory
from .process import WorkerProcess
from .results import END_TO_END, STAGES, Case, Measurement, Settings

PROMPT = "A painting of a squirrel eating a burger"


def start_worker(cache: Path, shows_log: bool = False) -> WorkerProcess:
    """A process of ``worker.py`` that keeps compiled models in `cache`."""
    environment = {"PYTHONSAFEPATH": "1"}  # the current folder is no code
    if os.environ.get(VARIABLE) != "off":
        environment[VARIABLE] = str(cache)
    command = [sys.executable, "-m", "ldm_engine.benchmarking.worker"]
    return WorkerProcess(command, environment, shows_log)


def prompts(count: int) -> list[str]:
    """Different texts, each of which has to be encoded, also where their ends are cut off."""
    return [f"{i} {PROMPT}" for i in range(count)]


def measure(
    bundle: Bundle,
    case: Case,
    settings: Settings,
    report: Callable[[str], None],
    shows_log: bool = False,
) -> Measurement:
    """Measure `case` in two processes that share a cache folder of their own.

    `report` is given what begins; nothing else runs in this process while the other renders, apart
    from the sampling of its memory.

    Raises:
        BenchmarkError: if the pipeline cannot be opened or run, or a process dies.
    """
    opening = {"prompts": prompts(case.batch_size), "call": settings.call}
    opening["pipeline"] = {
        "path": str(bundle.path.resolve()),
        "runtime": case.runtime,
        "precision": case.precision,
        "threads": settings.threads,
    }
    with tempfile.TemporaryDirectory(prefix="ldm-engine-bench-") as cache:
        report(f"{case}: first start")
        with start_worker(Path(cache), shows_log) as worker:
            first_load_s = worker.call("open", **opening)["load_s"]
            first_start_s = _start_to_first_step(worker, stops_after_step=True)[0]
        report(f"{case}: later start")
        with start_worker(Path(cache), shows_log) as worker, PeakMemory(worker.pid) as memory:
            load_s = worker.call("open", **opening)["load_s"]
            start_s, image_s, first_call_s = _start_to_first_step(worker, stops_after_step=False)
            samples = _sample(worker, settings, lambda what: report(f"{case}: {what}"))
            peak = memory.peak
    return Measurement(
        **asdict(case),
        first_load_s=first_load_s,
        first_start_to_first_step_s=first_start_s,
        load_s=load_s,
        start_to_first_step_s=start_s,
        start_to_first_image_s=image_s,
        first_call_s=first_call_s,
        peak_resident_bytes=peak.resident,
        peak_anonymous_bytes=peak.anonymous,
        samples_s={stage: tuple(s) for stage, s in samples.items()},
    )


def _start_to_first_step(
    worker: WorkerProcess, stops_after_step: bool
) -> tuple[float, float, float]:
    """Seconds from the process's start to its first step and to its first image; of the call."""
    answer = worker.call("first_call", stops_after_step=stops_after_step)
    image_s = time.perf_counter() - worker.started
    after_step_s = answer["first_call_s"] - answer["first_step_s"]
    return image_s - after_step_s, image_s, answer["first_call_s"]


def _sample(
    worker: WorkerProcess, settings: Settings, report: Callable[[str], None]
) -> dict[str, list[float]]:
    """The steady state's samples by stage, in seconds."""
    for index in range(settings.warm_up):
        report(f"warm-up {index + 1} of {settings.warm_up}")
        worker.call("call")
    samples: dict[str, list[float]] = {stage: [] for stage in STAGES}
    calls = samples[END_TO_END]
    while len(calls) < settings.min_samples or sum(calls) < settings.min_seconds:
        report(f"call {len(calls) + 1}")
        for stage, durations_s in worker.call("call").items():
            samples[stage] += durations_s
    worker.call("time_encoder", count=1)  # it rested meanwhile
    samples |= worker.call("time_encoder", count=len(calls))
    return samples
