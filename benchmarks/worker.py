"""One peer in a process of its own: prepares work, then does it and tells the time when asked."""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ldm_engine.benchmarking.serving import serve
from peers import Peer, Sources, open_peer, peer_files
from peers.contract import Array, Call
from workload import Task, latents, prompts

_CHUNK_BYTES = 16 << 20


class Server:
    """What one worker has at hand: its peer, the task in work, and the last result."""

    def __init__(self, name: str, sources: Sources, size: int, threads: int) -> None:
        self._name = name
        self._sources = sources
        self._size = size
        self._threads = threads
        self._peer: Peer | None = None
        self._call: Call | None = None
        self._result: Array | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Call the method that a request names."""
        act: Callable[..., dict[str, Any]] = getattr(self, request.pop("do"))
        return act(**request)

    def open(self) -> dict[str, Any]:
        """Load the peer's weights."""
        began = time.perf_counter()
        self._peer = open_peer(self._name, self._sources, self._threads)
        return {"seconds": time.perf_counter() - began}

    def read_files(self) -> dict[str, Any]:
        """Read every file of the peer once."""
        total = 0
        for path in peer_files(self._name, self._sources):
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    total += len(chunk)
        return {"bytes": total}

    def prepare(self, task: dict[str, Any], calls: int) -> dict[str, Any]:
        """Ready a task, and do it some times."""
        assert self._peer
        self._call = _call_of(self._peer, Task(**task), self._size)
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
    return peer.image(prompts(task.batch), start, task.steps)


def main() -> None:
    """Answer what the suite asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--conversions", type=Path, required=True)
    parser.add_argument("--size", type=int, required=True, help="latent height and width")
    parser.add_argument("--threads", type=int, required=True)
    a = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(a.threads)
    warnings.simplefilter("ignore")  # those of other projects to their users
    sources = Sources(a.bundle, a.checkpoint, a.conversions)
    serve(Server(a.peer, sources, a.size, a.threads).answer)


if __name__ == "__main__":
    main()
