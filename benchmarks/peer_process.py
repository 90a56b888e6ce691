"""A peer's process as the suite sees it: tasks, turns and results."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_engine.benchmarking.process import WorkerProcess
from ldm_engine.errors import BenchmarkError
from ldm_engine.machine.cache import VARIABLE
from peers import PEERS, Setup, Sources
from peers.environments import python_of, variables_of
from workload import Task

PAUSE_S = 0.3  # idle OpenMP threads spin for 0.2 s before they sleep


class PeerError(BenchmarkError):
    """A peer failed at a request, or died of it."""

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(reason)
        self.peer = peer


class PeerProcess(WorkerProcess):
    """A process for one peer, which loads nothing before ``open``."""

    def __init__(self, name: str, sources: Sources, setup: Setup, size: int) -> None:
        """`size` is the height and width of the latents."""
        self.name, self._size = name, size
        given = {"name": name, "sources": asdict(sources), "setup": asdict(setup)}
        # What anyone compiles is kept with what the others convert.
        environment = {
            "OMP_NUM_THREADS": str(setup.threads),
            "TORCHINDUCTOR_CACHE_DIR": str(sources.conversions.resolve() / "inductor"),
            VARIABLE: str(sources.conversions.resolve() / "ldm-engine"),
        }
        script = str(Path(__file__).with_name("worker.py"))
        python, more = python_of(PEERS[name].environment), variables_of(PEERS[name].environment)
        command = [python, script, json.dumps(given, default=str)]
        super().__init__(command, {**environment, **more})

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """As ``WorkerProcess.call``, but a ``PeerError`` names who failed."""
        try:
            return super().call(method, **arguments)
        except BenchmarkError as error:
            raise PeerError(self.name, str(error)) from error

    def open(self) -> float:
        """Load the peer's weights; the seconds that it took."""
        return float(self.call("open")["seconds"])

    def read_files(self) -> int:
        """Read all that the peer reads from disk, so that it is in memory; its bytes."""
        return int(self.call("read_files")["bytes"])

    def prepare(self, task: Task, calls: int) -> None:
        """Ready a task, and do it `calls` times."""
        self.call("prepare", task=asdict(task), size=self._size, calls=calls)

    def turn(self, seconds: float) -> list[float]:
        """Durations of calls, when the other peer's threads have come to rest."""
        time.sleep(PAUSE_S)
        samples: list[float] = self.call("turn", seconds=seconds)["samples_s"]
        return samples

    def result(self, scratch: Path) -> NDArray[np.float32]:
        """What the last call returned, by way of a file in `scratch`."""
        path = scratch / f"{self.name}.npy"
        self.call("save_result", path=str(path))
        values: NDArray[np.float32] = np.load(path)
        if not np.isfinite(values).all():
            raise PeerError(self.name, "its result is not finite")
        return values

    def age_s(self) -> float:
        """Seconds since the process was started."""
        return time.perf_counter() - self.started
