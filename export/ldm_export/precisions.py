"""Which precisions an export must hold; what else a machine offers is measured and recorded."""

from __future__ import annotations

from collections.abc import Sequence

from ldm_engine.errors import InvalidArgumentError, RuntimeUnavailableError
from ldm_engine.machine.device import Device
from ldm_engine.runtimes.choice import PRECISIONS, PREFERENCE, RUNTIMES
from ldm_engine.runtimes.gpu.tensorrt_build import FORMAT as TENSORRT

from .tensorrt_programs import BuildOptions


def required_precisions(
    require: Sequence[str], formats: Sequence[str], int8: bool, build: BuildOptions
) -> frozenset[str]:
    """fp32, int8 if it is added, and those of `require`, each of which can be measured here.

    Raises:
        InvalidArgumentError: if there is no such precision, or none in these formats.
        RuntimeUnavailableError: if this machine lacks what measuring one needs.
    """
    for precision in require:
        if precision not in PRECISIONS:
            raise InvalidArgumentError(
                f"`require` has {precision!r}; {', '.join(PRECISIONS)} is accepted."
            )
        is_built = TENSORRT in formats and precision == build.chosen_precision
        if not is_built:
            _check_measurable(precision, formats, int8)
    return frozenset({"fp32", *require, *(["int8"] if int8 else [])})


def _check_measurable(precision: str, formats: Sequence[str], int8: bool) -> None:
    if precision == "int8" and not int8:
        raise InvalidArgumentError("int8 is required and not exported. Add --int8.")
    on_cpu = [RUNTIMES[name] for name in PREFERENCE["cpu"]]
    readers = [r for r in on_cpu if r.format in formats and precision in r.precisions["cpu"]]
    if not readers:
        able = [r.format for r in on_cpu if precision in r.precisions["cpu"]]
        remedy = f"Add {' or '.join(able)} to --formats, or" if able else "Programs are checked on"
        remedy += " leave it out of --require." if able else " the CPU; leave it out of --require."
        raise InvalidArgumentError(
            f"{precision} is required, in which no runtime computes on the CPU from the formats "
            f"{', '.join(formats)}. {remedy}"
        )
    for runtime in readers:
        missing = runtime.missing(precision, Device.parse("cpu"))
        if missing:
            raise RuntimeUnavailableError(
                f"{precision} is required and cannot be measured here in {runtime.name}: "
                f"{'; '.join(missing)}. Export on a machine that has it, or leave it out of "
                "--require."
            )
