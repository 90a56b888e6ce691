"""Whether a process that a test knows by its id has ended."""

from __future__ import annotations

import time
from pathlib import Path

DYING_S = 60.0  # what a process may take to end on a busy machine


def ends(pid: int) -> bool:
    """Wait for the end of process `pid`, which may be unreaped; False if it goes on and on."""
    deadline = time.monotonic() + DYING_S
    while is_running(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
