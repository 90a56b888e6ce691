from __future__ import annotations

import os
from pathlib import Path

import pytest

from ldm_engine.machine import cpu

FLAGS = "flags\t\t: fpu avx2 avx512f{}\n"


@pytest.fixture
def files(monkeypatch):
    """What reading a file gives, by path; all others are not there."""
    contents: dict[str, str] = {}

    def read_text(self, *_, **__):
        if str(self) not in contents:
            raise FileNotFoundError(str(self))
        return contents[str(self)]

    monkeypatch.setattr(Path, "read_text", read_text)
    cpu.supports_bf16.cache_clear()
    yield contents
    cpu.supports_bf16.cache_clear()


def memory(available_kb):
    return f"MemTotal:       16000000 kB\nMemFree: 5 kB\nMemAvailable:   {available_kb} kB\n"


def control_group(files, limit, used, inactive=0):
    files["/sys/fs/cgroup/memory.max"] = f"{limit}\n"
    files["/sys/fs/cgroup/memory.current"] = f"{used}\n"
    files["/sys/fs/cgroup/memory.stat"] = f"anon 1\nfile 2\ninactive_file {inactive}\n"


def test_threads_are_the_cores_of_this_process():
    assert cpu.available_threads() == len(os.sched_getaffinity(0))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core only")
def test_threads_follow_the_affinity():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, [min(allowed)])
        assert cpu.available_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_threads_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cpu.available_threads() == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu.available_threads() == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", False),
        (" avx512_bf16", True),
        (" amx_tile amx_bf16", True),
        (" avx512_bf16x", False),  # not by part of a word
    ],
)
def test_bf16_is_told_by_the_flags(files, flags, expected):
    text = "processor\t: 0\nbugs\t\t: avx512_bf16\n" + FLAGS.format(flags)
    files["/proc/cpuinfo"] = text + "\nprocessor\t: 1\n" + FLAGS.format(flags)
    assert cpu.supports_bf16() is expected


@pytest.mark.parametrize("text", [None, "", "Features : fp asimd bf16\n"])
def test_without_flags_there_is_no_bf16(files, text):
    if text is not None:
        files["/proc/cpuinfo"] = text
    assert cpu.supports_bf16() is False


def test_free_memory_is_the_machines(files):
    files["/proc/meminfo"] = memory(1000)
    assert cpu.free_memory_bytes() == 1000 * 1024


def test_free_memory_is_the_control_groups_where_that_is_less(files):
    files["/proc/meminfo"] = memory(1000)
    control_group(files, 500_000, 300_000, inactive=50_000)  # what is cached can be given up
    assert cpu.free_memory_bytes() == 250_000


def test_free_memory_is_the_machines_where_that_is_less(files):
    files["/proc/meminfo"] = memory(100)
    control_group(files, 10**9, 1000)
    assert cpu.free_memory_bytes() == 100 * 1024


def test_a_group_without_a_limit_does_not_count(files):
    files["/proc/meminfo"] = memory(1000)
    control_group(files, "max", 300_000)
    assert cpu.free_memory_bytes() == 1000 * 1024


def test_free_memory_is_never_less_than_none(files):
    control_group(files, 1000, 5000)
    assert cpu.free_memory_bytes() == 0


def test_a_group_whose_statistics_lack_a_line(files):
    control_group(files, 1000, 400)
    files["/sys/fs/cgroup/memory.stat"] = ""
    assert cpu.free_memory_bytes() == 600


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/proc/meminfo", "MemTotal: 5 kB\n"),
        ("/proc/meminfo", ""),
        ("/proc/meminfo", "MemAvailable:\n"),
        ("/sys/fs/cgroup/memory.max", "garbage\n"),
        ("/sys/fs/cgroup/memory.stat", "three words here\n"),
    ],
)
def test_what_cannot_be_told_is_none(files, path, text):
    control_group(files, 1000, 400)
    files[path] = text
    if path == "/proc/meminfo":
        for name in [n for n in files if "cgroup" in n]:
            del files[name]
    assert cpu.free_memory_bytes() is None


def test_on_this_machine_there_is_some():
    free = cpu.free_memory_bytes()
    assert free is None or 0 < free < 1 << 50
