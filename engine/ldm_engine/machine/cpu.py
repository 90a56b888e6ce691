"""What the processor offers: cores and instructions."""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path

from . import cgroups

_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def available_threads() -> int:
    """Cores that this process may use: those it may run on, or fewer where a quota is less.

    A quota of a fraction of a core counts as a whole one.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cgroups.cpu_limit()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


@functools.cache
def supports_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return not _BF16_FLAGS.isdisjoint(flags.split())
