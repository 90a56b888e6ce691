"""LRU cache of what a library compiled for fixed shapes; shared by clones."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from typing import Generic, TypeVar

#: Entries hold their own copy of the weights: their number is limited by the bytes of all together
#: and by this count; the latest is always kept.
_MAX_BYTES = 4 << 30
_MAX_ENTRIES = 4

Shapes = Mapping[str, tuple[int, ...]]
Compiled = TypeVar("Compiled")


class ByShape(ABC, Generic[Compiled]):
    """Compiles for input shapes, unless an entry for them is in the cache."""

    def __init__(self, size: int) -> None:
        """`size` is that of the weights in one entry, in bytes."""
        self._capacity = max(1, min(_MAX_ENTRIES, _MAX_BYTES // max(1, size)))
        self._entries: OrderedDict[tuple[tuple[str, tuple[int, ...]], ...], Compiled]
        self._entries = OrderedDict()
        self._lock = threading.Lock()

    def get(self, shapes: Shapes) -> Compiled:
        """The entry for `shapes`, compiled if it is not there."""
        key = tuple(sorted(shapes.items()))
        with self._lock:
            if key not in self._entries:
                while len(self._entries) >= self._capacity:
                    self._entries.popitem(last=False)  # before the new one takes memory
                self._entries[key] = self._compile(shapes)
            self._entries.move_to_end(key)
            return self._entries[key]

    @abstractmethod
    def _compile(self, shapes: Shapes) -> Compiled:
        """Compile for `shapes`."""


def describe(shapes: Shapes) -> str:
    """`shapes` in a message."""
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
