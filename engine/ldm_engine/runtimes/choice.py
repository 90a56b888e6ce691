"""The runtimes, the options they accept, and which one a bundle gets on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.contract import PROGRAMS
from ..errors import InvalidArgumentError, RuntimeUnavailableError
from ..machine.cpu import available_threads
from ..machine.device import Device
from .base import Program, Runtime, RuntimeOptions, program_precision, weight_bytes
from .gpu.tensorrt import TensorRTRuntime
from .onnxruntime import (
    ONNXRuntimeMappedRuntime,
    ONNXRuntimeRuntime,
    ONNXRuntimeTensorRTRuntime,
)
from .openvino import OpenVINORuntime
from .paddle import PaddleRuntime

__all__ = [
    "MAX_THREADS",
    "PRECISIONS",
    "PREFERENCE",
    "RUNTIMES",
    "Choice",
    "Device",
    "Program",
    "Runtime",
    "RuntimeOptions",
    "check_options",
    "choose_runtime",
    "program_precision",
    "resolve_options",
    "select_runtimes",
    "usable_runtimes",
    "weight_bytes",
]

MAX_THREADS = 1024  #: libraries abort the process when they cannot start their threads
PRECISIONS = ("fp32", "fp16", "bf16", "int8")

RUNTIMES: dict[str, Runtime] = {
    r.name: r
    for r in (
        OpenVINORuntime(),
        ONNXRuntimeRuntime(),
        ONNXRuntimeMappedRuntime(),
        PaddleRuntime(),
        TensorRTRuntime(),
        ONNXRuntimeTensorRTRuntime(),
    )
}
MAPPED = ONNXRuntimeMappedRuntime.name  #: the runtime of ``memory="mapped"``
#: For each kind of device the order in which ``runtime="auto"`` prefers runtimes:
#: docs/runtimes.md and docs/gpu.md give reasons.
PREFERENCE = {
    "cpu": ("openvino", "onnxruntime", "paddle"),
    "gpu": ("tensorrt", "paddle", "onnxruntime", "onnxruntime-tensorrt"),
}


@dataclass(frozen=True)
class Choice:
    """A runtime and why it was chosen."""

    runtime: Runtime
    reason: str


def choose_runtime(
    bundle: Bundle, name: str = "auto", precision: str = "fp32", device: str = "cpu"
) -> Choice:
    """The runtime called `name`, or for "auto" the first that can open `bundle` on `device` here.

    Raises:
        InvalidArgumentError: naming each of runtime, precision and device that does not exist.
        RuntimeUnavailableError: if it is not installed, the bundle lacks its format, or it does
            not offer the precision or the device.
    """
    require(check_options(name, precision, device))
    where = Device.parse(device)
    if name != "auto":
        obstacles = _obstacles(bundle, RUNTIMES[name], precision, where)
        if obstacles:
            raise RuntimeUnavailableError(_refusal(name, precision, where, obstacles))
        return Choice(RUNTIMES[name], "requested")
    candidates = [RUNTIMES[name] for name in PREFERENCE[where.kind]]
    if where.kind == "gpu":
        candidates = [r for r in candidates if r.format in bundle.formats] or candidates
    passed_over: dict[str, list[str]] = {}  # obstacle -> names of runtimes
    for runtime in candidates:
        obstacles = _obstacles(bundle, runtime, precision, where)
        if not obstacles:
            # On GPUs nothing was measured yet.
            first = "fastest" if where.kind == "cpu" else "first in the order of preference"
            reason = f"the {first} that this bundle has a format for and this machine has installed"
            if passed_over:
                reason += f" ({_listing(passed_over)})"
            return Choice(runtime, reason)
        for obstacle in obstacles:
            passed_over.setdefault(obstacle, []).append(runtime.name)
    raise RuntimeUnavailableError(
        f"No installed runtime can open this bundle for {_aim(precision, where)}: "
        f"{_listing(passed_over)}."
    )


def check_mapped(runtime: object) -> list[str]:
    """What is wrong with a `runtime` whose place ``MAPPED`` is to take."""
    if runtime in ("auto", "onnxruntime", MAPPED):
        return []
    return [
        f"`memory` is 'mapped' and `runtime` {runtime!r}; auto and onnxruntime are accepted with "
        "it."
    ]


def usable_runtimes(bundle: Bundle, device: str = "cpu") -> list[tuple[Choice, str]]:
    """Every runtime and precision that can run `bundle` on this machine's `device`."""
    return _sort_runtimes(bundle, "all", "all", device)[0]


def select_runtimes(
    bundle: Bundle, runtime: str, precision: str, device: str = "cpu"
) -> tuple[list[tuple[Choice, str]], list[str]]:
    """The choices among one or "all" runtimes and precisions, and why the rest are refused.

    Raises:
        InvalidArgumentError: naming each of runtime, precision and device that does not exist.
        RuntimeUnavailableError: if all are refused, with every reason.
    """
    require(
        [
            f"`{option}` is {given!r}; all or one of {', '.join(names)} is accepted."
            for option, given, names in (
                ("runtime", runtime, tuple(RUNTIMES)),
                ("precision", precision, PRECISIONS),
            )
            if given not in ("all", *names)
        ]
        + check_options(device=device)
    )
    usable, refusals = _sort_runtimes(bundle, runtime, precision, device)
    if not usable:
        raise RuntimeUnavailableError("\n".join(refusals))
    return usable, refusals


def _sort_runtimes(
    bundle: Bundle, runtime: str, precision: str, device: str
) -> tuple[list[tuple[Choice, str]], list[str]]:
    usable: list[tuple[Choice, str]] = []
    refusals: list[str] = []
    where = Device.parse(device)
    names = [*PREFERENCE[where.kind], MAPPED] if where.kind == "cpu" else PREFERENCE[where.kind]
    for name in names if runtime == "all" else [runtime]:
        refused: dict[tuple[str, ...], list[str]] = {}
        for used in _offered_on(where.kind) if precision == "all" else [precision]:
            obstacles = _obstacles(bundle, RUNTIMES[name], used, where)
            if obstacles:
                refused.setdefault(tuple(obstacles), []).append(used)
            else:
                usable.append((Choice(RUNTIMES[name], "requested"), used))
        refusals += [_refusal(name, ", ".join(p), where, o) for o, p in refused.items()]
    return usable, refusals


def _offered_on(kind: str) -> list[str]:
    """The precisions that any runtime has on that kind of device."""
    runtimes = [RUNTIMES[name] for name in PREFERENCE[kind]]
    return [p for p in PRECISIONS if any(p in r.precisions[kind] for r in runtimes)]


def _refusal(runtime: str, precision: str, device: Device, obstacles: Sequence[str]) -> str:
    aim = _aim(precision, device)
    return f"The runtime {runtime} cannot be used for {aim}: {'; '.join(obstacles)}."


def _listing(passed_over: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{', '.join(names)}: {what}" for what, names in passed_over.items())


def _aim(precision: str, device: Device) -> str:
    return precision if device.kind == "cpu" else f"{precision} on {device}"


def _obstacles(bundle: Bundle, runtime: Runtime, precision: str, device: Device) -> list[str]:
    """Why `runtime` cannot run `bundle` in `precision` on `device` here; empty if it can."""
    if device.kind not in runtime.precisions:
        return [f"it runs on {_kinds(runtime)} only, not on {device}"]
    wrong = _no_precision(runtime, precision, device) or _outside(bundle, runtime, precision)
    if wrong:
        return [wrong]
    no_program = _no_program(bundle, runtime, precision)
    if device.kind == "cpu" and no_program:
        return [no_program]
    # All together: exporting again does not help where there is no GPU.
    lacks = [*runtime.missing(precision, device), no_program]
    if not any(lacks):
        lacks.append(runtime.mismatch(bundle, precision, device))
    return [obstacle for obstacle in lacks if obstacle]


def _kinds(runtime: Runtime) -> str:
    return " and ".join({"cpu": "the CPU", "gpu": "GPUs"}[kind] for kind in runtime.precisions)


def _no_precision(runtime: Runtime, precision: str, device: Device) -> str | None:
    offered = runtime.precisions[device.kind]
    if precision in offered:
        return None
    where = {"cpu": "the CPU", "gpu": "GPUs"}[device.kind]
    elsewhere = device.kind == "cpu" and precision in runtime.precisions.get("gpu", ())
    hint = f', in {precision} on GPUs (device="gpu:0")' if elsewhere else ""
    return f"on {where} it computes in {', '.join(offered)} only{hint}"


def _no_format(bundle: Bundle, runtime: Runtime) -> str | None:
    if runtime.format in bundle.formats:
        return None
    present = ", ".join(bundle.formats) or "no format"
    wanted = ",".join([*bundle.formats, runtime.format])
    return f"the bundle holds {present}, not {runtime.format}; export again with --formats {wanted}"


def _no_program(bundle: Bundle, runtime: Runtime, precision: str) -> str | None:
    for name in PROGRAMS:  # an optional one is looked at when it is used
        if runtime.format_of(name, precision) not in bundle.programs[name].formats:
            return _no_format(bundle, runtime) or (
                f"the bundle holds no {precision} {name}; "
                f"export again with --formats {','.join(bundle.formats)} --{precision}"
            )
    return None


def _outside(bundle: Bundle, runtime: Runtime, precision: str) -> str | None:
    """Why its pictures would be wrong, as the export found."""
    measured = bundle.outside(runtime.name, precision)
    if not measured:
        return None
    return (
        f"the export measured this model outside its tolerance in it ({measured}); use another "
        "precision, such as fp32"
    )


def check_options(
    runtime: object = "auto",
    precision: object = "fp32",
    device: object = "cpu",
    threads: object = None,
) -> list[str]:
    """What is wrong with these options on any machine, a sentence each; nothing is raised."""
    violations = []
    if not isinstance(runtime, str) or runtime not in ("auto", *RUNTIMES):
        violations.append(f"`runtime` is {runtime!r}; auto or {', '.join(RUNTIMES)} is accepted.")
    if not isinstance(precision, str) or precision not in PRECISIONS:
        violations.append(f"`precision` is {precision!r}; {', '.join(PRECISIONS)} is accepted.")
    try:
        Device.parse(device)
    except InvalidArgumentError as error:
        violations.append(str(error))
    if threads is not None and not _is_whole(threads, MAX_THREADS):
        violations.append(
            f"`threads` is {threads!r}; a whole number from 1 to {MAX_THREADS}, or None for all "
            f"{available_threads()} cores, is accepted."
        )
    return violations


def require(violations: Sequence[str]) -> None:
    """Raise ``InvalidArgumentError`` for what ``check_options`` found."""
    if violations:
        raise InvalidArgumentError("\n".join(violations))


def resolve_options(
    runtime: Runtime, device: str, precision: str, threads: int | None
) -> RuntimeOptions:
    """The options for a runtime that was chosen for them, with defaults filled in.

    Raises:
        InvalidArgumentError: if a value is none that any runtime accepts.
        RuntimeUnavailableError: if this runtime does not run on that device.
    """
    require(check_options(precision=precision, device=device, threads=threads))
    where = Device.parse(device)
    if where.kind not in runtime.precisions:
        raise RuntimeUnavailableError(
            f"`device` is {device!r}; the {runtime.name} runtime of this version runs on "
            f"{_kinds(runtime)} only."
        )
    return RuntimeOptions(
        str(where), precision, available_threads() if threads is None else int(threads)
    )


def _is_whole(value: Any, most: int) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and bool(1 <= value <= most)
