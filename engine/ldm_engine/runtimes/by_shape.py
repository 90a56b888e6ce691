"""What a library made for the shapes in use, kept for the latest of them; shared by clones."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from typing import Generic, TypeVar

#: What was made for other shapes is kept while the weights together are below this; each has its
#: own copy of them, and the latest is always kept.
_KEPT_BYTES = 4 << 30
_KEPT_SHAPES = 4

Shapes = Mapping[str, tuple[int, ...]]
Made = TypeVar("Made")


class ByShape(ABC, Generic[Made]):
    """Makes something for input shapes, unless it did so for them lately."""

    def __init__(self, size: int) -> None:
        """`size` is that of the weights in what is made, in bytes."""
        self._capacity = max(1, min(_KEPT_SHAPES, _KEPT_BYTES // max(1, size)))
        self._made: OrderedDict[tuple[tuple[str, tuple[int, ...]], ...], Made] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, shapes: Shapes) -> Made:
        """What was made for `shapes`."""
        key = tuple(sorted(shapes.items()))
        with self._lock:
            if key not in self._made:
                while len(self._made) >= self._capacity:
                    self._made.popitem(last=False)  # before the new one takes memory
                self._made[key] = self._make(shapes)
            self._made.move_to_end(key)
            return self._made[key]

    @abstractmethod
    def _make(self, shapes: Shapes) -> Made:
        """Make it for `shapes`."""


def describe(shapes: Shapes) -> str:
    """`shapes` in a message."""
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
