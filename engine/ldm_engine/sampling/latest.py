"""What encoders gave last, kept for whoever asks for the same again.

The twin in C++ is ``cpp/src/sampling/latest.hpp``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Key = TypeVar("Key")


class Latest(Generic[Key]):
    """Arrays by what they were made from: the latest, as many as fit into some bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Key, NDArray[np.float32]] = OrderedDict()

    def get(self, key: Key, make: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        """The array of `key`, made if it is not there; nobody writes to it."""
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        found = self._kept[key]
        while sum(array.nbytes for array in self._kept.values()) > self._most_bytes:
            self._kept.popitem(last=False)
        return found

    def clear(self) -> None:
        """Keep nothing of what there is."""
        self._kept.clear()
