"""A peer's process as the suite sees it: tasks, turns and results."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_engine.benchmarking.process import WorkerProcess
from ldm_engine.errors import BenchmarkError
from ldm_engine.machine.cache import VARIABLE
from peers import Sources
from workload import Task

PAUSE_S = 0.3  # idle OpenMP threads spin for 0.2 s before they sleep


class PeerError(BenchmarkError):
    """A peer failed at what it was asked for, or died of it."""

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(reason)
        self.peer = peer


class PeerProcess(WorkerProcess):
    """A process for one peer, which loads nothing before ``open``."""

    def __init__(self, name: str, sources: Sources, size: int, threads: int) -> None:
        self.name = name
        script = Path(__file__).with_name("worker.py")
        command = [sys.executable, script, name, "--size", size, "--threads", threads]
        command += ["--bundle", sources.bundle, "--checkpoint", sources.checkpoint]
        command += ["--conversions", sources.conversions]
        # What anyone compiles is kept with what the others convert.
        kept = {
            "TORCHINDUCTOR_CACHE_DIR": str(sources.conversions.resolve() / "inductor"),
            VARIABLE: str(sources.conversions.resolve() / "ldm-engine"),
        }
        super().__init__([str(word) for word in command], kept)

    def ask(self, **request: Any) -> dict[str, Any]:
        """As ``WorkerProcess.ask``, but a ``PeerError`` tells who failed."""
        try:
            return super().ask(**request)
        except BenchmarkError as error:
            raise PeerError(self.name, str(error)) from error

    def open(self) -> float:
        """Load the peer's weights; the seconds that it took."""
        return float(self.ask(do="open")["seconds"])

    def read_files(self) -> int:
        """Read all that the peer reads from disk, so that it is in memory; its bytes."""
        return int(self.ask(do="read_files")["bytes"])

    def prepare(self, task: Task, calls: int) -> None:
        """Ready a task, and do it `calls` times."""
        self.ask(do="prepare", task=task.as_json(), calls=calls)

    def turn(self, seconds: float) -> list[float]:
        """Durations of calls, when the other peer's threads have come to rest."""
        time.sleep(PAUSE_S)
        samples: list[float] = self.ask(do="turn", seconds=seconds)["samples_s"]
        return samples

    def result(self, scratch: Path) -> NDArray[np.float32]:
        """What the last call returned, by way of a file in `scratch`."""
        path = scratch / f"{self.name}.npy"
        self.ask(do="save_result", path=str(path))
        values: NDArray[np.float32] = np.load(path)
        if not np.isfinite(values).all():
            raise PeerError(self.name, "its result is not finite")
        return values

    def age_s(self) -> float:
        """Seconds since the process was started."""
        return time.perf_counter() - self.started
