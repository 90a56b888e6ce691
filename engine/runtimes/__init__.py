"""Which runtimes there are, and which one a bundle gets on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..bundle import Bundle
from ..cpu import available_threads, supports_bf16
from ..errors import InvalidArgumentError, RuntimeUnavailableError
from .base import Program, Runtime, RuntimeOptions, program_precision, weight_bytes
from .onnxruntime import ONNXRuntimeRuntime
from .openvino import OpenVINORuntime
from .paddle import PaddleRuntime

__all__ = [
    "PRECISIONS",
    "RUNTIMES",
    "Choice",
    "Program",
    "Runtime",
    "RuntimeOptions",
    "choose_runtime",
    "program_precision",
    "resolve_options",
    "select_runtimes",
    "usable_runtimes",
    "weight_bytes",
]

MAX_THREADS = 1024  #: libraries abort the process when they cannot start their threads
PRECISIONS = ("fp32", "bf16", "int8")
_DEVICE = re.compile(r"cpu|gpu(:\d+)?")

#: In the order in which ``runtime="auto"`` prefers them, which docs/runtimes.md gives reasons for.
RUNTIMES: dict[str, Runtime] = {
    r.name: r for r in (OpenVINORuntime(), ONNXRuntimeRuntime(), PaddleRuntime())
}


@dataclass(frozen=True)
class Choice:
    """A runtime and why it was chosen."""

    runtime: Runtime
    reason: str


def choose_runtime(bundle: Bundle, name: str = "auto", precision: str = "fp32") -> Choice:
    """The runtime called `name`, or for "auto" the first that can open `bundle` here.

    Raises:
        InvalidArgumentError: if there is no runtime or no precision of that name.
        RuntimeUnavailableError: if it is not installed, the bundle lacks its format, or the
            precision is not to be had.
    """
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise InvalidArgumentError(
            f"`precision` is {precision!r}; {', '.join(PRECISIONS)} is accepted."
        )
    if name != "auto":
        if not isinstance(name, str) or name not in RUNTIMES:
            raise InvalidArgumentError(
                f"`runtime` is {name!r}; auto or {', '.join(RUNTIMES)} is accepted."
            )
        obstacle = _obstacle(bundle, RUNTIMES[name], precision)
        if obstacle:
            raise RuntimeUnavailableError(
                f"The runtime {name} cannot be used for {precision}: {obstacle}."
            )
        return Choice(RUNTIMES[name], "asked for")
    passed_over: list[str] = []
    for runtime in RUNTIMES.values():
        obstacle = _obstacle(bundle, runtime, precision)
        if not obstacle:
            reason = "the fastest that this bundle has a format for and this machine has installed"
            if passed_over:
                reason += f" ({'; '.join(passed_over)})"
            return Choice(runtime, reason)
        passed_over.append(f"{runtime.name}: {obstacle}")
    raise RuntimeUnavailableError(
        f"No installed runtime can open this bundle for {precision}: {'; '.join(passed_over)}."
    )


def usable_runtimes(bundle: Bundle) -> list[tuple[Choice, str]]:
    """Every runtime and precision that can run `bundle` on this machine."""
    return _sort_runtimes(bundle, "all", "all")[0]


def select_runtimes(
    bundle: Bundle, runtime: str, precision: str
) -> tuple[list[tuple[Choice, str]], list[str]]:
    """What can run `bundle` here of one or "all" runtimes and precisions, and why the rest cannot.

    Raises:
        InvalidArgumentError: if there is no runtime or no precision of that name.
        RuntimeUnavailableError: if none can, with all the reasons.
    """
    for what, given, known in (
        ("runtime", runtime, RUNTIMES),
        ("precision", precision, PRECISIONS),
    ):
        if given != "all" and given not in known:
            raise InvalidArgumentError(
                f"`{what}` is {given!r}; all or one of {', '.join(known)} is accepted."
            )
    usable, refusals = _sort_runtimes(bundle, runtime, precision)
    if not usable:
        raise RuntimeUnavailableError("\n".join(refusals))
    return usable, refusals


def _sort_runtimes(
    bundle: Bundle, runtime: str, precision: str
) -> tuple[list[tuple[Choice, str]], list[str]]:
    usable, refusals = [], []
    for name in RUNTIMES if runtime == "all" else [runtime]:
        for used in PRECISIONS if precision == "all" else [precision]:
            try:
                usable.append((choose_runtime(bundle, name, used), used))
            except RuntimeUnavailableError as error:
                refusals.append(str(error))
    return usable, refusals


def _obstacle(bundle: Bundle, runtime: Runtime, precision: str) -> str | None:
    """Why `runtime` cannot run `bundle` in `precision` here, or None."""
    if runtime.format not in bundle.formats:
        held = ", ".join(bundle.formats) or "no format"
        wanted = ",".join([*bundle.formats, runtime.format])
        return (
            f"the bundle holds {held}, not {runtime.format}; export again with --formats {wanted}"
        )
    if precision not in runtime.precisions:
        return f"it computes in {', '.join(runtime.precisions)} only"
    for name, program in bundle.programs.items():
        if runtime.format_of(name, precision) not in program.formats:
            return (
                f"the bundle holds no {precision} {name}; "
                f"export again with --formats {','.join(bundle.formats)} --{precision}"
            )
    if runtime.version() is None:
        return f"it is not installed; install it with: {runtime.install}"
    if precision == "bf16" and not supports_bf16():
        return "this CPU has no bf16 instructions (avx512_bf16 or amx_bf16); use fp32"
    return None


def resolve_options(
    runtime: Runtime, device: str, precision: str, threads: int | None
) -> RuntimeOptions:
    """Check device and threads, and fill in the thread count; `precision` was chosen for before.

    Raises:
        InvalidArgumentError: if a value is none that any runtime knows.
        RuntimeUnavailableError: if this runtime does not offer that device.
    """
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        offered = ", ".join(runtime.devices)
        raise InvalidArgumentError(f"`device` is {device!r}; {offered} is accepted.")
    if device not in runtime.devices:
        raise RuntimeUnavailableError(
            f"`device` is {device!r}; the {runtime.name} runtime of this version offers "
            f"{', '.join(runtime.devices)} only."
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
