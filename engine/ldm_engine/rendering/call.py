"""The function ``ldm_engine.render``: a run as an application calls it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from ..errors import ArgumentTypeError
from ..machine.remote import absolute
from ..sampling.settings import common_settings, default_values
from .execution import Progress
from .jobs.rows import Defaults
from .jobs.sources import Jobs
from .options import RunOptions
from .run import Run


def render(
    bundle: str | os.PathLike[str],
    jobs: Jobs,
    *,
    output: str | os.PathLike[str],
    num_images: int = 1,
    seed: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Render `jobs` into `output` as ``ldm-engine render`` does.

    What an earlier call finished there is kept and not rendered again.

    Args:
        bundle: the bundle's folder.
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
        An iterator that renders as it is read. It gives the record of each image that is finished,
        as it stands in ``records.jsonl``; jobs that fail are in ``failures.jsonl``.

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
    run = Run(_absolute(bundle), jobs, defaults, run_options, on_progress, folder=folder)
    return run.records()


def _absolute(place: str | os.PathLike[str]) -> str:
    text = os.fspath(place)
    return absolute(text) if text else text
