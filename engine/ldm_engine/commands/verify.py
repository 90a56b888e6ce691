"""The command ``ldm-engine verify``: a bundle's files and outputs, checked."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from ..bundle.bundle import Bundle
from ..bundle.manifest import open_bundle
from ..checks.golden import TOLERANCE, GoldenResult, check_golden, why_not_applicable
from ..checks.references import load_references, sample
from ..checks.verification import Finding, check_runtime, require_passed
from ..errors import BundleError
from ..runtimes.choice import Choice, resolve_options, select_runtimes
from ..sampling.opening import choose_for
from ..sampling.pipeline import LDMTextToImagePipeline
from ..sampling.schedule import NoiseSchedule
from ..sampling.solvers_file import load_tables
from . import console
from .bundles import bundle_folder


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--runtime", default="all", show_default=True, help="all, or the name of one.")
@click.option("--precision", default="all", show_default=True, help="all, or the name of one.")
@click.option("--device", default="cpu", show_default=True, help="cpu, or gpu:0, gpu:1, ...")
@click.option(
    "--golden",
    is_flag=True,
    help="Compare with the published image slice of CompVis/ldm-text2im-large-256 as well.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as one JSON object.")
@console.debug_option
def verify(
    bundle: Path, runtime: str, precision: str, device: str, golden: bool, as_json: bool
) -> None:
    """Check BUNDLE's files and outputs.

    Every file's hash, then every program and a short loop against samples of the original model's
    outputs that the export left in the bundle, in every runtime and precision that this machine
    has. The checkpoint is not needed.
    """
    opened = open_bundle(bundle_folder(bundle))
    checks, refusals = select_runtimes(opened, runtime, precision, device)
    with console.byte_bar("hashing", sum(f.bytes for f in opened.files.values())) as on_bytes:
        opened.check_files(on_bytes=on_bytes)
    solvers = _count_solvers(opened)
    references = load_references(opened)
    for choice, used_precision in checks:
        refusals += console.refused_programs(opened, choice.runtime.name, used_precision)
    if not as_json:
        console.out.print(f"{len(opened.files)} files have the hashes that the manifest lists.")
        if solvers:
            console.out.print(f"{solvers} fitted solvers are whole, and of this bundle.")
        for refusal in refusals:
            console.err.print(f"Not checked: {refusal}", markup=False)
    findings = []
    with console.stages(len(checks) * (len(opened.programs) + 1)) as progress:
        for choice, used_precision in checks:
            options = resolve_options(choice.runtime, device, used_precision, None)
            findings += check_runtime(opened, choice, options, references, sample, progress)
    has_passed = all(finding.passed for finding in findings)
    published = _golden(opened, checks[0][0], device) if golden and has_passed else None
    if as_json:
        facts = {
            "bundle": str(opened.path),
            "digest": opened.digest,
            "files": len(opened.files),
            "solvers": solvers,
            "not_checked": refusals,
            "findings": [_as_json(finding) for finding in findings],
            "golden": asdict(published) if published else None,
            "passed": has_passed and (published is None or published.has_passed),
        }
        print(json.dumps(facts, indent=2))
    else:
        console.print_findings(findings)
    require_passed(findings, f"The bundle {bundle}")
    if published is not None:
        if not as_json:
            _print_golden(published)
        if not published.has_passed:
            raise click.exceptions.Exit(console.EXIT_FAILURE)


def _as_json(finding: Finding) -> dict[str, Any]:
    """A finding; JSON knows no infinity, which stands for an error that is none."""
    error = finding.error if math.isfinite(finding.error) else None
    return {**asdict(finding), "error": error, "passed": finding.passed}


def _count_solvers(bundle: Bundle) -> int:
    """The fitted solvers, once they are known to be whole.

    Raises:
        BundleError: if they are not.
    """
    tables = load_tables(bundle, NoiseSchedule.from_config(bundle.scheduler_config))
    if tables.fault:
        raise BundleError(tables.fault)
    return len(tables.tables)


@dataclass(frozen=True)
class _Golden:
    """How far the published image slice is away, or why it does not apply to the bundle."""

    result: GoldenResult | None
    not_applicable: str = ""

    @property
    def has_passed(self) -> bool:
        """Whether it is near enough, or does not apply."""
        return self.result is None or self.result.passed


def _golden(bundle: Bundle, choice: Choice, device: str) -> _Golden:
    reason = why_not_applicable(bundle)
    if reason:
        return _Golden(None, reason)
    runtime = choice.runtime.fp32_runtime or choice.runtime.name
    with LDMTextToImagePipeline.from_opened(
        choose_for(bundle, runtime, "fp32", device, None)
    ) as pipe:
        return _Golden(check_golden(pipe))


def _print_golden(golden: _Golden) -> None:
    if golden.result is None:
        console.out.print(f"golden: does not apply to this bundle: {golden.not_applicable}.")
        return
    verdict = "pass" if golden.result.passed else "FAIL"
    console.out.print(
        f"golden: {verdict}: the published slice is {golden.result.error:.2g} away at most; "
        f"{TOLERANCE:g} is tolerated."
    )
    if not golden.result.passed:
        console.out.print(
            "The weights or the scheduler config are not those that were published on the hub."
        )
