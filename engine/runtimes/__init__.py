"""Which runtimes there are, and which one a bundle gets on this machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np

from ..bundle import Bundle
from ..errors import InvalidArgumentError, RuntimeUnavailableError
from .base import Program, Runtime, RuntimeOptions
from .paddle import PaddleRuntime

__all__ = [
    "RUNTIMES",
    "Choice",
    "Program",
    "Runtime",
    "RuntimeOptions",
    "available_threads",
    "choose_runtime",
    "resolve_options",
]

MAX_THREADS = 1024  #: libraries abort the process when they cannot start their threads
_DEVICE = re.compile(r"cpu|gpu(:\d+)?")
_PRECISION = re.compile(r"fp32|bf16|fp16|int8")

#: In the order in which ``runtime="auto"`` prefers them.
RUNTIMES: dict[str, Runtime] = {r.name: r for r in (PaddleRuntime(),)}


@dataclass(frozen=True)
class Choice:
    """A runtime and why it was chosen."""

    runtime: Runtime
    reason: str


def choose_runtime(bundle: Bundle, name: str = "auto") -> Choice:
    """The runtime called `name`, or for "auto" the first that can open `bundle` here.

    Raises:
        InvalidArgumentError: if there is no runtime of that name.
        RuntimeUnavailableError: if it is not installed or the bundle lacks its format.
    """
    if name != "auto":
        if not isinstance(name, str) or name not in RUNTIMES:
            raise InvalidArgumentError(
                f"`runtime` is {name!r}; auto or {', '.join(RUNTIMES)} is accepted."
            )
        obstacle = _obstacle(bundle, RUNTIMES[name])
        if obstacle:
            raise RuntimeUnavailableError(f"The runtime {name} cannot be used: {obstacle}.")
        return Choice(RUNTIMES[name], "asked for")
    passed_over: list[str] = []
    for runtime in RUNTIMES.values():
        obstacle = _obstacle(bundle, runtime)
        if not obstacle:
            reason = "the fastest that this bundle has a format for and this machine has installed"
            if passed_over:
                reason += f" ({'; '.join(passed_over)})"
            return Choice(runtime, reason)
        passed_over.append(f"{runtime.name}: {obstacle}")
    raise RuntimeUnavailableError(
        "No installed runtime can open this bundle: " + "; ".join(passed_over) + "."
    )


def _obstacle(bundle: Bundle, runtime: Runtime) -> str | None:
    if runtime.format not in bundle.formats:
        return f"the bundle holds {', '.join(bundle.formats) or 'no format'}, not {runtime.format}"
    if runtime.version() is None:
        return f"it is not installed; install it with: {runtime.install}"
    return None


def resolve_options(
    runtime: Runtime, device: str, precision: str, threads: int | None
) -> RuntimeOptions:
    """Check what was asked of `runtime` and fill in the thread count.

    Raises:
        InvalidArgumentError: if a value is none that any runtime knows.
        RuntimeUnavailableError: if this runtime does not offer that device or precision.
    """
    for name, value, known, offered in (
        ("device", device, _DEVICE, runtime.devices),
        ("precision", precision, _PRECISION, runtime.precisions),
    ):
        if not isinstance(value, str) or not known.fullmatch(value):
            raise InvalidArgumentError(f"`{name}` is {value!r}; {', '.join(offered)} is accepted.")
        if value not in offered:
            raise RuntimeUnavailableError(
                f"`{name}` is {value!r}; the {runtime.name} runtime of this version offers "
                f"{', '.join(offered)} only."
            )
    if threads is None:
        threads = available_threads()
    whole = isinstance(threads, (int, np.integer)) and not isinstance(threads, bool)
    if not whole or not 1 <= threads <= MAX_THREADS:
        raise InvalidArgumentError(
            f"`threads` is {threads!r}; a whole number from 1 to {MAX_THREADS}, or None for all "
            f"{available_threads()} cores, is accepted."
        )
    return RuntimeOptions(device, precision, int(threads))


def available_threads() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
