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


@pytest.fixture(autouse=True)
def no_quota(monkeypatch):
    monkeypatch.setattr(cpu.cgroups, "cpu_limit", lambda: None)


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
def test_bf16_follows_from_the_flags(files, flags, expected):
    text = "processor\t: 0\nbugs\t\t: avx512_bf16\n" + FLAGS.format(flags)
    files["/proc/cpuinfo"] = text + "\nprocessor\t: 1\n" + FLAGS.format(flags)
    assert cpu.supports_bf16() is expected


@pytest.mark.parametrize("text", [None, "", "Features : fp asimd bf16\n"])
def test_without_flags_there_is_no_bf16(files, text):
    if text is not None:
        files["/proc/cpuinfo"] = text
    assert cpu.supports_bf16() is False
