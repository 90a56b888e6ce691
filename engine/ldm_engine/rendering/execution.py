"""Carrying a run out: its batch size measured, its executor chosen, its progress counted."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import InvalidArgumentError, LDMEngineError
from ..machine.cpu import available_threads
from ..machine.memory import free_memory_bytes, read_memory
from ..machine.remote import absolute
from ..machine.storage import Storage
from ..runtimes.choice import resolve_options
from ..sampling.opening import Opened
from .archives import staged_folder
from .options import RunOptions, Shard, parse_bytes
from .places import RUN_FILE, RunFile, check_same, load_run_file
from .plan import Batch, choose_batch_size, measure_costs
from .ray import render_with_ray
from .records import Outcome
from .renderer import IMAGES, Commit, Renderer, RendererSettings
from .selection import Survey
from .workers import render_in_workers

_FREE_SHARE = 0.8  # of the memory, for what is measured
_WINDOW = 50  #: batches that the rate is taken from


@dataclass(frozen=True)
class Progress:
    """Images of this run or shard at one moment."""

    total: int
    to_do: int
    done: int  #: there, from earlier runs too
    failed: int  #: images and rows that came to nothing
    rendered: int  #: by this run
    images_per_second: float  #: lately; 0 before the first batch
    seconds: float  #: since this run began to render
    seconds_left: float | None


class Counter:
    """Counts what a run does."""

    def __init__(self, total: int, done: int, failed_images: int, bad_rows: int) -> None:
        self._total, self._done, self._failed = total, done, failed_images
        self._bad_rows = bad_rows
        self._rendered = self._tried = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self.start()

    def start(self) -> None:
        """Begin to count time: what came before was preparation."""
        self._start = time.monotonic()
        self._marks.clear()
        self._marks.append((self._start, 0))

    def add(self, finished: int, failed: int) -> None:
        """Count a batch."""
        self._done += finished
        self._failed += failed
        self._rendered += finished
        self._tried += finished + failed
        self._marks.append((time.monotonic(), self._tried))

    def progress(self) -> Progress:
        """Where the run stands."""
        (first, before), (last, now) = self._marks[0], self._marks[-1]
        rate = (now - before) / (last - first) if last > first else 0.0
        left = self._total - self._done - self._failed
        return Progress(
            total=self._total,
            to_do=left,
            done=self._done,
            failed=self._failed + self._bad_rows,
            rendered=self._rendered,
            images_per_second=rate,
            seconds=time.monotonic() - self._start,
            seconds_left=left / rate if rate else None,
        )


@dataclass(frozen=True)
class Execution:
    """A run's images on their way through one or many processes."""

    opened: Opened
    options: RunOptions
    storage: Storage
    settings: RendererSettings
    run_file: RunFile
    renderer: Renderer | None  #: open already, where this process renders

    @classmethod
    def begin(
        cls,
        opened: Opened,
        options: RunOptions,
        storage: Storage,
        survey: Survey,
        fingerprint: dict[str, object],
    ) -> Execution:
        """Go on with the run that `storage` holds, or measure and write down what this one is.

        Raises:
            LDMEngineError: if the run file vanishes, or another shard's run is another one.
        """
        existing = load_run_file(storage)
        threads = options.threads
        if threads is None and existing is not None:
            threads = existing.fingerprint["threads"]
        if threads is None:
            threads = max(1, available_threads() // options.workers)
        resolved = resolve_options(
            opened.choice.runtime, options.device, options.precision, threads
        )
        opened = replace(opened, options=resolved)
        settings = RendererSettings(
            bundle=str(opened.bundle.path.absolute()),
            digest=opened.bundle.digest,
            runtime=opened.choice.runtime.name,
            options=resolved,
            image_format=options.image_format,
            quality=options.lossy_quality,
            mark=options.mark,
            check=options.check,
            folder=_folder(options),
        )
        if existing is not None:
            check_same(storage, existing.fingerprint, fingerprint)
            return cls(opened, options, storage, settings, existing, None)
        renderer = Renderer(settings, storage, opened)
        try:
            recorded = {**fingerprint, "threads": resolved.threads}
            run_file = _measure(renderer, recorded, survey, options)
            is_saved = run_file.save(storage)
        except BaseException:
            renderer.close()
            raise
        if not is_saved:  # another shard was faster, and decides
            renderer.close()
            if load_run_file(storage) is None:
                raise LDMEngineError(
                    f"{storage.output}/{RUN_FILE} came and went. Start the run again."
                )
            return cls.begin(opened, options, storage, survey, fingerprint)
        # What was measured may be much more than what the run needs: begin it anew. And where
        # others render, this process needs no model.
        if run_file.measured or not options.renders_here:
            renderer.close()
            return cls(opened, options, storage, settings, run_file, None)
        return cls(opened, options, storage, settings, run_file, renderer)

    def render(
        self,
        batches: Iterator[Batch],
        images: int,
        commit: Commit,
        should_stop: Callable[[], bool],
    ) -> Generator[Sequence[Outcome], None, None]:
        """The outcomes of `batches`, which hold `images` to be rendered."""
        options, label = self.options, Shard.parse(self.options.shard).label
        if options.renders_here:
            return self._render_here(batches, commit)
        output = absolute(self.storage.output)  # other processes have folders of their own
        workers = min(options.workers, images)
        if options.executor == "ray":
            return render_with_ray(
                self.settings,
                output,
                label,
                workers,
                options.ray_address,
                batches,
                commit,
                should_stop,
            )
        return render_in_workers(self.settings, output, label, workers, batches, commit)

    def _render_here(
        self, batches: Iterator[Batch], commit: Commit
    ) -> Generator[Sequence[Outcome], None, None]:
        renderer = self.renderer or Renderer(self.settings, self.storage, self.opened)
        try:
            yield from renderer.render(batches, commit)
        finally:
            renderer.close()


def _folder(options: RunOptions) -> str:
    """Where images are written first."""
    if options.layout == "files":
        return IMAGES
    return staged_folder(Shard.parse(options.shard).label)


def _measure(
    renderer: Renderer, fingerprint: dict[str, object], survey: Survey, options: RunOptions
) -> RunFile:
    """What the run file will say, after a short measurement with the largest images."""
    group = max(survey.groups.values(), key=lambda g: (g.pixels, g.images))
    if options.batch_size is not None:
        costs = measure_costs(renderer.pipe, group.example, options.batch_size)
        return RunFile(fingerprint, costs, {})
    if options.memory_limit is not None:
        if read_memory(os.getpid()) is None:
            raise InvalidArgumentError(
                f"`memory_limit` is {options.memory_limit!r}, and this system does not report what "
                "a process takes. Give a `batch_size` instead."
            )
        limit: int | None = parse_bytes(options.memory_limit)
    else:
        free = free_memory_bytes()
        limit = None if free is None else int(free * _FREE_SHARE)
    if limit is not None and options.executor == "local":
        limit //= options.workers
    best, costs, figures = choose_batch_size(renderer.pipe, group, limit)
    return RunFile({**fingerprint, "batch_size": best}, costs, figures)
