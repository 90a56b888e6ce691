"""What a run is asked to do, checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidArgumentError
from ..sampling.recipes import IMAGE_FORMATS, QUALITY
from ..sampling.request import MAX_BATCH

LAYOUTS = ("files", "webdataset")
EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class RunOptions:
    """What a run is asked to do, beside the jobs' defaults."""

    output: str
    batch_size: int | None = None  #: None: chosen by a short measurement
    memory_limit: str | None = None  #: for all workers here, where that is measured
    image_format: str = "png"
    quality: int = QUALITY
    layout: str = "files"
    images_per_tar: int = 1000
    jobs_format: str | None = None
    runtime: str = "auto"
    precision: str = "fp32"
    device: str = "cpu"
    threads: int | None = None  #: of each process; None: all cores, divided among the workers
    gpu_pool_mb: int | None = None  #: Paddle is told to take so much at first
    shard: str = "1/1"
    workers: int = 1
    executor: str = "local"
    ray_address: str | None = None
    strict: bool = False
    force: bool = False

    @property
    def renders_here(self) -> bool:
        """Whether the process itself renders, and no others."""
        return self.executor == "local" and self.workers == 1

    def __post_init__(self) -> None:
        """Raise ``InvalidArgumentError`` naming everything that is not accepted."""
        wrong = []
        for name, accepted in (
            ("image_format", IMAGE_FORMATS), ("layout", LAYOUTS), ("executor", EXECUTORS)
        ):  # fmt: skip
            if getattr(self, name) not in accepted:
                wrong.append(f"`{name}` is {getattr(self, name)!r}; {', '.join(accepted)}")
        for name, low, high in (
            ("batch_size", 1, MAX_BATCH), ("quality", 1, 100), ("workers", 1, 1024),
            ("images_per_tar", 1, 10**6),
        ):  # fmt: skip
            value = getattr(self, name)
            if name == "batch_size" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                wrong.append(f"`{name}` is {value!r}; {low} to {high}")
        if self.output.startswith("memory://") and (self.workers > 1 or self.executor == "ray"):
            wrong.append("`output` is memory:// for several processes; one worker, or another URL,")
        if self.memory_limit is not None and self.batch_size is not None:
            wrong.append("`memory_limit` is given beside a `batch_size`; one of them")
        if self.ray_address is not None and self.executor != "ray":
            wrong.append("`ray_address` is given and `executor` is local; with `executor` ray it")
        if not self.output:
            wrong.append("`output` is empty; a folder or URL")
        if wrong:
            raise InvalidArgumentError("\n".join(f"{w} is accepted." for w in wrong))
