"""The signals that ask a process to stop, and their handlers kept from libraries that take them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any

#: Ctrl-C, a termination, a hang-up, the warnings of batch systems before a time limit, and what
#: Windows sends for Ctrl-Break and for a console that is closed.
STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")
    if hasattr(signal, name)
)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """A block after which the application has its handlers for these signals again.

    Importing Paddle takes SIGTERM without Python's knowledge.
    """
    handlers = current_handlers()
    try:
        yield
    finally:
        install(handlers)


def current_handlers() -> dict[signal.Signals, Any]:
    """The handlers that Python knows; None stands for one that C code installed before it began."""
    return {number: signal.getsignal(number) for number in STOP_SIGNALS}


def install(handlers: dict[signal.Signals, Any]) -> None:
    """Install `handlers`, where this is the main thread."""
    if current_thread() is main_thread():
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)


@contextmanager
def blocked() -> Iterator[None]:
    """A block in which no such signal reaches this thread, nor the processes that it starts.

    On Windows, where none can be blocked, it does nothing.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals() -> None:
    """Leave it to the process that started this one, with signals blocked, when to stop."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
