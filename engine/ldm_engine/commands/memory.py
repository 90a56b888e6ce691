"""The pipeline of ``generate``, with all programs loaded at once or one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..bundle.contract import PROGRAMS
from ..errors import InvalidArgumentError, RuntimeUnavailableError
from ..machine.device import Device
from ..machine.files import make_folder
from ..machine.gpu import find_gpu
from ..machine.memory import free_memory_bytes
from ..runtimes.base import weight_bytes
from ..runtimes.choice import MAPPED, choose_runtime
from ..sampling.opening import Opened
from ..sampling.pipeline import LDMTextToImagePipeline
from . import console

_LARGE_BYTES = 1 << 30  #: of weights that take seconds to load
_FEW_STEPS = 16  #: that mapped weights, with slower ones, are done with before others have begun


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


def prefer_mapped(opened: Opened, steps: int) -> Opened:
    """`opened` with its weights mapped, where so few `steps` are done sooner or memory is short.

    The bundle must be one in whose formats that can be; small ones are loaded in no time. Prints
    that it does.
    """
    needed, free = _needed_and_free(opened)
    is_short = free is not None and needed > free
    if needed < _LARGE_BYTES or not (is_short or steps <= _FEW_STEPS):
        return opened
    try:
        choice = choose_runtime(
            opened.bundle, MAPPED, opened.options.precision, opened.options.device
        )
    except RuntimeUnavailableError:
        return opened
    why = "memory is short" if is_short else "so few steps are done sooner with them"
    console.err.print(f"Using mapped weights (--memory mapped): {why}.")
    return replace(opened, choice=choice)


def choose_memory(mode: str, opened: Opened) -> str:
    """The memory mode for one run of the command; prints where "auto" takes the slower one."""
    if mode not in ("auto", "mapped"):
        return mode
    if opened.choice.runtime.name == MAPPED:
        return "resident"  # of which nothing is
    if mode == "mapped":
        raise InvalidArgumentError(
            f"`memory` is 'mapped', and this is rendered by {opened.choice.runtime.name}: the "
            "pixels would differ. Leave --memory mapped out."
        )
    needed, free = _needed_and_free(opened)
    if free is None or needed <= free / 2:
        return "resident"
    console.err.print(
        f"Holding one program at a time (--memory sequential): their weights take "
        f"{needed / 2**30:.1f} GiB, more than half of the {free / 2**30:.1f} GiB that are free."
    )
    return "sequential"


def _needed_and_free(opened: Opened) -> tuple[int, int | None]:
    """Bytes of the weights that make pictures of texts, and of free memory; None: not known."""
    where = Device.parse(opened.options.device)
    gpu = find_gpu(where.index) if where.kind == "gpu" else None
    free = gpu.memory_bytes if gpu else free_memory_bytes()
    runtime, precision = opened.choice.runtime, opened.options.precision
    needed = sum(weight_bytes(opened.bundle, runtime, name, precision) for name in PROGRAMS)
    return needed, free
