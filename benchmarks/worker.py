"""One peer in a process of its own: prepares work, then does it and reports how long it took."""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ldm_engine.benchmarking.serving import serve
from peers import Peer, Setup, Sources, kind_of
from peers.contract import Array, Call
from workload import Task, latents, prompts

_CHUNK_BYTES = 16 << 20


class Server:
    """What the suite calls: the peer of this process, the task in work, and the last result."""

    def __init__(self, name: str, sources: dict[str, str], setup: dict[str, Any]) -> None:
        """Load nothing yet."""
        self._name, self._setup = name, Setup(**setup)
        self._sources = Sources(**{role: Path(path) for role, path in sources.items()})
        self._peer: Peer | None = None
        self._call: Call | None = None
        self._result: Array | None = None

    def open(self) -> dict[str, Any]:
        """Load the peer's weights."""
        began = time.perf_counter()
        self._peer = kind_of(self._name)(self._sources, self._setup)
        return {"seconds": time.perf_counter() - began}

    def read_files(self) -> dict[str, Any]:
        """Read every file of the peer once."""
        total = 0
        for path in kind_of(self._name).files(self._sources, self._setup):
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    total += len(chunk)
        return {"bytes": total}

    def prepare(self, task: dict[str, Any], size: int, calls: int) -> dict[str, Any]:
        """Ready a task on latents of this height and width, and do it some times."""
        assert self._peer
        self._call = _call_of(self._peer, Task(**task), size)
        return {"samples_s": [self._timed() for _ in range(calls)]}

    def turn(self, seconds: float) -> dict[str, Any]:
        """Durations of calls, one after another, until `seconds` are over; at least one."""
        samples = [self._timed()]
        while sum(samples) < seconds:
            samples.append(self._timed())
        return {"samples_s": samples}

    def save_result(self, path: str) -> dict[str, Any]:
        """Write the last call's result."""
        assert self._result is not None
        np.save(path, self._result)
        return {}

    def _timed(self) -> float:
        assert self._call
        began = time.perf_counter()
        self._result = self._call()
        return time.perf_counter() - began


def _call_of(peer: Peer, task: Task, size: int) -> Call:
    """The call that `task` times."""
    start = latents(task.batch, size)
    if task.name == "text_encoder":
        return peer.text_encoder(prompts(1)[0])
    if task.name == "unet_step":
        return peer.unet_step(prompts(1)[0], start)
    if task.name == "vae_decoder":
        return peer.vae_decoder(start)
    return peer.image(prompts(task.batch), start, task.steps, task.solver)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # those of other projects to their users
    serve(Server(**json.loads(sys.argv[1])))
