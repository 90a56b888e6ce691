"""Which images of a job file are to be rendered: bad and double rows told, shards, what is done.

The file is read twice: once before rendering, to count and to tell what is wrong, and once to
render. Both readings judge every row alike, in every shard.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ArgumentTypeError, InvalidArgumentError
from ..machine.storage import ALONE
from .identity import Identity
from .jobs import Group, RowReader, Task
from .known import DONE, FAILED, SEEN, KnownIds
from .sources import Jobs, Row, read_rows


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 1) of `count`; 1 of 1 is the whole."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``; raises ``InvalidArgumentError``."""
        if found := re.fullmatch(r"(\d{1,7})/(\d{1,7})", text):
            index, count = map(int, found.groups())
            if 1 <= index <= count <= 10**6:
                return cls(index, count)
        raise InvalidArgumentError(f"`shard` is {text!r}; i/n with 1 <= i <= n is accepted: 1/4.")

    @property
    def label(self) -> str:
        """As it stands in names of files."""
        return ALONE if self.count == 1 else f"{self.index}-of-{self.count}"

    def holds(self, identity: Identity) -> bool:
        """Whether an image is this shard's."""
        return identity.shard(self.count) == self.index - 1

    def holds_row(self, row: int) -> bool:
        """Whether this shard tells what is wrong with a row."""
        return row % self.count == self.index - 1


@dataclass
class Survey:
    """What the first reading found, of this shard."""

    total: int = 0  #: images that are asked for
    done: int = 0  #: of them are there already
    failed: int = 0  #: of them could not be rendered in an earlier run
    bad_rows: int = 0
    groups: Counter[Group] = field(default_factory=Counter)  #: images to do

    @property
    def to_do(self) -> int:
        """Images that are neither there nor known to fail."""
        return self.total - self.done - self.failed


@dataclass(frozen=True)
class Selection:
    """The rows of `jobs` that `reader` accepts and no earlier row contradicts."""

    jobs: Jobs
    jobs_format: str | None
    reader: RowReader
    known: KnownIds
    shard: Shard

    def survey(self, of_all_shards: bool = False) -> Iterator[Survey | dict[str, Any]]:
        """Read all rows; gives each bad row's failure and, last, the counts.

        Each bad row is told by one shard, unless they are to be told `of_all_shards`.
        """
        found = Survey()
        for row, tasks, fault in self._rows(SEEN[0]):
            if fault and (of_all_shards or self.shard.holds_row(row.number)):
                found.bad_rows += 1
                yield row_failure(row, fault)
            for task in self._own(tasks):
                state = self.state(task)
                found.total += 1
                found.done += state == DONE
                found.failed += state == FAILED
                if not state:
                    found.groups[task.group] += 1
        yield found

    def tasks(self) -> Iterator[Task]:
        """All images of this shard in the file's order, what is done among them."""
        for _, tasks, _ in self._rows(SEEN[1]):
            yield from self._own(tasks)

    def state(self, task: Task) -> int:
        """``DONE``, ``FAILED`` or 0."""
        flags, settings = self.known.get(task.identity.key)
        if flags & DONE:
            return DONE
        return FAILED if flags & FAILED and settings == task.settings else 0

    def _own(self, tasks: Sequence[Task]) -> Iterator[Task]:
        return (task for task in tasks if self.shard.holds(task.identity))

    def _rows(self, seen: int) -> Iterator[tuple[Row, Sequence[Task], str]]:
        """Each row with its images, or with what is wrong."""
        for row in read_rows(self.jobs, self.jobs_format):
            tasks, fault = self._judge(row, seen)
            if fault:
                yield row, (), fault
            else:
                for task in tasks:
                    self.known.add(task.identity.key, seen)
                yield row, tasks, ""

    def _judge(self, row: Row, seen: int) -> tuple[Sequence[Task], str]:
        if row.fields is None:
            return (), row.fault
        try:
            tasks = self.reader.tasks(row.number, row.fields)
        except (InvalidArgumentError, ArgumentTypeError) as error:
            return (), str(error)
        for task in tasks:
            flags, settings = self.known.get(task.identity.key)
            if flags & seen:
                return (
                    (),
                    f"the id {task.identity.id[:200]!r} is that of an image of an earlier row",
                )
            if flags & DONE and settings != task.settings:
                return (), (
                    f"the image {task.identity.id[:200]!r} was rendered before with another "
                    "prompt, seed or setting; give the new one another id"
                )
        return tasks, ""


def row_failure(row: Row, fault: str) -> dict[str, Any]:
    """The line of ``failures.jsonl`` for a row that no image comes from."""
    given = row.fields.get("id") if row.fields else None
    named = isinstance(given, (str, int)) and not isinstance(given, bool)
    shown = str(given)[:1000].encode(errors="replace").decode() if named else None
    error = fault[:2000].encode(errors="replace").decode()
    return {"row": row.number, "id": shown, "error": error}
