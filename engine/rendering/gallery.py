"""The gallery: one page and its data as scripts, which a browser opens from the disk."""

from __future__ import annotations

from collections.abc import Iterable

from .renderer import Outcome
from .storage import Storage


def write_gallery(storage: Storage, records: Iterable[Outcome]) -> str:
    """Stub."""
    return "index.html"
