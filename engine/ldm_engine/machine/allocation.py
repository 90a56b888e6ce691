"""What this process's malloc does with large blocks when they are freed."""

from __future__ import annotations

import ctypes

# glibc's malloc.h has these; there is no header here to read them from.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_MAX_INT = 2**31 - 1
_LARGE_BYTES = 1 << 20


def keep_freed_memory() -> None:
    """Let this process's malloc reuse large blocks instead of returning them to the system.

    Paddle allocates each large tensor anew in every run. By default glibc maps such a block and
    unmaps it when it is freed, so every page of it is faulted in and cleared again: 140,000 faults
    in each step of the full-size UNet, an eighth of its time. Up to 2 GB are kept at the end of
    the heap, and what lies between blocks in use; an application can return it with glibc's
    ``malloc_trim(0)``. Without glibc this does nothing, and in threads other than the main one
    glibc goes on mapping blocks above 64 MB.
    """
    _set({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _MAX_INT})


def return_freed_memory() -> None:
    """Let this process's malloc return every block of 1 MiB and more when it is freed.

    By default glibc keeps what is below a threshold that grows, up to 32 MB, with what is freed:
    after a step of the full-size UNet by ONNX Runtime 140 MB. Without glibc this does nothing.
    """
    _set({_M_MMAP_THRESHOLD: _LARGE_BYTES, _M_MMAP_MAX: 65536, _M_TRIM_THRESHOLD: _LARGE_BYTES})


def _set(parameters: dict[int, int]) -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    for parameter, value in parameters.items():
        mallopt(parameter, value)
