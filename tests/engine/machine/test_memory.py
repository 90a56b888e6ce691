"""What is free, and a process watched from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldm_engine.machine.memory import PeakMemory, free_memory_bytes, read_memory

HOLD = 64 << 20


@pytest.fixture
def files(monkeypatch):
    """What reading a file gives, by path; all others are not there."""
    contents: dict[str, str] = {}

    def read_text(self, *_, **__):
        if str(self) not in contents:
            raise FileNotFoundError(str(self))
        return contents[str(self)]

    monkeypatch.setattr(Path, "read_text", read_text)
    return contents


def memory(available_kb):
    return f"MemTotal:       16000000 kB\nMemFree: 5 kB\nMemAvailable:   {available_kb} kB\n"


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


def test_own_memory_is_read():
    assert read_memory(os.getpid()).resident > 0


def test_free_memory_is_the_machines(files):
    files["/proc/meminfo"] = memory(1000)
    assert free_memory_bytes() == 1000 * 1024


@pytest.mark.parametrize("text", ["MemTotal: 5 kB\n", "", "MemAvailable:\n"])
def test_what_is_not_reported_is_none(files, text):
    files["/proc/meminfo"] = text
    assert free_memory_bytes() is None


def test_on_this_machine_there_is_some():
    free = free_memory_bytes()
    assert free is None or 0 < free < 1 << 50
