"""What the processor offers: cores and instructions."""

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
    """Whether the CPU has instructions for bfloat16."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return not _BF16_FLAGS.isdisjoint(flags.split())
