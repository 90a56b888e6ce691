"""Whether ``generate`` holds all programs at once or one at a time."""

from __future__ import annotations

from ..bundle.bundle import Bundle
from ..machine.device import Device
from ..machine.gpu import find_gpu
from ..machine.memory import free_memory_bytes
from ..runtimes.base import weight_bytes
from ..runtimes.choice import Choice
from . import console


def choose_memory(asked: str, bundle: Bundle, choice: Choice, precision: str, device: str) -> str:
    """The memory mode for one run of the command; tells where "auto" takes the slower one."""
    if asked != "auto":
        return asked
    where = Device.parse(device)
    gpu = find_gpu(where.index) if where.kind == "gpu" else None
    free = gpu.memory_bytes if gpu else free_memory_bytes()
    needed = sum(weight_bytes(bundle, choice.runtime, name, precision) for name in bundle.programs)
    if free is None or needed <= free / 2:
        return "resident"
    console.err.print(
        f"Holding one program at a time (--memory sequential): their weights take "
        f"{needed / 2**30:.1f} GiB, more than half of the {free / 2**30:.1f} GiB that are free."
    )
    return "sequential"
