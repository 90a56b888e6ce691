"""Batch rendering: jobs in, images and records out, nothing lost, nothing twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from ..errors import ArgumentTypeError
from .jobs import Defaults
from .options import RunOptions
from .progress import Progress
from .sources import Jobs

__all__ = ["Progress", "render"]

_OPTIONS = {field.name for field in fields(RunOptions)} - {"output"}


def render(
    bundle: str | os.PathLike[str],
    jobs: Jobs,
    *,
    output: str | os.PathLike[str],
    num_images: int = 1,
    num_inference_steps: int = 50,
    guidance_scale: float = 1.0,
    eta: float = 0.0,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Render `jobs` into `output` as ``ldm-engine render`` does.

    What an earlier call finished there is kept and not rendered again.

    Args:
        bundle: the bundle's folder.
        jobs: a job file's path or URL, or rows: prompts, or mappings with the fields of a job.
        output: folder or fsspec URL.
        num_images: for jobs that do not say otherwise, like all that follow.
        num_inference_steps: 1 to 1000.
        guidance_scale: 1.0 is off.
        eta: 0 to 1.
        negative_prompt: what to guide away from.
        height: pixels; None: as trained.
        width: likewise.
        on_progress: told how far the run is, after each batch.
        options: the fields of ``ldm_engine.rendering.options.RunOptions``.

    Returns:
        An iterator that renders as it is read. It gives the record of each image that is finished,
        as it stands in ``records.jsonl``; jobs that fail are in ``failures.jsonl``.

    Raises:
        ArgumentTypeError: if an option is not known, at once.
        LDMEngineError: whatever stops the run; a later call goes on from there.
    """
    from .run import Run  # which who renders by the pipeline alone need not load

    defaults = Defaults(
        num_images, num_inference_steps, guidance_scale, eta, negative_prompt, height, width
    )
    if unknown := set(options) - _OPTIONS:
        raise ArgumentTypeError(
            f"{', '.join(sorted(unknown))} is no option of render; {', '.join(sorted(_OPTIONS))} "
            "are accepted beside the jobs' defaults."
        )
    run_options = RunOptions(output=os.fspath(output), **options)
    return Run(os.fspath(bundle), jobs, defaults, run_options, on_progress).records()
