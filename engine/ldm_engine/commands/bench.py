"""``ldm-engine bench``: its options, and the order of what it does with them."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..benchmarking.comparison import check_comparable, compare, differences
from ..benchmarking.document import read_results, to_json
from ..benchmarking.measure import measure
from ..benchmarking.plan import DEFAULT_BATCH_SIZES, Plan, make_plan
from ..benchmarking.process import check_system
from ..benchmarking.results import SCENARIOS, Failure, Results, Source, call_settings
from ..bundle.manifest import open_bundle
from ..errors import BenchmarkError, LDMEngineError, OutputError
from ..machine.environment import load_average, machine_facts, versions
from ..machine.files import make_folder, write_atomically
from ..version import __version__
from . import console
from .bench_tables import print_comparison, print_failure, print_results
from .options import settings_options

_PATH = click.Path(path_type=Path)
_STDOUT = Path("-")
_BUSY = 0.5  # of the cores, in the load average, before anything is measured


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise click.BadParameter(f"{value} is not a finite number, 0 or more.")
    return value


@click.command()
@click.argument("bundle", type=_PATH)
@click.option("--runtime", default="all", show_default=True, help="Runtime to measure, or all.")
@click.option("--precision", default="all", show_default=True, help="Precision to measure, or all.")
@click.option(
    "--scenario",
    default=",".join(SCENARIOS),
    show_default=True,
    help="Scenarios to measure. single-stream: one image after another, for latency. offline: "
    "batches, for throughput.",
)
@click.option(
    "--batch-size",
    metavar="N,N,...",
    help=f"Batch sizes of the scenario offline.  [default: {DEFAULT_BATCH_SIZES}]",
)
@click.option("--threads", type=int, help="Cores to use. Default: all of this process.")
@partial(settings_options, settings=call_settings())
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Number of calls after the first that are not counted.",
)
@click.option(
    "--min-samples",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Least number of counted calls.",
)
@click.option(
    "--min-seconds",
    type=float,
    callback=_finite,
    default=2.0,
    show_default=True,
    help="Least duration of all counted calls, in seconds.",
)
@click.option(
    "--json",
    "target",
    type=_PATH,
    metavar="FILE",
    help="File for all samples; - is standard output, and the tables then go to standard error.",
)
@click.option(
    "--compare",
    "baseline",
    type=_PATH,
    metavar="OLD.json",
    help="File of an earlier --json to compare with; a slowdown makes the command fail.",
)
@click.option(
    "--tolerance",
    type=float,
    callback=_finite,
    default=0.05,
    show_default=True,
    help="Slowdown that --compare accepts, as a fraction of the older time.",
)
@console.debug_option
def bench(
    bundle: Path, target: Path | None, baseline: Path | None, tolerance: float, **options: Any
) -> None:
    """Measure how fast BUNDLE renders on this machine, and what it needs.

    Every runtime and precision, at every batch size, in a fresh process. Latency is that of whole
    calls and of each stage; load time, first call and peak memory stand apart. With --compare, the
    exit code is 1 if a call or the UNet became slower beyond the tolerance.
    """
    check_system()
    plan = make_plan(open_bundle(bundle), **options)
    old = None
    if baseline is not None:
        old = read_results(baseline)
        check_comparable(baseline, old, plan.settings, plan.rows)
    if target is not None and target != _STDOUT:
        target = _check_target(target)
    with console.busy("hashing"):
        plan.check_files()
    for refusal in plan.refusals:
        console.err.print(f"Not measured: {refusal}", markup=False)
    to = console.err if target == _STDOUT else console.out
    results = _measure(plan)
    if results.measurements:
        print_results(results, to)
        _write(results, target)
    if not results.is_complete:
        raise KeyboardInterrupt
    faults = [f"{f} could not be measured" for f in results.failures]
    if old is not None:
        compared = compare(old, results)
        print_comparison(compared, differences(old, results), tolerance, to)
        faults += [
            f"{c.row} takes {c.ratio.value:.3f} times as long as before"
            for c in compared
            if c.ratio is not None and c.is_slowdown(tolerance)
        ]
    if faults:
        listing = "\n".join(f"  - {fault}" for fault in faults)
        raise BenchmarkError(f"The benchmark did not pass; details are above:\n{listing}")


def _check_target(target: Path) -> Path:
    """Where the file `target` really lies; refuses one that cannot be written, before measuring.

    Raises:
        OutputError: if it is a folder or a device, or lies where nothing can be written.
    """
    resolved = Path(os.path.realpath(target))
    if resolved.exists() and not (resolved.is_file() and os.access(resolved, os.W_OK)):
        raise OutputError(
            f"{target} is not a file that can be written. Give the name of one, or - for standard "
            "output."
        )
    make_folder(resolved.parent)
    return resolved


def _measure(plan: Plan) -> Results:
    """Measure all cases; those that fail are reported and noted. An interrupt ends it early."""
    results = _begin(plan)
    cases = plan.cases
    try:
        with console.timing_bar(len(cases)) as show:
            for done, case in enumerate(cases):
                try:
                    measured = measure(
                        plan.bundle,
                        case,
                        plan.settings,
                        partial(show, done),
                        console.is_debugging(),
                    )
                except LDMEngineError as error:
                    failure = Failure(**asdict(case), reason=str(error))
                    print_failure(failure, console.err)
                    results = replace(results, failures=(*results.failures, failure))
                else:
                    results = replace(results, measurements=(*results.measurements, measured))
    except KeyboardInterrupt:
        return results
    return replace(results, is_complete=True)


def _begin(plan: Plan) -> Results:
    """Results without a measurement, as of now."""
    load, machine = load_average(), machine_facts()
    if load > _BUSY * machine["threads"]:
        console.err.print(
            f"[yellow]Note:[/] this machine was busy in the last minute (load average {load:.1f}). "
            "What runs beside slows what is measured."
        )
    runtimes = {choice.runtime.name: choice.runtime.version() for choice, _ in plan.selected}
    return Results(
        date_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        is_complete=False,
        bundle=Source(plan.bundle.digest, plan.bundle.model.source),
        load_average=load,
        machine=machine,
        versions={"ldm-engine": __version__, **versions(["numpy"]), **runtimes},
        settings=plan.settings,
        scenarios=plan.scenarios,
        batch_sizes=plan.batch_sizes,
        measurements=(),
        failures=(),
    )


def _write(results: Results, target: Path | None) -> None:
    if target == _STDOUT:
        print(to_json(results), end="")
    elif target is not None:
        write_atomically(target, to_json(results).encode())
        console.err.print(f"All samples are in {target}.", markup=False)
