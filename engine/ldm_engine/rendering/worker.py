"""One worker process: it asks for batches over a pipe, tells outcomes, and writes the images."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

from ..errors import LDMEngineError
from .places import open_storage
from .plan import Batch
from .renderer import Renderer


def main() -> None:
    """Serve the connection whose file descriptor is the argument, until it is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the run that started it decides
    os.environ.setdefault("GLOG_minloglevel", "2")
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    with suppress(EOFError, ConnectionError):
        _serve(connection)


def _serve(connection: Connection[Any, Any]) -> None:
    settings, output, label = connection.recv()
    lock = Lock()

    def send(message: object) -> None:
        with lock:  # outcomes are told in another thread than batches are asked for
            connection.send(message)

    try:
        renderer = Renderer(settings, open_storage(output, label))
        for _ in renderer.render(_received(connection, send), send):
            pass
    except LDMEngineError as error:
        send(error)
    except (EOFError, ConnectionError):
        raise
    except Exception as error:
        send(LDMEngineError(f"A worker failed: {type(error).__name__}: {error}."))


def _received(connection: Connection[Any, Any], send: Callable[[object], None]) -> Iterator[Batch]:
    """Ask for one batch after another, by sending None, until None says that there are no more."""
    with suppress(EOFError):
        while True:
            send(None)
            batch = connection.recv()
            if batch is None:
                return
            yield batch
