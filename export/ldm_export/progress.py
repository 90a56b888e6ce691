"""The callback through which an export reports its stages."""

from __future__ import annotations

from collections.abc import Callable

#: Called with the name of each stage as it begins.
Progress = Callable[[str], None]


def silent(stage: str) -> None:
    """Report nothing."""
