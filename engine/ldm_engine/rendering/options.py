"""The options of a run, all checked where they are made."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import InvalidArgumentError
from ..machine.storage import ALONE
from ..runtimes.choice import check_options
from ..sampling.recipes import IMAGE_FORMATS, QUALITY
from ..sampling.request import MAX_BATCH
from ..sampling.screening import Check, can_travel, name_of
from .jobs.identities import Identity
from .jobs.sources import FORMATS

LAYOUTS = ("files", "webdataset")
EXECUTORS = ("local", "ray")
IMAGES_PER_TAR = 1000  #: by default
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 1) of `count`; 1 of 1 is the whole."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``; raises ``InvalidArgumentError``."""
        if found := re.fullmatch(r"(\d{1,7})/(\d{1,7})", str(text)):
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
        """Whether this shard reports what is wrong with a row."""
        return row % self.count == self.index - 1


def parse_bytes(text: str) -> int:
    """Read ``6GiB``, ``800M`` or a number of bytes; raises ``InvalidArgumentError``."""
    match = re.fullmatch(
        r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]?)(?:i?B)?\s*", str(text), re.IGNORECASE
    )
    if match is None or float(match[1]) <= 0:
        raise InvalidArgumentError(f"`memory_limit` is {text!r}; 6GiB, 800MiB, ... is accepted.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


@dataclass(frozen=True)
class RunOptions:
    """The options of a run, beside the jobs' defaults."""

    output: str = ""  #: a folder or URL, which every run needs
    batch_size: int | None = None  #: None: chosen by a short measurement
    memory_limit: str | None = None  #: for all workers here, where that is measured
    image_format: str = "png"
    quality: int | None = None  #: of jpeg and webp; None: ``QUALITY``
    mark: bool = True  #: whether files state that a model made them
    layout: str = "files"
    images_per_tar: int | None = None  #: of the layout webdataset; None: ``IMAGES_PER_TAR``
    jobs_format: str | None = None
    runtime: str = "auto"
    precision: str = "fp32"
    device: str = "cpu"
    threads: int | None = None  #: of each process; None: all cores, divided among the workers
    shard: str = "1/1"
    workers: int = 1
    executor: str = "local"
    ray_address: str | None = None
    strict: bool = False
    force: bool = False
    replace_changed: bool = False  #: make images again that were changed since
    check: Check | None = None  #: may refuse prompts and pictures, as in a pipeline's call

    @property
    def renders_here(self) -> bool:
        """Whether the process itself renders, and no others."""
        return self.executor == "local" and self.workers == 1

    @property
    def lossy_quality(self) -> int:
        """The quality of jpeg and webp, 0 of png."""
        return 0 if self.image_format == "png" else self.quality or QUALITY

    @property
    def archive_images(self) -> int:
        """Images of one archive, 0 where each is a file."""
        return 0 if self.layout == "files" else self.images_per_tar or IMAGES_PER_TAR

    def __post_init__(self) -> None:
        """Raise ``InvalidArgumentError`` naming everything that is not accepted."""
        wrong = [
            *check_options(self.runtime, self.precision, self.device, self.threads),
            *self._names(),
            *self._numbers(),
            *self._others(),
            *self._without_effect(),
            *_faults(Shard.parse, self.shard),
            *(_faults(parse_bytes, self.memory_limit) if self.memory_limit is not None else ()),
        ]
        if not isinstance(self.output, str) or not self.output:
            wrong.append(f"`output` is {self.output!r}; a folder or URL is accepted.")
        elif self.output.startswith("memory://") and not self.renders_here:
            wrong.append(
                "`output` is memory:// for several processes; one worker, or another URL, is "
                "accepted."
            )
        if self.workers != 1 and self.executor == "local" and sys.platform == "win32":
            wrong.append(
                f"`workers` is {self.workers!r}; on Windows, where a pipe is not handed to other "
                "processes, 1 is accepted. Start several runs beside each other with `shard` 1/n, "
                "2/n, ..."
            )
        if self.memory_limit is not None and self.batch_size is not None:
            wrong.append("`memory_limit` is given beside a `batch_size`; one of them is accepted.")
        if wrong:
            raise InvalidArgumentError("\n".join(wrong))

    def _names(self) -> Iterator[str]:
        for name, accepted in (
            ("image_format", IMAGE_FORMATS), ("layout", LAYOUTS), ("executor", EXECUTORS)
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, str) or value not in accepted:
                yield f"`{name}` is {value!r}; {', '.join(accepted)} is accepted."

    def _others(self) -> Iterator[str]:
        if self.jobs_format is not None and self.jobs_format not in FORMATS:
            yield f"`jobs_format` is {self.jobs_format!r}; {', '.join(FORMATS)} is accepted."
        for name in ("strict", "force", "replace_changed", "mark"):
            if not isinstance(getattr(self, name), bool):
                yield f"`{name}` is {getattr(self, name)!r}; True or False is accepted."
        if self.check is not None and not callable(self.check):
            yield f"`check` is {self.check!r}; a function of (prompt, image or None) is accepted."
        elif self.check is not None and not self.renders_here and not can_travel(self.check):
            yield (
                f"`check` is {name_of(self.check)}, and other processes are to call it; a function "
                "that can be imported by name is accepted: one of a module, and not of the script."
            )
        if not isinstance(self.ray_address, (str, type(None))):
            yield f"`ray_address` is {self.ray_address!r}; text is accepted."

    def _without_effect(self) -> Iterator[str]:
        for name, accepted, has_effect in (
            ("quality", "`image_format` jpeg or webp", self.image_format != "png"),
            ("images_per_tar", "`layout` webdataset", self.layout != "files"),
            ("replace_changed", "`layout` files", self.layout == "files"),
            ("ray_address", "`executor` ray", self.executor == "ray"),
        ):
            if getattr(self, name) not in (None, False) and not has_effect:
                yield f"`{name}` is given and has no effect; with {accepted} it is accepted."

    def _numbers(self) -> Iterator[str]:
        for name, low, high in (
            ("batch_size", 1, MAX_BATCH), ("quality", 1, 100), ("workers", 1, 1024),
            ("images_per_tar", 1, 10**6),
        ):  # fmt: skip
            value = getattr(self, name)
            if name != "workers" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                word = ", or auto," if name == "batch_size" else ""
                yield f"`{name}` is {value!r}; {low} to {high}{word} is accepted."


def _faults(parse: Callable[[str], object], text: str) -> Iterator[str]:
    """What `parse` finds wrong with `text`."""
    try:
        parse(text)
    except InvalidArgumentError as error:
        yield str(error)
