"""A short measurement before a run: what a batch size brings and takes, and what padding costs."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgumentError, LDMEngineError
from ..machine.memory import PeakMemory, free_memory_bytes
from ..runtimes.choice import RUNTIMES
from .identity import identify
from .jobs import Group, Task
from .plan import Costs
from .renderer import Renderer

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
#: A larger batch must render an image this much faster to be taken.
_WORTHWHILE = 0.97
_STEPS = 3
_ROUNDS = 2  #: at least, and more where they are over in less than
_LEAST_S = 0.5
_FREE_SHARE = 0.8
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(text: str) -> int:
    """Read ``6GiB``, ``800M`` or a number of bytes; raises ``InvalidArgumentError``."""
    match = re.fullmatch(
        r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE
    )
    if match is None or float(match[1]) <= 0:
        raise InvalidArgumentError(f"`memory_limit` is {text!r}; 6GiB, 800MiB, ... is accepted.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def default_limit() -> int | None:
    """Most of the memory that is free now."""
    free = free_memory_bytes()
    return None if free is None else int(free * _FREE_SHARE)


def choose_batch_size(
    renderer: Renderer, group: Group, images: int, memory_limit: int | None
) -> tuple[int, Costs, dict[str, float]]:
    """The smallest batch size that is about as fast as any, and seconds an image step by size.

    Sizes are tried upwards for as long as they are worth it, there are as many `images`, and the
    process's own memory is below `memory_limit` bytes, also as far as the growth so far foretells.

    Raises:
        InvalidArgumentError: if one image at a time takes more.
    """
    best = BATCH_SIZES[0]
    found: dict[int, Costs] = {}
    before = 0
    for size in BATCH_SIZES:
        try:
            with PeakMemory(os.getpid()) as watch:
                costs = measure_costs(renderer, group, size)
                renderer.pipe.decode(_zeros(renderer, group))
        except LDMEngineError:
            if not found:
                raise
            break  # too large for a GPU's memory, or not what its programs were built for
        memory = watch.peak.anonymous
        if not found:
            _check_one(memory, memory_limit, group)
        elif memory_limit is not None and memory > memory_limit:
            break
        found[size] = costs
        if costs.image_step_s < _WORTHWHILE * found[best].image_step_s:
            best = size
        growth = memory - before if before else 0
        before = memory
        too_much = memory_limit is not None and memory + 2 * growth > memory_limit
        if size >= images or too_much or size >= 4 * best:
            break
    figures = {str(size): round(costs.image_step_s, 6) for size, costs in found.items()}
    return best, found[best], figures


def _check_one(memory: int, memory_limit: int | None, group: Group) -> None:
    height, width, *_ = group
    if memory_limit is not None and memory > memory_limit:
        raise InvalidArgumentError(
            f"Rendering one image of {width}x{height} took {memory / (1 << 30):.2f} GiB, and "
            f"`memory_limit` (divided among the workers) is {memory_limit / (1 << 30):.2f} GiB. "
            "Give a higher one, or fewer workers."
        )


def measure_costs(renderer: Renderer, group: Group, batch_size: int) -> Costs:
    """What a batch that is not full costs either way."""
    task = _task(group)
    first = short = _seconds(renderer, task, batch_size, 1)
    long = float("inf")
    start, rounds = time.perf_counter(), 0
    while rounds < _ROUNDS or time.perf_counter() - start < _LEAST_S:
        short = min(short, _seconds(renderer, task, batch_size, 1))
        long = min(long, _seconds(renderer, task, batch_size, 1 + _STEPS))
        rounds += 1
    # A step is most of what a batch takes: if it seems next to nothing, `short` was disturbed.
    step = max((long - short) / _STEPS, long / (1 + _STEPS) / 2)
    is_free = RUNTIMES[renderer.pipe.runtime].rounds_alike(renderer.pipe.options.device)
    return Costs(max(first - short, 0.0) if is_free else None, step / batch_size)


def _seconds(renderer: Renderer, task: Task, size: int, steps: int) -> float:
    tasks = [replace(task, num_inference_steps=steps)]
    start = time.perf_counter()
    renderer.pipe.denoise(renderer.request(tasks, size))
    return time.perf_counter() - start


def _zeros(renderer: Renderer, group: Group) -> NDArray[np.float32]:
    height, width, *_ = group
    model = renderer.pipe.bundle.model
    sides = (height // model.scale_factor, width // model.scale_factor)
    return np.zeros((1, model.latent_channels, *sides), np.float32)


def _task(group: Group) -> Task:
    height, width, steps, guided = group
    scale = 2.0 if guided else 1.0
    return Task(identify("measuring"), 0, "measuring", "", 0, steps, scale, 0.0, height, width)
