"""Programs and pictures of a bundle, compared with those of the model that it was exported from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

from ..bundle.bundle import Bundle
from ..bundle.contract import OPTIONAL_PROGRAMS
from ..errors import LDMEngineError, RuntimeUnavailableError, VerificationError
from ..runtimes.base import RuntimeOptions
from ..runtimes.choice import Choice
from ..sampling.opening import prepare
from ..sampling.pipeline import LDMTextToImagePipeline
from .cases import END_TO_END_KEY, Arrays, reference_cases, render_end_to_end, run_case
from .references import References
from .tolerances import (
    MIN_PSNR,
    Measure,
    end_to_end_tolerance,
    program_tolerance,
    relative_error,
    rounding_tolerance,
    worst_image_error,
)


@dataclass(frozen=True)
class Finding:
    """How far one output of one runtime lies from its reference.

    Errors are relative L2; that of the short loop's images in fp16 is relative to full scale.
    """

    runtime: str
    precision: str
    program: str
    label: str
    error: float
    tolerance: float
    note: str = ""  #: why there is no finite error

    @property
    def passed(self) -> bool:
        """Whether the error is within its tolerance."""
        return self.error <= self.tolerance


def check_runtime(
    bundle: Bundle,
    choice: Choice,
    options: RuntimeOptions,
    references: References,
    reduce: Callable[[NDArray[Any]], NDArray[Any]] = lambda values: values,
    on_check: Callable[[str], None] = lambda label: None,
) -> list[Finding]:
    """Run every case and the short loop with one runtime.

    `reduce` maps an output to what `references` holds of it: itself, or ``sample`` of it.

    Raises:
        RuntimeUnavailableError: if this machine turns out to lack what the runtime needs.
    """
    # Without the cache: what is checked is the bundle, not what was compiled from it earlier.
    check = _Check(bundle, choice, replace(options, cache=False), references, reduce)
    title = choice.runtime.name + (f" {options.precision}" if options.precision != "fp32" else "")
    title += f" on {options.device}" if options.device != "cpu" else ""
    findings: list[Finding] = []
    for name in bundle.programs:
        on_check(f"{title}: {name}")
        if not (name in OPTIONAL_PROGRAMS and _is_refused(bundle, choice, options, name)):
            findings += check.program(name)
    on_check(f"{title}: end to end")
    # After a failure it would only blur which program it is.
    if all(f.passed for f in findings if f.program not in OPTIONAL_PROGRAMS):
        findings.append(check.end_to_end())
    return findings


def _is_refused(bundle: Bundle, choice: Choice, options: RuntimeOptions, program: str) -> bool:
    """Whether the export recorded `program` as outside its tolerance in that."""
    return bool(bundle.outside(choice.runtime.name, options.precision, program))


@dataclass(frozen=True)
class _Check:
    """One runtime in one precision, and what its outputs are compared with."""

    bundle: Bundle
    choice: Choice
    options: RuntimeOptions
    references: References
    reduce: Callable[[NDArray[Any]], NDArray[Any]]

    def program(self, name: str) -> list[Finding]:
        """All cases of one program."""
        bundle, runtime = self.bundle, self.choice.runtime
        tolerance = program_tolerance(bundle, runtime, name, self.options.precision)
        try:
            opened = runtime.open(bundle, name, self.options)
        except RuntimeUnavailableError:  # the machine's fault, and not the bundle's
            raise
        except LDMEngineError as failure:
            return [self._finding((name, "opening"), float("inf"), tolerance, str(failure))]
        with opened:
            return [
                self._compare(
                    (name, case.label), partial(run_case, opened, case), tolerance, relative_error
                )
                for case in reference_cases(name, bundle.model)
                if runtime.covers(bundle, name, case.input_shapes)
            ]

    def end_to_end(self) -> Finding:
        """The images of the short loop."""
        precision = self.options.precision
        tolerance = end_to_end_tolerance(self.bundle, self.choice.runtime, precision)
        measure = worst_image_error if precision in MIN_PSNR else relative_error
        opened = prepare(self.bundle, self.choice, self.options)
        # Sequential, so that checking needs no more memory than the largest program does.
        with LDMTextToImagePipeline.from_opened(opened, memory="sequential") as pipe:
            return self._compare(
                END_TO_END_KEY, lambda: {"image": render_end_to_end(pipe)}, tolerance, measure
            )

    def _compare(
        self, key: tuple[str, str], run: Callable[[], Arrays], tolerance: float, measure: Measure
    ) -> Finding:
        tolerance = max(tolerance, rounding_tolerance(self.references.rounding.get(key, 0.0)))
        try:
            outputs = run()
        except RuntimeUnavailableError:
            raise
        except LDMEngineError as failure:
            return self._finding(key, float("inf"), tolerance, str(failure))
        expected = self.references[key]
        error = max(measure(self.reduce(v), expected[name]) for name, v in outputs.items())
        return self._finding(key, error, tolerance)

    def _finding(
        self, key: tuple[str, str], error: float, tolerance: float, note: str = ""
    ) -> Finding:
        runtime, precision = self.choice.runtime.name, self.options.precision
        return Finding(runtime, precision, *key, error, tolerance, note)


def require_passed(findings: list[Finding], what: str) -> None:
    """Raise ``VerificationError`` naming every finding outside its tolerance."""
    failed = [f for f in findings if not f.passed]
    if failed:
        listing = "\n".join(
            f"  - {f.program} in {f.runtime} {f.precision} ({f.label}): "
            f"relative error {f.error:.3g}, "
            f"tolerance {f.tolerance:.0e}" + (f": {f.note}" if f.note else "")
            for f in failed
        )
        raise VerificationError(
            f"{what} does not agree with the model it was exported from:\n{listing}\n"
            "Its images would be wrong. Try another version of the runtime, and report this."
        )
