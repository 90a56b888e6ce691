"""Exclusive locks of open files, which the system frees when their process ends in any way."""

from __future__ import annotations

import sys
import time
from typing import IO, Any

if sys.platform == "win32":
    import msvcrt
    import os

    #: Windows locks bytes, which nobody else can read then: this one lies behind all content, and
    #: within the 31 bits that ``locking`` has for a place.
    _LOCKED_AT = 1 << 30

    def try_lock(file: IO[Any]) -> bool:
        """Lock `file` unless another has; returns whether that was done."""
        descriptor = file.fileno()
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _LOCKED_AT, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(descriptor, position, os.SEEK_SET)
        return True

    def lock(file: IO[Any]) -> None:
        """Wait until no other has `file` locked, and lock it."""
        while not try_lock(file):  # a lock that waits gives up after ten seconds
            time.sleep(0.1)

else:
    import fcntl

    def try_lock(file: IO[Any]) -> bool:
        """Lock `file` unless another has; returns whether that was done."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lock(file: IO[Any]) -> None:
        """Wait until no other has `file` locked, and lock it."""
        fcntl.flock(file, fcntl.LOCK_EX)
