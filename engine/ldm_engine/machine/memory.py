"""Memory of a process as Linux counts it, sampled from outside of the process."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

PERIOD_S = 0.02


@dataclass(frozen=True)
class Memory:
    """What a process holds, in bytes."""

    resident: int  #: all of its pages in memory, mapped files among them
    anonymous: int  #: what it wrote itself; mapped weights can be dropped by the system, this not


def read_memory(pid: int) -> Memory | None:
    """The memory of process `pid` now, or None if it has ended or the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    if "RssAnon" not in fields:  # it is ending
        return None
    resident, anonymous = (int(fields[n].split()[0]) * 1024 for n in ("VmRSS", "RssAnon"))
    return Memory(resident, anonymous)


class PeakMemory:
    """Watches a process for as long as the ``with`` block lasts.

    Peaks shorter than the period of 20 ms may be missed.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = Memory(0, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def peak(self) -> Memory:
        """The largest of both figures seen so far; zero where the system does not tell."""
        return self._peak

    def _watch(self) -> None:
        while not self._ended.is_set():
            now = read_memory(self._pid)
            if now is not None:
                self._peak = Memory(
                    max(self._peak.resident, now.resident),
                    max(self._peak.anonymous, now.anonymous),
                )
            self._ended.wait(PERIOD_S)
