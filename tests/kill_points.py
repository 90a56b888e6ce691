"""Runs ``render`` in a process of its own that is killed just before a chosen change to files."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
    """The moment before a change to a file or folder."""

    change: str  #: an audit event of Python's; "fsync"; "torn" is the middle of a write before it
    name: str  #: relative to the output


class _Watch:
    """Counts the changes that this process makes to files below `output`; one kills it."""

    def __init__(self, output: Path, point: KillPoint | None) -> None:
        self.changes: list[tuple[str, str]] = []
        self._prefix, self._point, self._fsync = f"{output}/", point, os.fsync
        os.fsync = self._watched_fsync
        sys.addaudithook(self._watch)

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.link"):
            self._count(event, arguments[1])
        elif event in ("os.mkdir", "os.remove", "os.rmdir"):
            folder = arguments[-1]  # what the path is relative to, or -1
            parent = f"{_path_of(folder)}/" if folder >= 0 else ""
            self._count(event, f"{parent}{arguments[0]}")
        elif event == "open" and arguments[2] & _WRITING:
            self._count(event, arguments[0])

    def _watched_fsync(self, file: int) -> None:
        if stat.S_ISREG(os.fstat(file).st_mode):
            path = _path_of(file)
            self._count("fsync", path)
            if self._is_at("torn", path):
                os.truncate(file, os.fstat(file).st_size - _TORN_BYTES)
                self._kill()
        self._fsync(file)

    def _count(self, change: str, path: object) -> None:
        if str(path).startswith(self._prefix):
            self.changes.append((change, str(path).removeprefix(self._prefix)))
            if self._is_at(change, path):
                self._kill()

    def _is_at(self, change: str, path: object) -> bool:
        return KillPoint(change, str(path).removeprefix(self._prefix)) == self._point

    def _kill(self) -> None:
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
) -> bool:
    """``ldm_engine.render`` in a process of its own; returns whether it was killed, at `point`.

    Raises:
        OutputError: as it is raised there.
    """
    render = partial(ldm_engine.render, *arguments, output=output, **options)
    process = processes.Process(target=_render, args=(render, output, point, file_size_limit))
    process.start()
    process.join()
    if process.exitcode == _REFUSED:
        raise OutputError(Path(f"{output}.error").read_text())
    assert process.exitcode in (0, -signal.SIGKILL), point
    return process.exitcode != 0


def kill_points(*arguments: Any, output: Path, **options: Any) -> list[KillPoint]:
    """Render, and list the first and the last change of each kind to each kind of file.

    Temporary files are none of them: each lies there, whole, before it is renamed.
    """
    render_apart(*arguments, output=output, **options)
    points: dict[KillPoint, tuple[str, str]] = {}  # with their kind, in order
    for change, name in json.loads(Path(f"{output}.changes").read_text()):
        folder = name.partition("/")[0]
        is_temporary = name.count("/") > 1 and folder == ".tmp"
        for sort in (change, "torn") if change == "fsync" else (change,):
            if not is_temporary:
                points.setdefault(KillPoint(sort, name), (sort, folder))
    first = {kind: point for point, kind in reversed(points.items())}
    last = {kind: point for point, kind in points.items()}
    return [point for point, kind in points.items() if point in (first[kind], last[kind])]
