"""``ldm_engine.render``: a run of jobs from Python, run as a whole or record by record."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Generator
from dataclasses import fields
from typing import Any

from ..bundle.exporter import exported, is_checkpoint
from ..errors import ArgumentTypeError, LDMEngineError
from ..machine.bars import BarOptions, drawn_bar
from ..machine.events import LOG
from ..machine.remote import absolute
from ..sampling.settings import common_settings, default_values
from .execution import Progress
from .jobs.rows import Defaults
from .jobs.sources import Jobs
from .options import RunOptions
from .records import Outcome
from .run import Run
from .summary import Summary


class RenderRun:
    """A run that was prepared, and renders once: by ``run()``, or as it is iterated over.

    One that is dropped without either warns with a ``ResourceWarning``.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._records: Generator[Outcome, None, None] | None = None

    def run(self, *, progress_bar: bool = True) -> Summary:
        """Render all that is left to be rendered.

        Args:
            progress_bar: draw a progress bar on stderr, where that is a terminal.

        Returns:
            What the run came to, with how many images were rendered and failed.

        Raises:
            LDMEngineError: whatever stops the run, or that it was begun before; a later run goes on
                from there.
        """
        if self._records is not None:
            raise LDMEngineError(
                "This run was begun before, and renders once. Call ldm_engine.render() again, "
                "which goes on where it ended."
            )
        on_progress = self._run.on_progress
        with drawn_bar(BarOptions(disable=not progress_bar)) as bar:

            def show(progress: Progress) -> None:
                bar.reach(progress.total - progress.to_do, progress.total, "rendering")
                on_progress(progress)

            bar.begin("reading the jobs")
            self._run.on_progress = show
            for _ in self:
                pass
        if self._run.summary is None:
            raise LDMEngineError("The run ended before it began. Start it again.")
        return self._run.summary

    @property
    def summary(self) -> Summary | None:
        """What the run has come to so far; None before it has begun."""
        return self._run.summary

    def __iter__(self) -> RenderRun:
        return self

    def __next__(self) -> Outcome:
        """Render until the next image is finished, and give its record."""
        if self._records is None:
            self._records = self._run.records()
        return next(self._records)

    def close(self) -> None:
        """Stop; what is finished is kept."""
        if self._records is None:
            self._records = self._run.records()
        self._records.close()

    def __repr__(self) -> str:
        state = "begun" if self._records is not None else "not begun: call .run(), or iterate"
        return f"<RenderRun into {self._run.options.output}, {state}>"

    def __del__(self) -> None:
        if getattr(self, "_records", ()) is None:
            warnings.warn(
                f"A run into {self._run.options.output} was prepared and never began: nothing was "
                "rendered. Call .run(), or iterate over it.",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


def render(
    bundle: str | os.PathLike[str],
    jobs: Jobs,
    *,
    output: str | os.PathLike[str],
    num_images: int = 1,
    seed: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **options: Any,
) -> RenderRun:
    """Render `jobs` into `output` as ``ldm-engine render`` does.

    What an earlier call finished there is kept and not rendered again.

    Args:
        bundle: the bundle's folder; or a checkpoint, as of
            ``LDMTextToImagePipeline.from_pretrained``.
        jobs: a job file's path or URL, or rows: prompts, or mappings with the fields of a job.
        output: folder or fsspec URL.
        num_images: for jobs that do not say otherwise.
        seed: added to the seeds that images without one of their own get from their ids.
        on_progress: called with how far the run is, after each batch.
        options: the settings of images (``num_inference_steps``, ``guidance_scale``, ``eta``,
            ``negative_prompt``, ``height``, ``width``: see ``LDMTextToImagePipeline``) for jobs
            that do not say otherwise, and the fields of
            ``ldm_engine.rendering.options.RunOptions``.

    Returns:
        A run that is yet to be used. ``run()`` renders all and returns a summary; or iterate over
        it, which renders as it goes on, and gives the record of each image that is finished, as
        it stands in ``records.jsonl``. Jobs that fail are in ``failures.jsonl``.

    Raises:
        ArgumentTypeError: if there is no option of that name, at once.
        InvalidArgumentError: naming all fields of ``RunOptions`` that are not accepted, at once.
        LDMEngineError: whatever stops the run; a later call goes on from there.
    """
    settings = default_values()
    names = {field.name for field in fields(RunOptions)} - {"output"}
    if unknown := options.keys() - settings.keys() - names:
        raise ArgumentTypeError(
            f"{', '.join(sorted(unknown))} is no option of render; "
            f"{', '.join(sorted(names | settings.keys()))} are accepted."
        )
    settings.update((name, options.pop(name)) for name in settings.keys() & options.keys())
    for setting in common_settings():
        path = settings[setting.name]
        if setting.is_picture and isinstance(path, (str, os.PathLike)):
            settings[setting.name] = _absolute(path)
    # What is rendered later does not depend on where the application goes meanwhile.
    run_options = RunOptions(output=_absolute(output), **options)
    defaults = Defaults(num_images, settings, seed)
    folder = None
    if isinstance(jobs, (str, os.PathLike)):
        jobs = _absolute(jobs)
    else:
        folder = absolute("")
    if is_checkpoint(bundle):
        with drawn_bar(BarOptions(leave=False)) as bar:
            bundle = exported(bundle, bar.begin, LOG.info)
    run = Run(_absolute(bundle), jobs, defaults, run_options, on_progress, folder=folder)
    return RenderRun(run)


def _absolute(place: str | os.PathLike[str]) -> str:
    text = os.fspath(place)
    return absolute(text) if text else text
