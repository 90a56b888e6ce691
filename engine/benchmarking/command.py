"""``ldm-engine bench``: its options, and the order of what it does with them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from .. import console
from ..bundle import Bundle
from ..errors import BenchmarkError, InvalidArgumentError, LDMEngineError, OutputError
from ..files import make_folder, write_atomically
from ..manifest import open_bundle
from ..pipeline import needed_files
from ..request import check_request
from ..runtimes import Choice, resolve_options, select_runtimes
from ..version import __version__
from .comparison import check_comparable, compare, differences
from .document import read_results, to_json
from .environment import machine_facts, versions
from .measure import measure, prompts
from .results import (
    OFFLINE,
    SCENARIOS,
    SINGLE_STREAM,
    Case,
    Failure,
    Results,
    Settings,
    rows_of,
)
from .table import print_comparison, print_failure, print_results

_PATH = click.Path(path_type=Path)
_STDOUT = Path("-")
_MAX_BATCH_SIZE = 1024
_DEFAULT_BATCH_SIZES = "1,2,4,8"
_BUSY = 0.5  # of the cores, in the load average, before anything is measured


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise click.BadParameter(f"{value} is not a finite number, 0 or more.")
    return value


@click.command()
@click.argument("bundle", type=_PATH)
@click.option("--runtime", default="all", show_default=True, help="all, or the name of one.")
@click.option("--precision", default="all", show_default=True, help="all, or fp32, bf16, int8.")
@click.option(
    "--scenario",
    default=",".join(SCENARIOS),
    show_default=True,
    help="single-stream: one image after another, for latency. offline: batches, for throughput.",
)
@click.option(
    "--batch-size",
    metavar="N,N,...",
    help=f"Images at a time in the scenario offline.  [default: {_DEFAULT_BATCH_SIZES}]",
)
@click.option("--threads", type=int, help="Default: all cores of this process.")
@click.option("--num-inference-steps", type=int, default=50, show_default=True)
@click.option(
    "--guidance-scale",
    type=float,
    default=6.0,
    show_default=True,
    help="1.0 is off, which halves the UNet's batch.",
)
@click.option("--eta", type=float, default=0.0, show_default=True)
@click.option("--height", type=int, help="Pixels. Default: as trained.")
@click.option("--width", type=int, help="Pixels. Default: as trained.")
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Calls after the first one that do not count.",
)
@click.option(
    "--min-samples",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Calls that count, at least.",
)
@click.option(
    "--min-seconds",
    type=float,
    callback=_finite,
    default=2.0,
    show_default=True,
    help="Seconds of calls that count, at least.",
)
@click.option(
    "--json",
    "target",
    type=_PATH,
    metavar="FILE",
    help="Write all samples there; - is standard output, and the tables then go to the other.",
)
@click.option(
    "--compare",
    "baseline",
    type=_PATH,
    metavar="OLD.json",
    help="Say what is faster or slower than in this file of --json; fail on a slowdown.",
)
@click.option(
    "--tolerance",
    type=float,
    callback=_finite,
    default=0.05,
    show_default=True,
    help="The slowdown that --compare lets pass, as a part of the older time.",
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
    plan = _make_plan(open_bundle(bundle), **options)
    old = None
    if baseline is not None:
        old = read_results(baseline)
        rows = [r for s in plan.scenarios for c in plan.cases_of(s) for r in rows_of(c, s)]
        check_comparable(baseline, old, plan.settings, rows)
    if target is not None and target != _STDOUT:
        _check_target(target)
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
    faults = [f"{f.case} could not be measured" for f in results.failures]
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
        raise BenchmarkError(f"Not all is well; the tables above say more:\n{listing}")


@dataclass(frozen=True)
class _Plan:
    """What is to be measured, checked as far as can be without measuring."""

    bundle: Bundle
    selected: Sequence[tuple[Choice, str]]
    refusals: Sequence[str]
    settings: Settings
    scenarios: tuple[str, ...]
    batch_sizes: tuple[int, ...]

    def cases_of(self, scenario: str) -> list[Case]:
        sizes = (1,) if scenario == SINGLE_STREAM else self.batch_sizes
        return [Case(c.runtime.name, p, size) for c, p in self.selected for size in sizes]

    @property
    def cases(self) -> list[Case]:
        """The cases of all scenarios, each once, those of one configuration together."""
        sizes = {c.batch_size for s in self.scenarios for c in self.cases_of(s)}
        return [Case(c.runtime.name, p, size) for c, p in self.selected for size in sorted(sizes)]

    def check_files(self) -> None:
        """Refuse a damaged bundle once, rather than in every process."""
        self.bundle.check_changed_files(
            {f for c, p in self.selected for f in needed_files(self.bundle, c.runtime, p)}
        )


def _make_plan(
    bundle: Bundle,
    *,
    runtime: str,
    precision: str,
    scenario: str,
    batch_size: str | None,
    threads: int | None,
    warm_up: int,
    min_samples: int,
    min_seconds: float,
    **call: Any,
) -> _Plan:
    scenarios = _parse_scenarios(scenario)
    if batch_size is not None and OFFLINE not in scenarios:
        raise InvalidArgumentError(
            f"`--batch-size {batch_size}` is for the scenario offline; single-stream renders one "
            "image at a time. Leave it out, or add --scenario offline."
        )
    selected, refusals = select_runtimes(bundle, runtime, precision)
    request = check_request(bundle, prompt=prompts(1), **call)
    settings = Settings(
        **{**call, "height": request.height, "width": request.width},
        threads=resolve_options(selected[0][0].runtime, "cpu", selected[0][1], threads).threads,
        warm_up=warm_up,
        min_samples=min_samples,
        min_seconds=min_seconds,
    )
    sizes = _parse_batch_sizes(batch_size or _DEFAULT_BATCH_SIZES) if OFFLINE in scenarios else ()
    return _Plan(bundle, selected, refusals, settings, scenarios, sizes)


def _parse_scenarios(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise InvalidArgumentError(
            f"`--scenario` names {', '.join(map(repr, unknown))}; {' and '.join(SCENARIOS)} are "
            "accepted, one or both with a comma."
        )
    return tuple(name for name in SCENARIOS if name in names)


def _parse_batch_sizes(text: str) -> tuple[int, ...]:
    sizes = [size.strip() for size in text.split(",")]
    bad = [
        s for s in sizes if not re.fullmatch("[0-9]{1,5}", s) or not 0 < int(s) <= _MAX_BATCH_SIZE
    ]
    if bad:
        raise InvalidArgumentError(
            f"`--batch-size` names {', '.join(map(repr, bad))}; whole numbers from 1 to "
            f"{_MAX_BATCH_SIZE} are accepted, with commas: --batch-size {_DEFAULT_BATCH_SIZES}"
        )
    return tuple(sorted(set(map(int, sizes))))


def _check_target(target: Path) -> None:
    """Refuse a file that cannot be written, before minutes of measuring.

    Raises:
        OutputError: if it is none, or lies where nothing can be written.
    """
    if target.exists() and not (target.is_file() and os.access(target, os.W_OK)):
        raise OutputError(
            f"{target} is not a file that can be written. Give the name of one, or - for standard "
            "output."
        )
    make_folder(target.parent)


def _measure(plan: _Plan) -> Results:
    """Measure all cases; those that fail are told and noted. An interrupt ends it early."""
    load = os.getloadavg()[0]
    machine = machine_facts()
    if load > _BUSY * machine["threads"]:
        console.err.print(
            f"[yellow]Note:[/] this machine was busy in the last minute (load average {load:.1f}). "
            "What runs beside slows what is measured."
        )
    results = Results(
        date_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        is_complete=False,
        bundle_digest=plan.bundle.digest,
        bundle_source=plan.bundle.model.source,
        load_average=load,
        machine=machine,
        versions={
            "ldm-engine": __version__,
            **versions(["numpy"]),
            **{c.runtime.name: c.runtime.version() for c, _ in plan.selected},
        },
        settings=plan.settings,
        scenarios=plan.scenarios,
        batch_sizes=plan.batch_sizes,
        measurements=(),
        failures=(),
    )
    cases = plan.cases
    try:
        with console.timing_bar(len(cases)) as tell:
            for done, case in enumerate(cases):

                def begin(what: str, case: Case = case, done: int = done) -> None:
                    tell(done, f"{case}: {what}")

                try:
                    measured = measure(plan.bundle, case, plan.settings, begin)
                except LDMEngineError as error:
                    failure = Failure(case, str(error))
                    print_failure(failure, console.err)
                    results = replace(results, failures=(*results.failures, failure))
                else:
                    results = replace(results, measurements=(*results.measurements, measured))
    except KeyboardInterrupt:
        return results
    return replace(results, is_complete=True)


def _write(results: Results, target: Path | None) -> None:
    if target == _STDOUT:
        print(to_json(results), end="")
    elif target is not None:
        write_atomically(target, to_json(results).encode())
        console.err.print(f"All samples are in {target}.", markup=False)
