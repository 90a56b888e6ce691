"""Memory as Linux counts it: what is free, and what a process uses, sampled from outside of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from . import cgroups

PERIOD_S = 0.02


def free_memory_bytes() -> int | None:
    """What this process may still take without swapping; None where it is not reported.

    The machine's, or what its control groups leave, whichever is less.
    """
    free = [n for n in (_machine_free(), cgroups.free_memory()) if n is not None]
    return min(free, default=None)


def _machine_free() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    available = values.get("MemAvailable", "").split()
    return int(available[0]) * 1024 if available else None


@dataclass(frozen=True)
class Memory:
    """The memory of a process, in bytes."""

    resident: int  #: all of its pages in memory, mapped files among them
    anonymous: int  #: its own, without mapped files, which the system can drop


def read_memory(pid: int) -> Memory | None:
    """The memory of process `pid` now, or None if it has ended or the system does not report it."""
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
        """The largest of both figures seen so far; zero where the system does not report them."""
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
