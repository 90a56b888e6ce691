"""The pipeline of ``generate``, with all programs loaded at once or one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..bundle.contract import PROGRAMS
from ..machine.device import Device
from ..machine.files import make_folder
from ..machine.gpu import find_gpu
from ..machine.memory import free_memory_bytes
from ..runtimes.base import weight_bytes
from ..sampling.opening import Opened
from ..sampling.pipeline import LDMTextToImagePipeline
from . import console


@contextmanager
def opened_pipeline(opened: Opened, output: Path, memory: str) -> Iterator[LDMTextToImagePipeline]:
    """A pipeline whose pictures go to the folder `output`, which is made and checked first."""
    memory = choose_memory(memory, opened)
    make_folder(output)
    with console.busy(f"opening {opened.bundle.path}"):
        opened.check_hashes()
        pipe = LDMTextToImagePipeline.from_opened(opened, memory)
    with pipe:
        yield pipe


def choose_memory(mode: str, opened: Opened) -> str:
    """The memory mode for one run of the command; prints where "auto" takes the slower one."""
    if mode != "auto":
        return mode
    where = Device.parse(opened.options.device)
    gpu = find_gpu(where.index) if where.kind == "gpu" else None
    free = gpu.memory_bytes if gpu else free_memory_bytes()
    runtime, precision = opened.choice.runtime, opened.options.precision
    needed = sum(weight_bytes(opened.bundle, runtime, name, precision) for name in PROGRAMS)
    if free is None or needed <= free / 2:
        return "resident"
    console.err.print(
        f"Holding one program at a time (--memory sequential): their weights take "
        f"{needed / 2**30:.1f} GiB, more than half of the {free / 2**30:.1f} GiB that are free."
    )
    return "sequential"
