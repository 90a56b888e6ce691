"""The command ``ldm-engine render``: its options, and how a signal ends it."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import click

from ..bundle.exporter import is_checkpoint
from ..errors import InvalidArgumentError, LDMEngineError
from ..rendering.jobs.rows import Defaults
from ..rendering.jobs.sources import FORMATS, STDIN, spooled
from ..rendering.options import EXECUTORS, IMAGES_PER_TAR, LAYOUTS, RunOptions
from ..rendering.run import Run
from ..runtimes.choice import MAX_THREADS
from ..sampling.recipes import IMAGE_FORMATS, QUALITY
from ..sampling.settings import MAX_SEED, common_settings
from . import console
from .bundles import bundle_folder
from .display import Reading, print_forecast, print_summary, shown
from .options import (
    NumberOrWord,
    check_option,
    mark_option,
    named,
    runtime_options,
    settings_options,
)


@click.command()
@click.argument("bundle")
@click.argument("jobs")
@click.option(
    *named("output"),
    required=True,
    help="Folder or fsspec URL for all that comes out; it must be given.",
)
@click.option("--jobs-format", type=click.Choice(FORMATS), help="Default: by the name's ending.")
@click.option("--strict", is_flag=True, help="Render nothing if any row cannot be rendered.")
@click.option(
    "--force", is_flag=True, help="Where OUTPUT holds another run, go to OUTPUT-2, -3, ... beside."
)
@click.option(
    "--replace-changed",
    is_flag=True,
    help="Make images again that were edited since. Default: report and leave them.",
)
@click.option(*named("num-images"), type=int, default=1, show_default=True, help="Images a job.")
@click.option(
    *named("seed"),
    type=click.IntRange(0, MAX_SEED),
    default=0,
    show_default=True,
    help="Seed of the run: added to the seeds that images without one get from their ids.",
)
@settings_options
@click.option(
    "--image-format", type=click.Choice(list(IMAGE_FORMATS)), default="png", show_default=True
)
@click.option(
    "--quality",
    type=int,
    help=f"Quality of jpeg and webp, 1 to 100. Default: {QUALITY}.",
)
@mark_option
@check_option
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default="files",
    show_default=True,
    help="A file an image, or tar archives for training pipelines.",
)
@click.option(
    "--images-per-tar",
    type=int,
    help=f"Images of one archive of webdataset. Default: {IMAGES_PER_TAR}.",
)
@click.option(
    "--batch-size",
    type=NumberOrWord("auto"),
    default="auto",
    show_default=True,
    help="auto measures for a moment which is fastest.",
)
@click.option(
    "--memory-limit",
    help="What --batch-size auto may use for all workers, e.g. 6GiB. Default: most that is free.",
)
@runtime_options
@click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    help="Threads of each process. Default: all cores, divided evenly.",
)
@click.option(
    "--workers", type=int, default=1, show_default=True, help="Rendering processes on this machine."
)
@click.option("--shard", default="1/1", metavar="I/N", help="Render part I of N, split by id.")
@click.option(
    "--executor",
    type=click.Choice(EXECUTORS),
    default="local",
    show_default=True,
    help="ray spreads --workers actors over a Ray cluster.",
)
@click.option(
    "--ray-address",
    help="Address of a Ray cluster. Default: RAY_ADDRESS, else a Ray that is started here.",
)
@click.option("--json-progress", is_flag=True, help="Print progress as JSON lines on stdout.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Read the jobs and what OUTPUT has, and print what would be rendered; write nothing.",
)
@console.output_options
def render(
    bundle: str,
    jobs: str,
    num_images: int,
    seed: int,
    json_progress: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Render all JOBS with BUNDLE into OUTPUT.

    JOBS is a file, folder, pattern or URL: .jsonl, .csv, .tsv, .parquet, or .txt with a prompt a
    line, also with .gz or .zst; or - for standard input. A run that was stopped, killed or failed
    goes on where it was when the same command is started again.
    """
    settings = {setting.name: options.pop(setting.name) for setting in common_settings()}
    if options["batch_size"] == "auto":
        options["batch_size"] = None
    run_options = RunOptions(**options)
    with ExitStack() as spool:
        folder = None
        if jobs == STDIN:
            if sys.stdin is None:
                raise LDMEngineError(
                    "Standard input is closed. Give a job file, or pipe jobs into it."
                )
            standard_input = spooled(sys.stdin.buffer, run_options.jobs_format)
            jobs, jobs_format = spool.enter_context(standard_input)
            run_options = replace(run_options, jobs_format=jobs_format)
            folder = ""
        defaults = Defaults(num_images, settings, seed)
        if dry_run and is_checkpoint(bundle):
            raise InvalidArgumentError(
                f"{bundle} is a checkpoint, which would be exported first, and a dry run writes "
                "nothing. Give a bundle, or render without --dry-run."
            )
        bundle = str(bundle_folder(bundle))
        run = Run(bundle, jobs, defaults, run_options, folder=folder)
        if dry_run:
            _forecast(run, json_progress)
        else:
            _render(run, json_progress, spool)


def _forecast(run: Run, as_json: bool) -> None:
    forecast = run.forecast()
    print_forecast(forecast, as_json)
    if not forecast.survey.total and forecast.survey.bad_rows:
        raise LDMEngineError("None of the jobs can be rendered.")


def _render(run: Run, json_progress: bool, spool: ExitStack) -> None:
    reading = Reading()
    try:
        with console.stoppable() as should_stop, shown(json_progress) as show:
            run.on_progress, run.should_stop = show, should_stop
            for record in run.records():
                reading.add(record)
    except KeyboardInterrupt:
        # The second one: files appear whole or not at all, so there is nothing to wait for.
        spool.close()
        console.err.print("Stopped at once; what is finished is kept.")
        os._exit(console.exit_code())
    summary = run.summary
    if summary is None:
        raise LDMEngineError("The run ended before it began. Start it again.")
    print_summary(summary, reading, json_progress)
    if summary.stopped:
        raise KeyboardInterrupt
    progress = summary.progress
    nothing_to_do = run.options.shard != "1/1" and not progress.total
    if progress.failed and not progress.done and not nothing_to_do:
        raise LDMEngineError(
            f"None of the jobs could be rendered; the reasons are in {summary.failures} there."
        )
