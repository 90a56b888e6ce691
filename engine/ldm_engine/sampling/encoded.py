"""What a pipeline and its clones have encoded: each empty text once, the latest texts and pictures.

Whoever holds the lock encodes, so that clones in other threads wait for what they share.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .inputs import Input
from .kept_text import unconditional_kv
from .latest import Latest
from .opening import Opened
from .tokenizer import Tokenizer

_KEPT_TEXT_BYTES = 64 << 20  #: of texts that are not encoded again; one has 7.7 MB at full size
_KEPT_PICTURE_BYTES = 4 << 20  #: likewise of pictures, which have 16 kB each at 256x256


class Encoded:
    """Encoded texts and pictures of one bundle that was opened."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._tokenizer = Tokenizer.of(opened.bundle)
        self._lock = threading.Lock()
        self._unconditional: NDArray[np.float32] | None = None  # [T, .], encoded at most once
        self._texts: Latest[bytes] = Latest(_KEPT_TEXT_BYTES)
        self._pictures: Latest[tuple[str, tuple[int, ...]]] = Latest(_KEPT_PICTURE_BYTES)

    def texts(
        self,
        texts: Sequence[str],
        encode: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    ) -> dict[str, NDArray[np.float32]]:
        """Keys and values [T, .] of each distinct text; `encode` makes those of ids [1, T].

        One text at a time, so that an image does not depend on what else is in the batch.
        """
        found = {}
        for text in dict.fromkeys(texts):
            ids = self._tokenizer([text])  # which warns each time if it cuts the text
            with self._lock:
                found[text] = self._text(text, ids, partial(encode, ids))
        return found

    def _text(
        self, text: str, ids: NDArray[np.int64], make: Callable[[], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        if text:
            return self._texts.get(ids.tobytes(), make)
        if self._unconditional is None:
            self._unconditional = unconditional_kv(self._opened, make)
        return self._unconditional

    def pictures(
        self, inputs: Sequence[Input], encode: Callable[[Input], NDArray[np.float32]]
    ) -> NDArray[np.float32] | None:
        """Latents [B, 4, h, w] of the pictures, or None without any; one at a time, likewise."""
        if not inputs:
            return None
        with self._lock:
            return np.stack([self._picture(given, encode) for given in inputs])

    def _picture(
        self, given: Input, encode: Callable[[Input], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        return self._pictures.get((given.sha256, given.picture.shape), partial(encode, given))

    def clear(self) -> None:
        """Encode anew what comes again; the empty text stays."""
        with self._lock:
            self._texts.clear()
            self._pictures.clear()
