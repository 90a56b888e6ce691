"""Runs a command and tells its wall time and the peaks of its memory, sampled from /proc.

RssAnon is memory that the process wrote itself; mapped files, such as weights, do not count in it
and can be dropped by the system at any time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

PERIOD_S = 0.02


def measure(command: list[str]) -> dict[str, float]:
    """Seconds and bytes of `command`, whose output goes to stderr."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    peaks = {"RssAnon": 0, "VmRSS": 0}
    while process.poll() is None:
        for name, value in _memory(process.pid).items():
            peaks[name] = max(peaks[name], value)
        time.sleep(PERIOD_S)
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}.")
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "peak_anonymous_bytes": peaks["RssAnon"],
        "peak_resident_bytes": peaks["VmRSS"],
    }


def _memory(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return {}
    values = dict(line.split(":", 1) for line in lines)
    return {n: int(values[n].split()[0]) * 1024 for n in ("RssAnon", "VmRSS") if n in values}


def main() -> None:
    """Measure the command that follows the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    result = measure(parser.parse_args().command)
    print(
        f"{result['seconds']:.1f} s, {result['peak_anonymous_bytes'] / 2**30:.2f} GiB anonymous, "
        f"{result['peak_resident_bytes'] / 2**30:.2f} GiB resident"
    )
    print(json.dumps(result), file=sys.stderr)


if __name__ == "__main__":
    main()
