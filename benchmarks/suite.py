"""Measures this engine and its peers, in turn, and writes every sample as JSON lines.

Every peer is paired with one runtime of this project in the same precision: both have a process of
their own and take turns with each task (A B, B A, A B, ...), and their results are compared with
the reference's before their times are recorded. A run that was interrupted goes on where it
stopped. ``report.py`` makes tables and plots.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, replace
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import accounting
import limits
import report
import setting
from ldm_engine import LDMEngineError, open_bundle
from ldm_engine.checks.tolerances import relative_error
from ldm_engine.errors import ResultsError
from ldm_engine.machine.cpu import available_threads, supports_bf16
from ldm_engine.machine.device import Device
from ldm_engine.machine.memory import PeakMemory, read_memory
from ldm_engine.sampling.opening import Opened, choose_for
from peer_process import PeerError, PeerProcess
from peers import PEERS, Setup, Sources, missing
from records import Records, locked
from work import count_work
from workload import PLANS, STAGES, WARM_UP, Plan, Task, Timing


class Suite:
    """One run over one model: what it needs to know, and where its results go."""

    def __init__(self, sources: Sources, plan: Plan, out: Path, threads: int) -> None:
        self.sources = sources
        self.plan = plan
        self.threads = threads
        self.records = Records(out / "samples.jsonl")
        self._bundle = open_bundle(sources.bundle)
        self._failed: set[str] = set()  # in this run; the next one retries them

    def run(self, names: list[str]) -> None:
        """Measure all that is not there yet; the references take part in every run.

        Raises:
            ResultsError: if the records are those of another run.
            LDMEngineError: if the reference, with whom all are compared, cannot run here.
            PeerError: if the reference itself fails.
        """
        plan = self.plan
        names = list(dict.fromkeys([plan.reference, plan.reduced_reference, *names]))
        self._state_setup(self._choose(plan.reference))
        present = [name for name in names if self._is_present(name)]
        for name in present:
            self._make_ready(name)
        self._make_references()
        for group in plan.groups:
            for name in present:
                for baseline, timings in self._pairs(name, group, present).items():
                    self._measure_pair(baseline, name, timings)
            self._measure_limits()
        for round_number in range(plan.start_rounds):
            for name in present:
                self._measure_start(name, round_number)
        if not self.records.all("accounting"):
            account = accounting.measure(
                self.sources.bundle, self._setup(plan.reference), plan.loop_solver
            )
            self.records.add("accounting", **account)

    def _state_setup(self, opened: Opened) -> None:
        """Say what is measured where; a run goes on only where that is the same."""
        bundle = self._bundle
        if bundle.model.default_size != self.plan.image_size:
            raise ResultsError(
                f"The plan {self.plan.model} is for images of {self.plan.image_size} pixels, and "
                f"{self.sources.bundle} draws {bundle.model.default_size}. Give its own bundle."
            )
        setup = json.loads(json.dumps(setting.describe(opened, self.plan, self.threads)))
        before = self.records.find("setup")
        if before is None:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            self.records.add("setup", **setup, commit=setting.commit(), began=now)
        else:
            changed = [name for name, value in setup.items() if before.get(name) != value]
            if changed:
                raise ResultsError(
                    f"{self.records.path} was begun with another {', '.join(changed)}. Give "
                    "another --output, or remove it to begin anew."
                )
        key = sha256(json.dumps(self.records.find("setup")).encode()).hexdigest()[:12]
        self._references = self.sources.conversions / f"references-{key}"
        self._references.mkdir(parents=True, exist_ok=True)
        if not self.records.all("limits"):
            self._measure_limits()
        if self.records.find("work") is None and missing("diffusers-eager-fp32") is None:
            self.records.add("work", stages=count_work(self.sources.checkpoint))

    def _measure_limits(self) -> None:
        """Before all, and after each group: the machine is not the same all the time."""
        is_on_cpu = self.plan.device == "cpu"  # those of GPUs are not measured
        if is_on_cpu and len(self.records.all("limits")) <= len(self.plan.groups):
            _log("the machine's limits")
            self.records.add("limits", **limits.measure(self.threads))

    def _is_present(self, name: str) -> bool:
        """Whether a peer can run here; if not, the reason goes into the records."""
        reason = self._obstacle(name)
        if reason and self.records.find("missing", peer=name, reason=reason) is None:
            _log(f"{name} is missing: {reason}")
            self.records.add("missing", peer=name, reason=reason)
        return reason is None

    def _obstacle(self, name: str) -> str | None:
        """Why a peer cannot run here, or None."""
        entry = PEERS[name]
        if not entry.is_ours:
            slow = entry.precision == "bf16" and self.plan.device == "cpu" and not supports_bf16()
            return missing(name) or ("this CPU has no bf16 instructions" if slow else None)
        try:
            self._choose(name)
        except LDMEngineError as error:
            return str(error)
        return None

    def _choose(self, name: str) -> Opened:
        """How one of ours runs here; raises where it cannot."""
        setup = self._setup(name)
        runtime, precision = setup.variant, setup.precision
        return choose_for(self._bundle, runtime, precision, setup.device, setup.threads)

    def _make_ready(self, name: str) -> None:
        """Let a peer convert, compile and cache what it keeps, so that no timing contains it."""
        marker = self._references / f"{name}.ready"
        if marker.is_file():
            return
        _log(f"{name}: getting ready")
        try:
            with self._process(name) as process:
                began = time.perf_counter()
                process.open()
                for stage in (*STAGES, "image"):
                    process.prepare(Task(stage), calls=1)
                seconds = time.perf_counter() - began
                on_disk = process.read_files()
        except PeerError as error:
            self._record_failure(error, "getting ready")
            return
        self.records.add("ready", peer=name, seconds=seconds, bytes_on_disk=on_disk)
        marker.touch()

    def _make_references(self) -> None:
        """What every task should give, from the reference, before anyone is timed."""
        tasks = [task for task in self.plan.tasks if not self._reference(task).is_file()]
        if not tasks:
            return
        _log(f"{self.plan.reference}: what all are compared with")
        with self._process(self.plan.reference) as process:
            process.open()
            for task in tasks:
                process.prepare(task, calls=1)
                np.save(self._reference(task), process.result(self._references))

    def _reference(self, task: Task) -> Path:
        return self._references / f"{task.name}-{task.batch}-{task.steps}-{task.solver}.npy"

    def _pairs(
        self, name: str, group: tuple[Timing, ...], present: list[str]
    ) -> dict[str, list[Timing]]:
        """What `name` has to do in turn with whom."""
        pairs: dict[str, list[Timing]] = {}
        for timing in group:
            baseline = timing.baseline or self._baseline(name, present)
            is_itself = baseline == name and timing.baseline_task in (None, timing.task)
            takes_part = timing.peers is None or name in timing.peers
            if baseline in present and takes_part and not is_itself:
                pairs.setdefault(baseline, []).append(timing)
        return pairs

    def _measure_pair(self, baseline: str, name: str, timings: list[Timing]) -> None:
        """Every task of `timings` that is still to do, in turn with the baseline."""
        timings = [t for t in timings if not self._is_done(t, baseline, name)]
        if not timings or {name, baseline} & self._failed:
            return
        doing = "loading"
        try:
            with self._process(baseline) as first, self._process(name) as second:
                for process in (first, second):
                    process.open()
                for timing in timings:
                    doing = str(timing.task)
                    self._measure_timing(timing, first, second)
        except PeerError as error:
            self._record_failure(error, doing)

    def _is_done(self, timing: Timing, baseline: str, name: str) -> bool:
        tasks = _described(timing)
        return self.records.find("timing", peer=name, baseline=baseline, **tasks) is not None

    def _measure_timing(self, timing: Timing, baseline: PeerProcess, peer: PeerProcess) -> None:
        task, pair = timing.task, (baseline, peer)
        tasks = (timing.baseline_task or task, task)
        for process, own in zip(pair, tasks, strict=True):
            # A short run warms up as well as a whole one.
            process.prepare(replace(own, steps=1, solver="ddim"), calls=WARM_UP)
            process.prepare(own, calls=0)
        turns: tuple[list[list[float]], list[list[float]]] = ([], [])
        for number in range(timing.rounds):
            _log(f"{peer.name}: {task}, round {number + 1} of {timing.rounds}")
            for i in (0, 1) if number % 2 == 0 else (1, 0):
                turns[i].append(pair[i].turn(timing.turn_s))
        memory = [read_memory(process.pid) for process in pair]
        errors = [self._error(process, own) for process, own in zip(pair, tasks, strict=True)]
        self.records.add(
            "timing",
            **_described(timing),
            baseline=baseline.name,
            peer=peer.name,
            baseline_s=turns[0],
            peer_s=turns[1],
            baseline_anonymous_bytes=memory[0].anonymous if memory[0] else None,
            peer_anonymous_bytes=memory[1].anonymous if memory[1] else None,
            baseline_error=errors[0],
            peer_error=errors[1],
            load_average=os.getloadavg()[0],
        )

    def _error(self, process: PeerProcess, task: Task) -> dict[str, float] | None:
        """How far the last timed call's result is from the reference."""
        if task.name == "text_encoder":  # results differ in kind; the UNet's step depends on them
            return None
        with tempfile.TemporaryDirectory() as scratch:
            result = process.result(Path(scratch))
        reference: NDArray[np.float32] = np.load(self._reference(task))
        if result.shape != reference.shape:
            raise PeerError(
                process.name,
                f"its result of {task} has shape {result.shape}, not {reference.shape}",
            )
        return compare(result, reference)

    def _measure_start(self, name: str, round_number: int) -> None:
        """Process start to first image, and memory, with the peer's files in the page cache."""
        task = Task("image", steps=self.plan.start_steps)
        if self.records.find("start", peer=name, round=round_number) or name in self._failed:
            return
        _log(f"{name}: start {round_number + 1} of {self.plan.start_rounds}")
        try:
            with self._process(name) as reader:
                reader.read_files()
            with self._process(name) as process, PeakMemory(process.pid) as memory:
                load_s = process.open()
                process.prepare(task, calls=1)
                seconds = process.age_s()
        except PeerError as error:
            self._record_failure(error, "starting")
            return
        self.records.add(
            "start",
            peer=name,
            round=round_number,
            seconds=seconds,
            load_s=load_s,
            peak_anonymous_bytes=memory.peak.anonymous,
            peak_resident_bytes=memory.peak.resident,
        )

    def _process(self, name: str) -> PeerProcess:
        size = self._bundle.model.sample_size
        return PeerProcess(name, self.sources, self._setup(name), size)

    def _setup(self, name: str) -> Setup:
        entry = PEERS[name]
        return Setup(entry.variant, entry.precision, self.plan.device, self.threads)

    def _baseline(self, name: str, present: list[str]) -> str:
        """Against whom `name` takes turns."""
        reduced = self.plan.reduced_reference
        is_reduced = PEERS[name].precision != "fp32" and name != reduced
        return reduced if is_reduced and reduced in present else self.plan.reference

    def _record_failure(self, error: PeerError, doing: str) -> None:
        if error.peer == self.plan.reference:
            raise error
        _log(f"{error.peer} failed at {doing}: {error}")
        self._failed.add(error.peer)
        self.records.add("failed", peer=error.peer, task=doing, reason=str(error))


def compare(result: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, float]:
    """Relative L2 error, and the largest difference."""
    largest = float(np.abs(result.astype(np.float64) - reference).max())
    return {"relative_l2": relative_error(result, reference), "largest": largest}


def _described(timing: Timing) -> dict[str, Any]:
    """Who does what, as records have it."""
    task = timing.baseline_task
    return {"task": asdict(timing.task), "baseline_task": asdict(task) if task else None}


def _log(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Parse the command line and run the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", choices=PLANS)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path, help="the same model in the diffusers layout")
    parser.add_argument("--output", type=Path, required=True, help="folder of samples.jsonl")
    parser.add_argument("--conversions", type=Path, required=True, help="what peers convert")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), help="default: all")
    parser.add_argument("--threads", type=int, default=available_threads())
    a = parser.parse_args()
    plan, sources = PLANS[a.plan], Sources(a.bundle, a.checkpoint, a.conversions)
    try:
        kind = Device.parse(plan.device).kind
        peers = a.peers or [name for name, entry in PEERS.items() if kind in entry.devices]
        suite = Suite(sources, plan, a.output, a.threads)
        with locked(a.output):
            suite.run(peers)
            print(report.write(a.output))
    except (LDMEngineError, OSError) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
