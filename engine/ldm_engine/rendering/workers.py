"""Rendering in several processes here, each of which holds the bundle: both ends of the pipe."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from threading import Lock
from typing import Any

from ..errors import LDMEngineError
from ..machine.signals import blocked, ignore_stop_signals
from .places import open_storage
from .plan import Batch
from .records import Outcome
from .renderer import Commit, Renderer, RendererSettings

_END_S = 30.0
_STDERR = 2  # stdout may hold --json-progress


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    batches: int = 0  #: that it has: one in the loop, one being finished
    is_last: bool = False  #: whether it knows that it gets no more

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come from it."""
        return self.is_last and not self.batches

    def give(self, batch: Batch | None) -> None:
        """Send it a batch, or that there are no more."""
        with suppress(ConnectionError):  # what broke it is reported where its answer is read
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

    A worker requests each batch when its loop is free, so that none waits with it when the run is
    stopped.

    Raises:
        LDMEngineError: what a worker raised, or that one has died.
    """
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            workers.append(_start(settings, output, label))
        while busy := {w.connection: w for w in workers if not w.is_done}:
            for ready in wait(list(busy)):
                worker = busy[ready]  # type: ignore[index]
                with _reported(worker):
                    message = worker.connection.recv()
                if isinstance(message, Exception):
                    raise message
                if message is None:
                    worker.give(next(batches, None))
                    continue
                worker.batches -= 1
                commit(message)
                yield message
    finally:
        _stop(workers)


def _start(settings: RendererSettings, output: str, label: str) -> _Worker:
    ours, theirs = Pipe()
    # With `-c` alone, Python would look for modules in the current folder first.
    main = "from ldm_engine.rendering.workers import main; main()"
    code = f"import sys; sys.path[:] = {sys.path!r}; {main}"
    with blocked():  # while it imports, a signal would end it
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
        )
    theirs.close()
    ours.send((settings, output, label))
    # On Windows it has another type; there ``RunOptions`` accepts no workers.
    return _Worker(process, ours)  # type: ignore[arg-type,unused-ignore]


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
def _reported(worker: _Worker) -> Iterator[None]:
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


def main() -> None:
    """Serve, as a worker, the connection whose file descriptor is the argument, to its end."""
    ignore_stop_signals()  # the run that started it decides
    os.environ.setdefault("GLOG_minloglevel", "2")
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    with suppress(EOFError, ConnectionError):
        _serve(connection)


def _serve(connection: Connection[Any, Any]) -> None:
    settings, output, label = connection.recv()
    lock = Lock()

    def send(message: object) -> None:
        with lock:  # outcomes are sent in another thread than requests for batches
            connection.send(message)

    try:
        with closing(Renderer(settings, open_storage(output, label))) as renderer:
            for _ in renderer.render(_received(connection, send), send):
                pass
    except LDMEngineError as error:
        send(error)
    except (EOFError, ConnectionError):
        raise
    except Exception as error:
        send(LDMEngineError(f"A worker failed: {type(error).__name__}: {error}."))


def _received(connection: Connection[Any, Any], send: Callable[[object], None]) -> Iterator[Batch]:
    """Request one batch after another, by sending None, until None says that there are no more."""
    with suppress(EOFError):
        while True:
            send(None)
            batch = connection.recv()
            if batch is None:
                return
            yield batch
