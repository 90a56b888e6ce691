"""Rendering in several processes here, each of which holds the bundle."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
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
_STDERR = 2  # stdout may hold --json-progress


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    batches: int = 0  #: that it has
    is_last: bool = False  #: whether it knows that it gets no more

    def give(self, batch: Batch | None) -> None:
        """Send it a batch, or that there are no more."""
        with suppress(ConnectionError):  # what broke it is told where its answer is read
            self.connection.send(batch)
        self.batches += batch is not None
        self.is_last = batch is None


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
    workers: list[_Worker] = []
    try:
        while len(workers) < count and (batch := next(batches, None)):
            workers.append(_start(settings, output, label))
            workers[-1].give(batch)
        while True:
            _hand_out(workers, batches)
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


def _hand_out(workers: Sequence[_Worker], batches: Iterator[Batch]) -> None:
    """Give each worker what it can hold, or tell it to finish what it has."""
    for worker in workers:
        while worker.batches < _AT_A_TIME and not worker.is_last:
            worker.give(next(batches, None))


def _start(settings: RendererSettings, output: str, label: str) -> _Worker:
    ours, theirs = Pipe()
    # With `-c` alone, Python would look for modules in the current folder first.
    main = "from ldm_engine.rendering.worker import main; main()"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path[:] = {sys.path!r}; {main}",
            str(theirs.fileno()),
        ],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=_STDERR,
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


@contextmanager
def _told(worker: _Worker) -> Iterator[None]:
    """Say which worker died when its connection breaks."""
    try:
        yield
    except (EOFError, ConnectionError, pickle.UnpicklingError) as error:
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(5)
        code = worker.process.returncode
        how = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"code {code}"
        raise LDMEngineError(
            f"Worker process {worker.process.pid} ended with {how}. What is finished is kept; "
            "if memory ran out (SIGKILL), start again with fewer --workers or a smaller "
            "--batch-size."
        ) from error
