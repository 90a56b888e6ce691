"""The command ``ldm-engine verify``: a bundle's files and outputs, checked."""

from __future__ import annotations

from pathlib import Path

import click

from ..bundle.bundle import Bundle
from ..bundle.manifest import open_bundle
from ..checks.golden import TOLERANCE, check_golden, why_not_applicable
from ..checks.references import load_references, sample
from ..checks.verification import check_runtime, require_passed
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
@console.debug_option
def verify(bundle: Path, runtime: str, precision: str, device: str, golden: bool) -> None:
    """Check BUNDLE's files and outputs.

    Every file's hash, then every program and a short loop against samples of the original model's
    outputs that the export left in the bundle, in every runtime and precision that this machine
    has. The checkpoint is not needed.
    """
    opened = open_bundle(bundle_folder(bundle))
    checks, refusals = select_runtimes(opened, runtime, precision, device)
    with console.byte_bar("hashing", sum(f.bytes for f in opened.files.values())) as on_bytes:
        opened.check_files(on_bytes=on_bytes)
    console.out.print(f"{len(opened.files)} files have the hashes that the manifest lists.")
    _check_solvers(opened)
    references = load_references(opened)
    for choice, used_precision in checks:
        refusals += console.refused_programs(opened, choice.runtime.name, used_precision)
    for refusal in refusals:
        console.err.print(f"Not checked: {refusal}", markup=False)
    findings = []
    with console.stages(len(checks) * (len(opened.programs) + 1)) as progress:
        for choice, used_precision in checks:
            options = resolve_options(choice.runtime, device, used_precision, None)
            findings += check_runtime(opened, choice, options, references, sample, progress)
    console.print_findings(findings)
    require_passed(findings, f"The bundle {bundle}")
    if golden:
        _verify_golden(opened, checks[0][0], device)


def _check_solvers(bundle: Bundle) -> None:
    tables = load_tables(bundle, NoiseSchedule.from_config(bundle.scheduler_config))
    if tables.fault:
        raise BundleError(tables.fault)
    if tables.tables:
        console.out.print(f"{len(tables.tables)} fitted solvers are whole, and of this bundle.")


def _verify_golden(bundle: Bundle, choice: Choice, device: str) -> None:
    reason = why_not_applicable(bundle)
    if reason:
        console.out.print(f"golden: does not apply to this bundle: {reason}.")
        return
    runtime = choice.runtime.fp32_runtime or choice.runtime.name
    with LDMTextToImagePipeline.from_opened(
        choose_for(bundle, runtime, "fp32", device, None)
    ) as pipe:
        result = check_golden(pipe)
    verdict = "pass" if result.passed else "FAIL"
    console.out.print(
        f"golden: {verdict}: the published slice is {result.error:.2g} away at most; "
        f"{TOLERANCE:g} is tolerated."
    )
    if not result.passed:
        console.out.print(
            "The weights or the scheduler config are not those that were published on the hub."
        )
        raise click.exceptions.Exit(console.EXIT_FAILURE)
