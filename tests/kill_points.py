"""Runs ``render`` in a process of its own that is killed just before a chosen change to files."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ldm_engine
from forked import processes
from ldm_engine.errors import OutputError

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_TORN_BYTES = 7  #: less than a line of a journal
_REFUSED = 3  #: exit status


@dataclass(frozen=True)
class KillPoint:
    """The moment before a run's change number `number`, from 0."""

    number: int
    change: str  #: an audit event of Python's; "fsync"; "torn" is the middle of a write before it
    name: str  #: of what is changed, relative to the output; a temporary file has its later name


class _Watch:
    """Counts the changes that this process makes to files below `output`; one kills it."""

    def __init__(self, output: Path, point: KillPoint | None) -> None:
        self.changes: list[tuple[str, str, str]] = []  # what, where, new name
        self._prefix, self._point, self._fsync = f"{output}/", point, os.fsync
        os.fsync = self._watched_fsync
        sys.addaudithook(self._watch)

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.link"):
            self._count(event, str(arguments[0]), new=str(arguments[1]))
        elif event in ("os.mkdir", "os.remove", "os.rmdir"):
            folder = arguments[-1]  # what the path is relative to, or -1
            parent = f"{_path_of(folder)}/" if folder >= 0 else ""
            self._count(event, f"{parent}{arguments[0]}")
        elif event == "open" and arguments[2] & _WRITING:
            self._count(event, str(arguments[0]))

    def _watched_fsync(self, file: int) -> None:
        if stat.S_ISREG(os.fstat(file).st_mode):
            self._count("fsync", str(_path_of(file)), file)
        self._fsync(file)

    def _count(self, change: str, path: str, file: int | None = None, *, new: str = "") -> None:
        if not path.startswith(self._prefix):
            return
        point, number = self._point, len(self.changes)
        names = (name.removeprefix(self._prefix) for name in (path, new))
        self.changes.append((change, *names))
        if point is not None and point.number == number:
            if point.change == "torn" and file is not None:
                os.truncate(file, os.fstat(file).st_size - _TORN_BYTES)
            os.kill(os.getpid(), signal.SIGKILL)


def _path_of(file: int) -> Path:
    return Path(f"/proc/self/fd/{file}").readlink()


def _render(
    render: Callable[[], Iterable[Any]],
    output: Path,
    point: KillPoint | None,
    file_size_limit: int | None,
) -> None:
    """In the process: render, and leave beside `output` what it changed, or the error."""
    if file_size_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, file_size_limit))
    watch = _Watch(output, point)
    try:
        deque(render(), maxlen=0)
    except OutputError as error:
        Path(f"{output}.error").write_text(str(error))
        sys.exit(_REFUSED)
    Path(f"{output}.changes").write_text(json.dumps(watch.changes))


def render_apart(
    *arguments: Any,
    output: Path,
    point: KillPoint | None = None,
    file_size_limit: int | None = None,
    **options: Any,
) -> None:
    """``ldm_engine.render`` in a process of its own, which is killed at `point`.

    Raises:
        OutputError: as it is raised there.
    """
    render = partial(ldm_engine.render, *arguments, output=output, **options)
    process = processes.Process(target=_render, args=(render, output, point, file_size_limit))
    process.start()
    process.join()
    if process.exitcode == _REFUSED:
        raise OutputError(Path(f"{output}.error").read_text())
    assert process.exitcode == (0 if point is None else -signal.SIGKILL), point


def kill_points(*arguments: Any, output: Path, **options: Any) -> list[KillPoint]:
    """Render, and list the first and the last change of each kind to each kind of file."""
    render_apart(*arguments, output=output, **options)
    changes = json.loads(Path(f"{output}.changes").read_text())
    kinds: dict[tuple[str, str], list[KillPoint]] = {}
    for point in _named(changes):
        kinds.setdefault((point.change, point.name.partition("/")[0]), []).append(point)
    found = {p for kind in kinds.values() for p in (kind[0], kind[-1])}
    appended = {p for p in found if changes[p.number][1].endswith(".jsonl")}
    found |= {replace(p, change="torn") for p in appended if p.change == "fsync"}
    return sorted(found, key=lambda p: (p.number, p.change))


def _named(changes: Sequence[tuple[str, str, str]]) -> list[KillPoint]:
    """All points, from the last to the first, as a temporary file is named before it is renamed."""
    points, later = [], {}
    for number, (change, name, new) in reversed(list(enumerate(changes))):
        if new:
            later[name] = new
        elif change == "os.remove" and changes[number - 1][:2] == ["os.rename", name]:
            continue  # there is nothing left to remove
        points.append(KillPoint(number, change, later.get(name, name)))
    return points[::-1]
