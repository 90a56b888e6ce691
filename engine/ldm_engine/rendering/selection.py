"""Which images of a job file are to be rendered: bad and double rows, shards, what is done.

The file is read twice: once before rendering, to count and to report what is wrong, and once to
render. Both readings judge every row alike, in every shard.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import ArgumentTypeError, InputError, InvalidArgumentError
from ..machine.tables import Row
from ..sampling.settings import HASH_BYTES, settings_hash
from .jobs.rows import RowReader, Task
from .jobs.sources import Jobs, read_rows
from .options import Shard
from .records import Outcome, row_failure

#: States of an id, which may be in several; 0: never seen.
DONE = 1  #: its image is there and recorded
FAILED = 2  #: it was tried and recorded as a failure
STAGED = 16  #: done, and waiting to go into an archive with others
SEEN = 4, 8  #: a row of the job file has it, in the first reading and in the second

#: Fields whose lack is recorded, and letters of the name of one.
_MAX_COLUMNS, _MAX_COLUMN = 256, 200
_UNSEEN = bytes(1 + HASH_BYTES)


class States:
    """What each id's state is and what settings its image has, by the id's key.

    A million ids take about 150 MB.
    """

    def __init__(self) -> None:
        self._states: dict[bytes, bytes] = {}  # the flags, and the hash of the settings
        self._lock = threading.Lock()  # one thread plans while another records what is done

    def get(self, key: bytes) -> tuple[int, bytes]:
        """The flags and the settings' hash of `key`; (0, zeros) if it was never added."""
        found = self._states.get(key, _UNSEEN)
        return found[0], found[1:]

    def add(self, key: bytes, flags: int, settings: bytes | None = None) -> None:
        """Add `flags` to those of `key`, and replace its settings' hash if one is given."""
        with self._lock:
            before, kept = self.get(key)
            self._states[key] = bytes([before | flags]) + (kept if settings is None else settings)


@dataclass
class Group:
    """Images that can share batches."""

    example: Task
    images: int = 0

    @property
    def pixels(self) -> int:
        """Of one image."""
        return int(self.example.values["height"] * self.example.values["width"])


@dataclass
class Survey:
    """What the first reading found, of this shard."""

    total: int = 0  #: images
    done: int = 0  #: of them are there already
    failed: int = 0  #: of them could not be rendered in an earlier run
    bad_rows: int = 0
    faults: str = ""  #: what is wrong with the first of them, a line each
    fields: frozenset[str] = frozenset()  #: that are not read, of the first row that is fine
    groups: dict[Hashable, Group] = field(default_factory=dict)  #: of the images to do

    @property
    def to_do(self) -> int:
        """Images that are neither there nor recorded as failures."""
        return self.total - self.done - self.failed


@dataclass(frozen=True)
class Selection:
    """The rows of `jobs` that `reader` accepts and no earlier row contradicts."""

    jobs: Jobs
    jobs_format: str | None
    reader: RowReader
    states: States
    shard: Shard
    strict: bool = False  #: whether a field that is not read and no earlier row has is a failure
    folder: str | None = None  #: where paths in rows begin, as ``read_rows`` takes it
    #: Fields that are not read, of all rows: each record has them.
    columns: dict[str, None] = field(default_factory=dict, init=False)

    def survey(self, of_all_shards: bool = False) -> Iterator[Survey | Outcome]:
        """Read all rows; gives each bad row's failure and, last, the counts.

        Each bad row is reported by one shard, or with `of_all_shards` by every one.
        """
        found = Survey()
        seen: set[str] | None = None
        for row, tasks, fault in self._rows(SEEN[0]):
            if not fault:
                others = self.reader.others(row.fields or ())
                self._learn(others)
                if seen is None:
                    found.fields, seen = frozenset(others), set(others)
                elif self.strict and (new := sorted(set(others) - seen)):
                    fault = _unknown(new)
                    seen.update(new)
            if fault and (of_all_shards or self.shard.holds_row(row.number)):
                found.bad_rows += 1
                yield row_failure(row, fault)
            for task in self._own(tasks):
                state = self.state(task)
                found.total += 1
                found.done += state == DONE
                found.failed += state == FAILED
                if not state:
                    found.groups.setdefault(task.group, Group(task)).images += 1
        for name, lack in self.reader.unused():
            warnings.warn(f"`{name}` is given for all jobs, and none of them {lack}.", stacklevel=2)
        yield found

    def tasks(self) -> Iterator[Task]:
        """All images of this shard in the file's order, what is done among them."""
        for _, tasks, _ in self._rows(SEEN[1]):
            yield from self._own(tasks)

    def state(self, task: Task) -> int:
        """``DONE``, ``FAILED`` or 0."""
        flags, settings = self.states.get(task.identity.key)
        if flags & DONE:
            return DONE
        return FAILED if flags & FAILED and settings == settings_hash(task.values) else 0

    def _learn(self, others: Iterable[str]) -> None:
        """Take over the fields of a row as columns of all records."""
        for name in others:
            if len(self.columns) < _MAX_COLUMNS and len(name) <= _MAX_COLUMN:
                self.columns[name] = None

    def _own(self, tasks: Sequence[Task]) -> Iterator[Task]:
        return (task for task in tasks if self.shard.holds(task.identity))

    def _rows(self, seen: int) -> Iterator[tuple[Row, Sequence[Task], str]]:
        """Each row with its images, or with what is wrong."""
        for row in read_rows(self.jobs, self.jobs_format, self.folder):
            tasks, fault = self._judge(row, seen)
            if fault:
                yield row, (), fault
            else:
                for task in tasks:
                    self.states.add(task.identity.key, seen)
                yield row, tasks, ""

    def _judge(self, row: Row, seen: int) -> tuple[Sequence[Task], str]:
        if row.fields is None:
            return (), row.fault
        try:
            tasks = self.reader.tasks(row.number, row.fields, self.columns, row.folder)
        except (InvalidArgumentError, ArgumentTypeError, InputError) as error:
            return (), str(error)
        for task in tasks:
            flags, settings = self.states.get(task.identity.key)
            if flags & seen:
                return (
                    (),
                    f"the id {task.identity.id[:200]!r} is that of an image of an earlier row",
                )
            if flags & DONE and settings != settings_hash(task.values):
                return (), (
                    f"the image {task.identity.id[:200]!r} was rendered before with another "
                    "prompt, seed, picture or setting; give the new one another id"
                )
        return tasks, ""


def _unknown(names: Sequence[str]) -> str:
    return (
        f"it has {', '.join(f'`{name[:80]}`' for name in names[:5])}, which is not read, and no "
        "row before has it. Name it as they do, or have it in the first row"
    )
