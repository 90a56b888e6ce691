"""What this machine offers: cores, instructions, free memory."""

from __future__ import annotations

import functools
import os
from pathlib import Path

_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def available_threads() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def supports_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 numbers by itself, rather than by detour over fp32."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return not _BF16_FLAGS.isdisjoint(flags.split())


def free_memory_bytes() -> int | None:
    """What this process may still take without swapping, or None where that cannot be told.

    The machine's or, inside a container, its control group's (version 2), whichever is less.
    """
    free = [n for n in (_machine_free(), _cgroup_free()) if n is not None]
    return min(free, default=None)


def _machine_free() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    available = values.get("MemAvailable", "").split()
    return int(available[0]) * 1024 if available else None


def _cgroup_free() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((folder / "memory.current").read_text())
        cache = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(cache.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None
