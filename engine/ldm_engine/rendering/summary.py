"""What a run came to, and what one would come to."""

from __future__ import annotations

from dataclasses import dataclass

from .execution import Progress
from .selection import Survey


@dataclass
class Summary:
    """What a run came to."""

    output: str
    failures: str  #: the name of the file there that lists them
    progress: Progress
    stopped: bool  #: before the end, by a signal
    gallery: str | None = None
    changed: int = 0  #: images that their user has changed, and that stay so


@dataclass(frozen=True)
class Forecast:
    """What a run would render, as its jobs and its output are now."""

    output: str
    bundle: str  #: path
    runtime: str
    precision: str
    survey: Survey
    first: tuple[str, ...]  #: ids of the first images to render
    seconds: float | None  #: that the loop would take; None where nothing was measured yet
