"""Which runtimes there are, and which one a bundle gets on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass

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
        if name not in RUNTIMES:
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
        InvalidArgumentError: if `threads` is not a positive number.
        RuntimeUnavailableError: if the runtime does not offer that device or precision.
    """
    for name, value, accepted in (
        ("device", device, runtime.devices),
        ("precision", precision, runtime.precisions),
    ):
        if value not in accepted:
            raise RuntimeUnavailableError(
                f"`{name}` is {value!r}; the {runtime.name} runtime of this version offers "
                f"{', '.join(accepted)}."
            )
    if threads is None:
        threads = available_threads()
    elif isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InvalidArgumentError(
            f"`threads` is {threads!r}; a positive whole number, or None for all "
            f"{available_threads()} cores, is accepted."
        )
    return RuntimeOptions(device, precision, threads)


def available_threads() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
