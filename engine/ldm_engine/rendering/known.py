"""A compact table of ids: which were seen, which are done, and with what settings.

24 bytes a slot, 36 to 72 bytes an id: a million ids take 48 MB where a dictionary takes 150.
"""

from __future__ import annotations

import threading

KEY_BYTES = 16
SETTINGS_BYTES = 7
_SLOT = KEY_BYTES + SETTINGS_BYTES + 1

#: Flags of an id; a slot with none is free.
DONE = 1  #: its image is there and recorded
FAILED = 2  #: it was tried and recorded as a failure
STAGED = 16  #: done, and waiting to go into an archive with others
SEEN = 4, 8  #: a row of the job file has it, in the first reading and in the second


class KnownIds:
    """Flags and 7 bytes of settings for 16-byte keys, which are taken for hashes.

    Open addressing with linear probing over one block of memory; nothing is ever removed.
    """

    def __init__(self, capacity: int = 1024) -> None:
        self._slots = bytearray(capacity * _SLOT)
        self._mask = capacity - 1  # a power of two
        self._count = 0
        self._lock = threading.Lock()  # one thread plans while another writes down what is done

    def get(self, key: bytes) -> tuple[int, bytes]:
        """The flags and settings of `key`; (0, zeros) if it is unknown."""
        with self._lock:
            at = self._find(key) * _SLOT
            slot = self._slots[at + KEY_BYTES : at + _SLOT]
        return slot[SETTINGS_BYTES], bytes(slot[:SETTINGS_BYTES])

    def add(self, key: bytes, flags: int, settings: bytes | None = None) -> None:
        """Add `flags` to those of `key`, and replace its settings if any are given."""
        with self._lock:
            if self._count * 3 >= (self._mask + 1) * 2:
                self._grow()
            self._set(key, flags, settings)

    def _set(self, key: bytes, flags: int, settings: bytes | None) -> None:
        at = self._find(key) * _SLOT
        if not self._slots[at + _SLOT - 1]:
            self._count += 1
            self._slots[at : at + KEY_BYTES] = key
        if settings is not None:
            self._slots[at + KEY_BYTES : at + _SLOT - 1] = settings
        self._slots[at + _SLOT - 1] |= flags

    def _find(self, key: bytes) -> int:
        """The slot of `key`, or the free one where it belongs."""
        slots = self._slots
        place = int.from_bytes(key[:8], "big") & self._mask
        while True:
            at = place * _SLOT
            if not slots[at + _SLOT - 1] or slots[at : at + KEY_BYTES] == key:
                return place
            place = (place + 1) & self._mask

    def _grow(self) -> None:
        slots, old_capacity = self._slots, self._mask + 1
        self._slots = bytearray(2 * old_capacity * _SLOT)
        self._mask, self._count = 2 * old_capacity - 1, 0
        for at in range(0, old_capacity * _SLOT, _SLOT):
            if slots[at + _SLOT - 1]:
                key, settings = slots[at : at + KEY_BYTES], slots[at + KEY_BYTES : at + _SLOT - 1]
                self._set(bytes(key), slots[at + _SLOT - 1], bytes(settings))
