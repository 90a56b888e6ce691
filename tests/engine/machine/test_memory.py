"""A process is watched from outside."""

from __future__ import annotations

import os
import subprocess
import sys

from ldm_engine.machine.memory import PeakMemory, read_memory

HOLD = 64 << 20


def test_a_peak_that_has_passed_is_remembered():
    script = f"import time; block = b'x' * {HOLD}; time.sleep(0.5); del block; print(); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe) as process:
        with PeakMemory(process.pid) as memory:
            process.stdout.readline()
            now = read_memory(process.pid)
            assert memory.peak.anonymous > HOLD
            assert memory.peak.resident >= memory.peak.anonymous
            assert now.anonymous < HOLD
        process.communicate(b"\n")


def test_a_process_that_is_no_more_has_no_memory():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert read_memory(process.pid) is None


def test_own_memory_is_told():
    assert read_memory(os.getpid()).resident > 0
