"""A progress bar on stderr for calls from Python, where that is a terminal.

Commands draw their own (``commands/console.py``).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_DRAWING = threading.Lock()  # one is drawn at a time, also where several threads render


@dataclass(frozen=True)
class BarOptions:
    """How bars are drawn; the names are those of diffusers and tqdm."""

    disable: bool = False
    desc: str | None = None  #: in the place of what is being done
    leave: bool = True  #: what is finished stays on the screen


HIDDEN = BarOptions(disable=True)


class Bar:
    """Stages of one thing that takes time, drawn one after another, or not at all."""

    def __init__(self, progress: Progress | None, desc: str | None) -> None:
        self._progress, self._desc = progress, desc
        self._task = progress.add_task(desc or "", total=None) if progress else None

    @property
    def is_drawn(self) -> bool:
        """Whether anyone sees it."""
        return self._progress is not None

    def begin(self, stage: str, total: int | None = None) -> None:
        """A new stage, of `total` parts if that is known."""
        if self._progress is not None and self._task is not None:
            self._progress.reset(self._task, total=total, description=self._desc or stage)

    def describe(self, stage: str) -> None:
        """What is done now, in the same stage."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=self._desc or stage)

    def advance(self, count: int = 1, total: int | None = None) -> None:
        """`count` more parts are done, of `total` if that is known by now."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=count, total=total)

    def reach(self, completed: int, total: int, stage: str) -> None:
        """`completed` parts of `total` are done, in a stage that may be another one."""
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task, completed=completed, total=total, description=self._desc or stage
            )


@contextmanager
def drawn_bar(options: BarOptions, of_bytes: bool = False) -> Iterator[Bar]:
    """A bar that is drawn where stderr is a terminal, no other is, and `options` let it."""
    is_seen = sys.stderr is not None and sys.stderr.isatty() and not options.disable
    if not is_seen or not _DRAWING.acquire(blocking=False):
        yield Bar(None, None)
        return
    try:
        with _progress(options, of_bytes) as progress:
            yield Bar(progress, options.desc)
    finally:
        _DRAWING.release()


def _progress(options: BarOptions, of_bytes: bool) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn() if of_bytes else MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=not options.leave,
    )
