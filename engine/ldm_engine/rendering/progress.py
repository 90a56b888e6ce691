"""How far a run is: counts, rate and time left."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

_WINDOW = 50  #: batches that the rate is taken from


@dataclass(frozen=True)
class Progress:
    """Images of this run or shard at one moment."""

    total: int  #: asked for
    to_do: int
    done: int  #: there, from earlier runs too
    failed: int  #: images and rows that came to nothing
    rendered: int  #: by this run
    images_per_second: float  #: lately; 0 before the first batch
    seconds: float  #: since this run began to render
    seconds_left: float | None


class Counter:
    """Counts what a run does."""

    def __init__(self, total: int, done: int, failed_images: int, bad_rows: int) -> None:
        self._total, self._done, self._failed = total, done, failed_images
        self._bad_rows = bad_rows
        self._rendered = self._tried = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self.start()

    def start(self) -> None:
        """Begin to count time: what came before was preparation."""
        self._start = time.monotonic()
        self._marks.clear()
        self._marks.append((self._start, 0))

    def add(self, finished: int, failed: int) -> None:
        """Count a batch."""
        self._done += finished
        self._failed += failed
        self._rendered += finished
        self._tried += finished + failed
        self._marks.append((time.monotonic(), self._tried))

    def progress(self) -> Progress:
        """Where the run stands."""
        (first, before), (last, now) = self._marks[0], self._marks[-1]
        rate = (now - before) / (last - first) if last > first else 0.0
        left = self._total - self._done - self._failed
        return Progress(
            total=self._total,
            to_do=left,
            done=self._done,
            failed=self._failed + self._bad_rows,
            rendered=self._rendered,
            images_per_second=rate,
            seconds=time.monotonic() - self._start,
            seconds_left=left / rate if rate else None,
        )
