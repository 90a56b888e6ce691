"""Rendering in several processes here, each of which holds the bundle."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from ..errors import LDMEngineError
from .plan import Batch
from .renderer import Outcome, RendererSettings

#: Told of a batch's outcomes when its images are there; may be called in another thread.
Commit = Callable[[Sequence[Outcome]], None]
#: Batches a worker has at a time: one in the loop, one being finished.
_AT_A_TIME = 2
_END_S = 30.0


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    batches: int = 0  #: that it has


def render_in_workers(
    settings: RendererSettings,
    output: str,
    label: str,
    count: int,
    batches: Iterator[Batch],
    commit: Commit,
) -> Generator[Sequence[Outcome], None, None]:
    """Render in `count` processes, which write the images; outcomes come here to be committed.

    Raises:
        LDMEngineError: what a worker raised, or that one has died.
    """
    workers = [_start(settings, output, label) for _ in range(count)]
    try:
        while True:
            for worker in workers:
                while worker.batches < _AT_A_TIME and (batch := next(batches, None)):
                    with _told(worker):
                        worker.connection.send(batch)
                    worker.batches += 1
            busy = {w.connection: w for w in workers if w.batches}
            if not busy:
                return
            for ready in wait(list(busy)):
                worker = busy[ready]  # type: ignore[index]
                with _told(worker):
                    outcomes = worker.connection.recv()
                if isinstance(outcomes, Exception):
                    raise outcomes
                worker.batches -= 1
                commit(outcomes)
                yield outcomes
    finally:
        _stop(workers)


def _start(settings: RendererSettings, output: str, label: str) -> _Worker:
    ours, theirs = Pipe()
    command = [sys.executable, "-c", "from ldm_engine.rendering.worker import main; main()"]
    process = subprocess.Popen(
        [*command, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
    )
    theirs.close()
    ours.send((settings, output, label))
    return _Worker(process, ours)


def _stop(workers: Sequence[_Worker]) -> None:
    """Let workers end that have nothing to do, and kill the others: files are always whole."""
    for worker in workers:
        if worker.batches:
            worker.process.kill()
        worker.connection.close()
    for worker in workers:
        try:
            worker.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


class _told:  # noqa: N801 - reads like a function where it is used
    """Says which worker died when its connection breaks."""

    def __init__(self, worker: _Worker) -> None:
        self._process = worker.process

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (EOFError, ConnectionError, pickle.UnpicklingError)):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            code = self._process.returncode
            how = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"code {code}"
            raise LDMEngineError(
                f"Worker process {self._process.pid} ended with {how}. What is finished is kept; "
                "if memory ran out (SIGKILL), start again with fewer --workers or a smaller "
                "--batch-size."
            ) from error
