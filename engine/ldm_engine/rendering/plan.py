"""Images into batches, by the job file alone: where a run was cut changes none of them.

A short measurement before a run finds the batch size, and what a batch that is not full costs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InvalidArgumentError, LDMEngineError
from ..machine.memory import PeakMemory
from ..sampling.opening import Opened
from ..sampling.pipeline import LDMTextToImagePipeline
from ..sampling.request import Request, latents_shape
from ..sampling.rules import steps_to_run
from ..sampling.settings import PICTURE_SETTINGS, as_call
from ..sampling.solvers import SOLVERS
from .jobs.rows import Task
from .selection import Group

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
#: A larger batch must render an image this much faster to be taken.
_WORTHWHILE = 0.97
_STEPS = 3
_ROUNDS = 2  #: at least, and more where they are over in less than
_LEAST_S = 0.5
#: Images that may wait for others of their group before the fullest group goes as it is.
MAX_WAITING = 10_000
#: The least rows a batch is run with. In bf16 and int8, OpenVINO gives other pixels at one row;
#: from two on they were the same in any number of rows, place and company, in every runtime.
MIN_ROWS = 2


@dataclass(frozen=True)
class Batch:
    """Images of one group that are rendered together."""

    tasks: tuple[Task, ...]
    wanted: tuple[bool, ...]  #: which of them are to be kept; the others are done
    batch_size: int  #: of the run
    rows: int  #: that the UNet runs with; more than there are images where that is faster


@dataclass(frozen=True)
class Costs:
    """What a batch that is not full costs either way, measured once for a run."""

    compile_s: float | None  #: preparing the UNet for another batch size; None: it is not to be
    image_step_s: float  #: one step of one image in a full batch

    def rows(self, count: int, batch_size: int, steps: int) -> int:
        """The rows to run `count` images with: as many, or a full batch with padding."""
        if self.compile_s is None:
            return batch_size
        least = min(max(count, MIN_ROWS), batch_size)
        padding_s = (batch_size - least) * steps * self.image_step_s
        return batch_size if padding_s <= self.compile_s else least


def plan_batches(
    tasks: Iterable[Task],
    batch_size: int,
    costs: Costs,
    is_wanted: Callable[[Task], bool],
    max_waiting: int = MAX_WAITING,
) -> Iterator[Batch]:
    """Batches of `tasks` in order, without those of which nothing is wanted.

    A batch that is done in part is planned as before, so that each image keeps its neighbours and
    its place, and with them its last bit on any runtime.
    """
    for part in _parts(tasks, batch_size, max_waiting):
        wanted = tuple(map(is_wanted, part))
        if any(wanted):
            rows = costs.rows(len(part), batch_size, steps_to_run(part[0].values))
            yield Batch(tuple(part), wanted, batch_size, rows)


def _parts(tasks: Iterable[Task], batch_size: int, max_waiting: int) -> Iterator[Sequence[Task]]:
    """Full batches as they fill up, and at the end the rest of each group."""
    waiting: dict[Hashable, list[Task]] = {}
    count = 0
    for task in tasks:
        part = waiting.setdefault(task.group, [])
        part.append(task)
        count += 1
        if len(part) == batch_size or count > max_waiting:
            group = task.group
            if len(part) < batch_size:
                group = max(waiting, key=lambda g: len(waiting[g]))
            count -= len(waiting[group])
            yield waiting.pop(group)
    yield from waiting.values()


def batch_request(opened: Opened, tasks: Sequence[Task], rows: int) -> Request:
    """A request for `tasks`, the last of them repeated up to `rows`."""
    images = [task.values for task in [*tasks, *[tasks[-1]] * (rows - len(tasks))]]
    return opened.request(as_call(images))


def choose_batch_size(
    pipe: LDMTextToImagePipeline, group: Group, memory_limit: int | None
) -> tuple[int, Costs, dict[str, float]]:
    """The smallest batch size that is about as fast as any, and seconds an image step by size.

    Sizes are tried upwards for as long as they are worth it, there are as many images, and the
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
                costs = measure_costs(pipe, group.example, size)
                pipe.decode(np.zeros(_one(pipe, group.example), np.float32))
        except LDMEngineError:
            if not found:
                raise
            break  # too large for a GPU's memory, or not what its programs were built for
        memory = watch.peak.anonymous
        if not found:
            _check_one(memory, memory_limit, group.example)
        elif memory_limit is not None and memory > memory_limit:
            break
        found[size] = costs
        if costs.image_step_s < _WORTHWHILE * found[best].image_step_s:
            best = size
        growth = memory - before if before else 0
        before = memory
        too_much = memory_limit is not None and memory + 2 * growth > memory_limit
        if size >= group.images or too_much or size >= 4 * best:
            break
    figures = {str(size): round(costs.image_step_s, 6) for size, costs in found.items()}
    return best, found[best], figures


def _one(pipe: LDMTextToImagePipeline, task: Task) -> tuple[int, int, int, int]:
    """The shape of the latents of one image."""
    return latents_shape(pipe.bundle.model, 1, task.values["height"], task.values["width"])


def _check_one(memory: int, memory_limit: int | None, task: Task) -> None:
    height, width = task.values["height"], task.values["width"]
    if memory_limit is not None and memory > memory_limit:
        raise InvalidArgumentError(
            f"Rendering one image of {width}x{height} took {memory / (1 << 30):.2f} GiB, and "
            f"`memory_limit` (divided among the workers) is {memory_limit / (1 << 30):.2f} GiB. "
            "Give a higher one, or fewer workers."
        )


def measure_costs(pipe: LDMTextToImagePipeline, example: Task, batch_size: int) -> Costs:
    """What a batch that is not full of images like `example` costs either way."""
    values = {**example.values, "prompt": "measuring", "negative_prompt": ""}
    task = replace(example, values=values)
    first = short = _seconds(pipe, task, batch_size, 1)
    long = float("inf")
    start, rounds = time.perf_counter(), 0
    while rounds < _ROUNDS or time.perf_counter() - start < _LEAST_S:
        short = min(short, _seconds(pipe, task, batch_size, 1))
        long = min(long, _seconds(pipe, task, batch_size, 1 + _STEPS))
        rounds += 1
    # A step is most of what a batch takes: if it seems next to nothing, `short` was disturbed.
    step = max((long - short) / _STEPS, long / (1 + _STEPS) / 2)
    is_free = pipe.opened.choice.runtime.rounds_alike(pipe.options.device)
    return Costs(max(first - short, 0.0) if is_free else None, step / batch_size)


def _seconds(pipe: LDMTextToImagePipeline, task: Task, rows: int, steps: int) -> float:
    as_usual = {"num_inference_steps": steps, "solver": SOLVERS[0]}  # which costs the same
    others = ("timesteps", "solver_table", *PICTURE_SETTINGS)
    as_usual |= dict.fromkeys(others)
    task = replace(task, values={**task.values, **as_usual})
    start = time.perf_counter()
    pipe.denoise(batch_request(pipe.opened, [task], rows))
    return time.perf_counter() - start
