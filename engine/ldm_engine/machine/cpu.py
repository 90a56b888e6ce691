"""What the processor offers: cores and instructions."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from pathlib import Path

from . import cgroups

_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
#: What the lines are called that tell kinds apart, of x86 and of ARM.
_KIND = ("model name", "flags", "CPU implementer", "CPU part", "Features")


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
    return not _BF16_FLAGS.isdisjoint(_fact("flags").split())


@functools.cache
def processor() -> str:
    """Eight hex digits that tell kinds of processors apart, whose results may differ, or nothing.

    Nothing if the system does not tell.
    """
    facts = "".join(map(_fact, _KIND))
    return hashlib.sha256(facts.encode()).hexdigest()[:8] if facts else ""


def _fact(name: str) -> str:
    """The line of /proc/cpuinfo with this name, or nothing; all cores are listed alike."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    return next((line for line in text.splitlines() if line.startswith(name)), "")
