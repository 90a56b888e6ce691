"""The CPU quota and the memory limit of this process's control groups, of versions 1 and 2.

Containers, Slurm and systemd set them. The limits of every group from the process's own up to the
one that is mounted apply; that of a parent binds as that of its child does. The twin in C++ is
``cpp/src/machine/cgroups.cpp``; ``tests/data/cgroups.json`` holds both to the same values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def cpu_limit(root: Path = _ROOT) -> float | None:
    """The number of cores' time that this process may use, by its quota; None without one.

    `root` is the folder in which ``proc`` and ``sys`` lie.
    """
    quotas = []
    for group in _groups("cpu", root):
        values = (_read(group / "cpu.max") or "").split()
        if not values:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            values = [(_read(group / name) or "").strip() for name in names]
        # "max" and -1 stand for no quota.
        if len(values) == 2 and all(v.isdecimal() for v in values) and int(values[1]):
            quotas.append(int(values[0]) / int(values[1]))
    return min(quotas, default=None)


def free_memory(root: Path = _ROOT) -> int | None:
    """The bytes that this process may still take under its groups' limits; None without one.

    What the groups hold of files that they can drop counts as free.
    """
    return min((n for g in _groups("memory", root) for n in _free(g)), default=None)


def _free(group: Path) -> Iterator[int]:
    for *names, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        numbers = [(_read(group / name) or "").strip() for name in names]
        if all(n.isdecimal() for n in numbers):
            limit, used = map(int, numbers)
            statistics = _read(group / "memory.stat") or ""
            facts = {n: int(v) for n, v in re.findall(r"^(\w+) (\d+)$", statistics, re.MULTILINE)}
            # That of a parent which is not mounted here binds too.
            bound = min(limit, facts.get("hierarchical_memory_limit", limit))
            yield max(0, bound - used + facts.get(cache, 0))


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the process's groups with this `controller`, each before its parent."""
    own = [line.split(":", 2) for line in (_read(root / "proc/self/cgroup") or "").splitlines()]
    for kind, options, mounted, mount in _mounts(root):
        if kind == "cgroup" and controller not in options:
            continue
        paths = [
            entry[2]
            for entry in own
            if len(entry) == 3
            and (controller in entry[1].split(",") if kind == "cgroup" else entry[:2] == ["0", ""])
        ]
        for path in paths or ["/"]:
            folder = mount / _below(path, mounted)
            yield folder
            while folder != mount:
                folder = folder.parent
                yield folder


def _mounts(root: Path) -> Iterator[tuple[str, list[str], str, Path]]:
    """Kind, options, the group that is mounted and the folder of each mounted hierarchy."""
    text = _read(root / "proc/self/mountinfo")
    if text is None:
        text = "0 0 0:0 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
    for line in text.splitlines():
        fields, _, rest = (part.split() for part in line.partition(" - "))
        if len(fields) >= 5 and len(rest) >= 3 and rest[0] in ("cgroup", "cgroup2"):
            folder = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4])
            yield rest[0], rest[2].split(","), fields[3], root / folder.lstrip("/")


def _below(path: str, mounted: str) -> str:
    """`path` relative to the group that is `mounted`; "" where it does not lie below that."""
    inner = path.removeprefix(mounted.rstrip("/"))
    is_below = len(inner) < len(path) or mounted == "/"
    if not is_below or not inner.startswith("/") or ".." in inner.split("/"):
        return ""
    return inner.lstrip("/")


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return None
