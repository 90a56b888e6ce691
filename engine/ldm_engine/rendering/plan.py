"""Images into batches, by the job file alone: where a run was cut changes none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .jobs import Group, Task

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
            rows = costs.rows(len(part), batch_size, part[0].num_inference_steps)
            yield Batch(tuple(part), wanted, batch_size, rows)


def _parts(tasks: Iterable[Task], batch_size: int, max_waiting: int) -> Iterator[Sequence[Task]]:
    """Full batches as they fill up, and at the end the rest of each group."""
    waiting: dict[Group, list[Task]] = {}
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
