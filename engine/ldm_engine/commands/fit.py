"""The command ``ldm-engine fit``: solvers of few steps, fitted to a bundle and judged."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from ..bundle.bundle import MANIFEST, PROMPTS, Bundle
from ..bundle.manifest import open_bundle
from ..errors import InvalidArgumentError, OutputError
from ..fitting.prompts import hold_out, read_prompts
from ..fitting.reference import MARGIN_DB, STEPS
from ..fitting.saved import Saved
from ..fitting.tables import TableMaker, Work
from ..machine.cache import cache_folder
from ..machine.files import held, make_folder
from ..runtimes.choice import MAX_THREADS
from ..sampling.fitted import MAX_GAP, Origin, Table
from ..sampling.opening import Opened, open_to_run
from ..sampling.pipeline import LDMTextToImagePipeline
from ..sampling.settings import MAX_GUIDANCE
from ..sampling.solvers_file import MAX_STEPS, load_tables, save_tables
from ..sampling.values import number_text
from ..version import __version__
from . import console
from .options import ListOf, runtime_options
from .solver_tables import print_solvers

MIN_PROMPTS, MAX_PROMPTS = 8, 4096
MAX_IMAGES = 4096
#: Of a table that is kept, how far its least picture may be below that of DDIM's 50 steps.
FLOOR_BELOW_DDIM_DB = 3.0


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--steps",
    type=ListOf(int, 2, MAX_STEPS),
    default="10,12,14,16,18,20",
    show_default=True,
    help="Numbers of steps to fit a solver for.",
)
@click.option(
    "--guidance",
    type=ListOf(float, -MAX_GUIDANCE, MAX_GUIDANCE),
    default="6",
    show_default=True,
    help="Guidance scales to fit for. What lies between two of them, at most "
    f"{MAX_GAP:g} apart, is served by both.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Prompts of the kind that will be rendered, one a line; solvers are fitted to one half of "
    "them and judged on the other. Default: those that the bundle was exported with.",
)
@click.option(
    "--images",
    type=click.IntRange(4, MAX_IMAGES),
    default=32,
    show_default=True,
    help="Images to fit to.",
)
@click.option(
    "--held-out-images",
    type=click.IntRange(4, MAX_IMAGES),
    default=96,
    show_default=True,
    help="Images to judge on.",
)
@click.option(
    "--reference-steps",
    type=click.IntRange(min=10),
    default=STEPS,
    show_default=True,
    help="Steps to the converged pictures, by dpmsolver++. How near twice as many would come is "
    "measured; no figure better than that less 10 dB is believed.",
)
@click.option(
    "--floor",
    type=float,
    help="Keep no solver whose least PSNR is below this, in dB. Default: that of 50 steps of ddim, "
    f"less {FLOOR_BELOW_DDIM_DB:g}.",
)
@runtime_options
@click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    help="Threads. Default: all cores of this process.",
)
@console.debug_option
def fit(
    bundle: Path,
    steps: tuple[int, ...],
    guidance: tuple[float, ...],
    prompts: Path | None,
    images: int,
    held_out_images: int,
    reference_steps: int,
    floor: float | None,
    runtime: str,
    precision: str,
    device: str,
    threads: int | None,
) -> None:
    """Fit solvers of few steps to BUNDLE.

    For each guidance and number of steps the weights of a solver are computed that lead nearest to
    the converged pictures, by least squares over images of some prompts. How near its pictures are
    is then measured on other prompts, beside those of ddim and dpmsolver++, and written with the
    weights into the bundle's solvers.json. `--solver fitted` and `--num-inference-steps auto`, of
    every runtime and precision, take them from there. Run again, it goes on where it was stopped.
    """
    if floor is not None and not math.isfinite(floor):
        raise click.BadParameter(f"{floor} is given; a number of dB is accepted.")
    opened = open_to_run(
        bundle, runtime=runtime, precision=precision, device=device, threads=threads
    )
    trained = opened.limits.max_steps
    if steps[-1] > trained:
        raise click.BadParameter(
            f"{steps[-1]} steps are given; the model was trained with {trained}."
        )
    if reference_steps > trained // 2:  # which twice as many are to measure
        raise click.BadParameter(
            f"{reference_steps} reference steps are given or the default; at most {trained // 2}, "
            f"half of the timesteps that the model was trained with, are accepted."
        )
    texts = _read(opened.bundle, prompts)
    work = _plan(opened, texts, steps, images, held_out_images, reference_steps)
    make_folder(opened.bundle.path)  # whether it can be written to is known before the work
    opened.check_hashes()
    folder = _work_folder(opened, work)
    made = _make(opened, work, guidance, Saved(folder))
    dropped = [table for table in made if table.figures.least < _floor(table, floor)]
    kept = [table for table in made if table not in dropped]
    if kept:
        save(opened, kept)
    if folder is not None and not dropped:  # or with another floor it is wanted again
        shutil.rmtree(folder, ignore_errors=True)
    print_solvers(made)
    _warn_of_coarse_reference(made)
    for table in dropped:
        console.print_note(
            f"Not kept: {table.steps} steps at a guidance of {number_text(table.guidance_scale)}, "
            f"whose least picture is below the floor of {_floor(table, floor):.1f} dB."
        )
    if not kept:
        raise click.exceptions.Exit(console.EXIT_FAILURE)


def _floor(table: Table, given: float | None) -> float:
    return table.ddim_50.least - FLOOR_BELOW_DDIM_DB if given is None else given


def _warn_of_coarse_reference(made: Sequence[Table]) -> None:
    """Where DDIM's pictures are as near as can be seen, no solver can be shown to reach them."""
    for table in made:
        if table.ddim_50.median > table.reference_db - MARGIN_DB:
            console.print_note(
                f"At a guidance of {number_text(table.guidance_scale)} the converged pictures are "
                f"known to {table.reference_db:.1f} dB only. Give more --reference-steps."
            )
            return


def _read(bundle: Bundle, given: Path | None) -> tuple[str, ...]:
    """The prompts of the file `given`, else those that the bundle brings."""
    if given is None and PROMPTS not in bundle.files:
        raise InvalidArgumentError(
            f"{bundle.path} was exported without prompts. Give some of the kind that will be "
            "rendered with --prompts FILE, one a line."
        )
    return read_prompts(given or bundle.path / PROMPTS, "prompts", MIN_PROMPTS, MAX_PROMPTS)


def _plan(
    opened: Opened,
    texts: tuple[str, ...],
    steps: tuple[int, ...],
    images: int,
    held_out: int,
    reference_steps: int,
) -> Work:
    fitted_to, judged_on = hold_out(texts, 2)
    origin = Origin(
        runtime=opened.choice.runtime.name,
        precision=opened.options.precision,
        images=images,
        prompts_sha256=hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        version=__version__,
    )
    return Work(steps, fitted_to, judged_on, images, held_out, origin, reference_steps)


def _work_folder(opened: Opened, work: Work) -> Path | None:
    """Where what is computed on the way is kept until all is done."""
    key = repr((opened.bundle.digest, opened.options.device, work))
    folder = cache_folder("fits", hashlib.sha256(key.encode()).hexdigest()[:32])
    if folder is None:
        console.print_note("There is no cache folder; a fit that is stopped will begin anew.")
    return folder


def _make(opened: Opened, work: Work, guidance: tuple[float, ...], saved: Saved) -> list[Table]:
    with LDMTextToImagePipeline.from_opened(opened) as pipe:
        makers = [TableMaker(pipe, work, scale, saved) for scale in guidance]
        with console.call_bar(sum(maker.calls for maker in makers)) as advance:
            return [
                table
                for scale, maker in zip(guidance, makers, strict=True)
                for table in maker.tables(partial(advance, f"guidance {number_text(scale)}"))
            ]


def save(opened: Opened, kept: Sequence[Table]) -> None:
    """Add `kept` to the tables that the bundle has by now, others waiting meanwhile."""
    bundle = opened.bundle
    with held(bundle.path / MANIFEST):
        if open_bundle(bundle.path).digest != bundle.digest:
            raise OutputError(
                f"{bundle.path} was replaced by another bundle meanwhile; what was fitted does not "
                "belong to it. Put the first one back and run this again: it goes on where it was."
            )
        now = load_tables(bundle, opened.schedule)
        if now.fault:
            console.print_note(f"What could not be used is replaced: {now.fault}")
        save_tables(bundle, now.merged(kept), opened.schedule)
