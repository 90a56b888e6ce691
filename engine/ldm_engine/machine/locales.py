"""Numbers with a decimal point, for libraries that read them as the locale writes them."""

from __future__ import annotations

import ctypes
import locale
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import RuntimeUnavailableError

_NUMERIC = 1 << locale.LC_NUMERIC  # LC_NUMERIC_MASK of glibc and musl


@contextmanager
def decimal_points() -> Iterator[None]:
    """A block in which this thread's numbers have a decimal point; other threads keep the locale's.

    On a host with a decimal comma, C's ``strtod`` reads "0.8" as 0 once the application has called
    ``setlocale``.

    Raises:
        RuntimeUnavailableError: on such a host with Windows.
    """
    if locale.localeconv()["decimal_point"] == ".":
        yield
        return
    if sys.platform == "win32":
        raise RuntimeUnavailableError(
            "this process's numbers have a decimal comma, which on Windows is not changed for one "
            "thread alone; a decimal point is accepted. Call locale.setlocale(locale.LC_NUMERIC, "
            "'C') first, or use another runtime"
        )
    libc = _libc()
    before = libc.uselocale(None)
    points = libc.newlocale(_NUMERIC, b"C", libc.duplocale(before))
    libc.uselocale(points)
    try:
        yield
    finally:
        libc.uselocale(before)
        libc.freelocale(points)


def _libc() -> Any:
    libc = ctypes.CDLL(None)
    for name, arguments in (
        ("uselocale", [ctypes.c_void_p]),
        ("duplocale", [ctypes.c_void_p]),
        ("newlocale", [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]),
        ("freelocale", [ctypes.c_void_p]),
    ):
        function = getattr(libc, name)
        function.argtypes = arguments
        function.restype = None if name == "freelocale" else ctypes.c_void_p
    return libc
