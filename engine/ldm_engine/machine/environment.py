"""The machine and the versions of software that samples were taken with."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from .cpu import available_threads


def machine_facts() -> dict[str, Any]:
    """The processor, its cores as this process may use them, memory and system."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "threads": available_threads(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def load_average() -> float:
    """Processes that ran or waited for a core in the last minute; 0 where it is not reported."""
    if sys.platform == "win32":
        return 0.0
    return os.getloadavg()[0]


def versions(distributions: Iterable[str]) -> dict[str, str | None]:
    """The installed version of each of `distributions`, None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _memory_bytes() -> int:
    """All of the machine's memory; 0 where the system does not report it."""
    if sys.platform == "win32":
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
