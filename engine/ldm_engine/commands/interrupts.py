"""How Ctrl-C, a termination and other requests to stop end a command in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ..machine.signals import STOP_SIGNALS

_NOTICE = b"\nStopping after this stage or batch; "
_AT_ONCE: dict[int, bytes] = {signal.SIGINT: b"Ctrl-C again stops at once.\n"}
_AT_ONCE_OTHERWISE = b"SIGINT now stops at once.\n"


class Interrupts:
    """The signals received so far, and whether the next one may raise where it arrives.

    Paddle crashes now and then when an exception comes up while it traces a program. Inside
    ``deferred()`` a signal is therefore only noted, and ``check()`` raises for it.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._defers = False

    def install(self) -> None:
        """Handle the signals, except those that the parent process has set to be ignored."""
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    def exit_code(self) -> int:
        """128 and the first signal's number; from here on another one changes nothing."""
        for number in STOP_SIGNALS:
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_IGN)
        return 128 + (self.received[0] if self.received else signal.SIGINT)

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if a signal has come."""
        if self.received:
            raise KeyboardInterrupt

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block in which the first signal waits for ``check()``."""
        self._defers = True
        try:
            yield
        finally:
            self._defers = False

    def _receive(self, number: int, frame: object) -> None:
        self.received.append(number)
        # A second termination must not cut the cleaning up short; a second Ctrl-C may.
        if len(self.received) > 1:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
        elif self._defers:
            os.write(2, _NOTICE + _AT_ONCE.get(number, _AT_ONCE_OTHERWISE))
        else:
            raise KeyboardInterrupt


INTERRUPTS = Interrupts()  #: of this process
