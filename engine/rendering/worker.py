"""One worker process: batches come in over a pipe, outcomes go back, images go to the output."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
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
    try:
        renderer = Renderer(settings, open_storage(output, label))
        for _ in renderer.render(_received(connection), connection.send):
            pass
    except LDMEngineError as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        raise
    except Exception as error:
        connection.send(LDMEngineError(f"A worker failed: {type(error).__name__}: {error}."))


def _received(connection: Connection[Any, Any]) -> Iterator[Batch]:
    """The batches that come in, until None says that there are no more."""
    with suppress(EOFError):
        while (batch := connection.recv()) is not None:
            yield batch
