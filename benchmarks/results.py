"""What the records of a run say, computed from their samples, for tables and plots alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ldm_engine.benchmarking.reading import read
from ldm_engine.benchmarking.statistics import Ratio, Summary, median_of_ratios, summarize
from ldm_engine.checks.tolerances import END_TO_END_TOLERANCES, PROGRAM_TOLERANCES
from ldm_engine.errors import ResultsError
from peers import PEERS
from records import Record, Records
from work import least_seconds
from workload import STAGES, Target, Task

#: Of fewer turns, the spread says nothing.
LEAST_TURNS = 5


@dataclass(frozen=True)
class Timed:
    """One peer at one task, in turn with its baseline."""

    peer: str
    baseline: str  #: the peer itself, where it was the baseline
    task: Task
    peer_s: list[list[float]]  #: turns of samples
    baseline_s: list[list[float]]
    peer_anonymous_bytes: int | None
    peer_error: Mapping[str, float] | None
    baseline_error: Mapping[str, float] | None = None
    baseline_task: Task | None = None  #: what the baseline did, where that is another task

    @cached_property
    def samples_s(self) -> list[float]:
        """Of all turns."""
        return [s for turn in self.peer_s for s in turn]

    @cached_property
    def summary(self) -> Summary:
        """Of all samples, in seconds."""
        return summarize(self.samples_s)

    @cached_property
    def ratio(self) -> Ratio | None:
        """How many times as long as the baseline: the median of the turns' ratios."""
        if self.peer == self.baseline and self.baseline_task is None:
            return None
        peer, baseline = (
            [float(np.median(turn)) for turn in turns] for turns in (self.peer_s, self.baseline_s)
        )
        return median_of_ratios(peer, baseline)

    def as_baseline(self) -> Timed:
        """What the baseline took for its task."""
        turns, task = self.baseline_s, self.baseline_task or self.task
        return Timed(self.baseline, self.baseline, task, turns, turns, None, self.baseline_error)

    @property
    def has_interval(self) -> bool:
        """Whether there are turns enough for one."""
        return len(self.peer_s) >= LEAST_TURNS

    @property
    def is_close(self) -> bool:
        """Whether the result is within what the engine tolerates of its own programs."""
        precision = precision_of(self.peer, self.task.name)
        whole = self.task.name == "image"
        tolerances = END_TO_END_TOLERANCES if whole else PROGRAM_TOLERANCES
        return self.peer_error is None or self.peer_error["relative_l2"] <= tolerances[precision]


@dataclass(frozen=True)
class Start:
    """One peer from the start of its process to its first image."""

    peer: str
    seconds: float
    load_s: float
    peak_anonymous_bytes: int
    peak_resident_bytes: int


class Results:
    """All that one run measured.

    Raises:
        ResultsError: if there is no run.
    """

    def __init__(self, records: Records) -> None:
        found = records.find("setup")
        if found is None or not isinstance(found.get("plan"), dict):
            raise ResultsError(f"{records.path} holds no run. Make one with suite.py.")
        self.setup: Record = found
        self.plan: dict[str, Any] = found["plan"]
        self.limits = _limits(records)
        work = records.find("work")
        self.work: dict[str, dict[str, float]] = work["stages"] if work else {}
        self.accounting = records.find("accounting")
        self.timed = records.read("timing", Timed)
        self.starts = _starts(records)
        self.ready = {r["peer"]: r for r in records.all("ready")}
        self.peers = [n for n in PEERS if n in self.starts or self._was_timed(n)]
        self.absent = {
            r["peer"]: r["reason"] for r in records.all("missing") if r["peer"] not in self.peers
        }
        self.failures = [(r["peer"], r["task"], r["reason"]) for r in records.all("failed")]

    def _was_timed(self, peer: str) -> bool:
        return any(peer in (timed.peer, timed.baseline) for timed in self.timed)

    def find(self, peer: str, task: Task) -> Timed | None:
        """What `peer` took for `task`; for a baseline, from its first pair."""
        for timed in self.same:
            if timed.peer == peer and timed.task == task:
                return timed
        for timed in self.same:
            if timed.baseline == peer and timed.task == task:
                turns = timed.baseline_s
                return Timed(peer, peer, task, turns, turns, None, None)
        return None

    @property
    def same(self) -> list[Timed]:
        """Where both did the same."""
        return [timed for timed in self.timed if timed.baseline_task is None]

    def fewest(self) -> list[Timed]:
        """Where each did it in its own number of steps; first what the baselines did, then they."""
        found = [timed for timed in self.timed if timed.baseline_task is not None]
        baselines: dict[str, Timed] = {}
        for timed in found:
            baselines.setdefault(timed.baseline, timed.as_baseline())
        order = list(PEERS)
        found.sort(key=lambda t: (order.index(t.peer), order.index(t.baseline)))
        return [*sorted(baselines.values(), key=lambda t: order.index(t.peer)), *found]

    def find_all(self, names: Sequence[str]) -> list[Timed]:
        """Every peer at the tasks called `names`, baselines included."""
        found = (self.find(peer, Task(name)) for peer in self.peers for name in names)
        return [timed for timed in found if timed]

    def is_faithful(self, peer: str) -> bool:
        """Whether everything that `peer` computed is close to the reference."""
        return all(timed.is_close for timed in self.timed if timed.peer == peer)

    def batches(self) -> list[Task]:
        """The image tasks of several batch sizes, all with the same steps."""
        images = {timed.task for timed in self.same if timed.task.name == "image"}
        steps = {task.steps for task in images if task.batch > 1}
        return sorted((t for t in images if t.steps in steps), key=lambda t: t.batch)

    def targets(self) -> list[tuple[Target, Timed]]:
        """What the project set out to reach, with what was measured."""
        wanted: list[Target] = read(list[Target], self.plan.get("targets", []), "targets")
        found = [(target, self._timed_for(target)) for target in wanted]
        return [(target, timed) for target, timed in found if timed]

    def _timed_for(self, target: Target) -> Timed | None:
        if target.baseline_task is None:
            return self.find(target.peer, target.task)
        wanted = (target.peer, target.task, target.baseline, target.baseline_task)
        for timed in self.timed:
            if (timed.peer, timed.task, timed.baseline, timed.baseline_task) == wanted:
                return timed
        return None

    def share_of_limit(self, timed: Timed) -> float | None:
        """The roofline's least time over the median; None where work or limits are unknown."""
        least = self.least_seconds(timed.peer, timed.task)
        return least / timed.summary.median if least else None

    def least_seconds(self, peer: str, task: Task) -> float | None:
        """What this machine needs at least for a task of the published model."""
        if not (self.work and self.limits):
            return None

        def least(stage: str, batch: int = 1) -> float:
            return least_seconds(self.work[stage], self.limits, precision_of(peer, stage), batch)

        if task.name in STAGES:
            return least(task.name)
        texts, images = task.batch + 1, task.batch
        return (
            texts * least("text_encoder")
            + task.steps * least("unet_step", images)
            + images * least("vae_decoder")
        )


def precision_of(peer: str, task: str) -> str:
    """What a peer computes a stage in: in int8 the UNet alone is quantized, the rest is bf16."""
    precision = PEERS[peer].precision
    return "bf16" if precision == "int8" and task in ("text_encoder", "vae_decoder") else precision


def _limits(records: Records) -> dict[str, float]:
    """The best of all that was measured: what was reached once can be reached."""
    best: dict[str, float] = {}
    for record in records.all("limits"):
        for name, value in record.items():
            if name != "kind":
                best[name] = max(best.get(name, 0.0), value)
    return best


def _starts(records: Records) -> dict[str, Start]:
    """Median times and largest peaks of all rounds."""
    rounds = records.read("start", Start)
    return {
        peer: Start(
            peer,
            float(np.median([r.seconds for r in rounds if r.peer == peer])),
            float(np.median([r.load_s for r in rounds if r.peer == peer])),
            max(r.peak_anonymous_bytes for r in rounds if r.peer == peer),
            max(r.peak_resident_bytes for r in rounds if r.peer == peer),
        )
        for peer in dict.fromkeys(r.peer for r in rounds)
    }
