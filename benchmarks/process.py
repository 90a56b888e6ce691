"""Measures a command: its time, and the peaks of its memory, sampled from /proc.

RssAnon is memory that the process wrote itself; mapped files, such as weights, do not count in it
and can be dropped by the system at any time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from ldm_engine.machine.memory import PeakMemory


def measure(command: Sequence[str]) -> dict[str, Any]:
    """Seconds and bytes of `command`, whose output goes to stderr."""
    began, core_s = time.perf_counter(), _core_seconds()
    with subprocess.Popen(command, stdout=sys.stderr) as process, PeakMemory(process.pid) as memory:
        process.wait()
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}.")
    return {
        "seconds": time.perf_counter() - began,
        "core_seconds": _core_seconds() - core_s,
        "peak_anonymous_bytes": memory.peak.anonymous,
        "peak_resident_bytes": memory.peak.resident,
    }


def _core_seconds() -> float:
    """Of all child processes that have ended, however busy the machine was."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure the command that follows the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    result = measure(parser.parse_args().command)
    print(
        f"{result['seconds']:.1f} s, {result['core_seconds']:.1f} s on a core, "
        f"{result['peak_anonymous_bytes'] / 2**30:.2f} GiB anonymous, "
        f"{result['peak_resident_bytes'] / 2**30:.2f} GiB resident"
    )
    print(json.dumps(result), file=sys.stderr)


if __name__ == "__main__":
    main()
