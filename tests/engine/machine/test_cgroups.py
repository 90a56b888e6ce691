from __future__ import annotations

import json
import math
import os

import pytest

from conftest import DATA
from ldm_engine.machine import cgroups, cpu, memory

VECTORS = json.loads((DATA / "cgroups.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_limits_are_those_of_the_shared_vectors(vector, tmp_path):
    for name, content in vector["files"].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cgroups.cpu_limit(tmp_path) == vector["cpu_limit"]
    assert cgroups.free_memory(tmp_path) == vector["free_memory"]


@pytest.mark.parametrize(("quota", "threads"), [(None, 64), (4.0, 4), (1.5, 2), (0.2, 1), (99, 64)])
def test_threads_are_no_more_than_the_quota(monkeypatch, quota, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    monkeypatch.setattr(cgroups, "cpu_limit", lambda: quota)
    assert cpu.available_threads() == threads


@pytest.mark.parametrize(
    ("available", "left", "free"), [(1000, 250, 250), (100, 250, 100), (100, None, 100)]
)
def test_free_memory_is_the_least_that_is_left(monkeypatch, available, left, free):
    monkeypatch.setattr(memory, "_machine_free", lambda: available)
    monkeypatch.setattr(cgroups, "free_memory", lambda: left)
    assert memory.free_memory_bytes() == free


def test_this_machine_is_read():
    limit = cgroups.cpu_limit()
    assert limit is None or limit > 0
    assert limit is None or cpu.available_threads() <= math.ceil(limit)
    free = cgroups.free_memory()
    assert free is None or free >= 0
