"""What a forked child inherits of libraries with threads: it is neither used nor freed there.

``fork`` copies a library's memory and none of its threads. In the child, running a program or
freeing one then waits for threads that do not exist, or crashes; what the child opens itself works.
"""

from __future__ import annotations

import ctypes
import os
from weakref import WeakSet

_forks = 0  # between the process that imported this module and this one
_owners: WeakSet[object] = WeakSet()


def guard(owner: object) -> int:
    """Keep `owner`, and all that it refers to, from ever being freed in a forked child.

    Returns:
        What ``number`` returns in this process.
    """
    _owners.add(owner)
    return _forks


def number() -> int:
    """A number that this process has in common with none that it was forked from."""
    return _forks


def _keep_inherited() -> None:
    global _forks
    _forks += 1
    for owner in list(_owners):
        # A reference that is never given back: also when the interpreter ends nothing is freed.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))
    _owners.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited)
