"""A run from jobs to images: the order of its steps, from the lock to the gallery."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import PIL

from ..bundle.bundle import Bundle
from ..bundle.manifest import open_bundle
from ..errors import LDMEngineError
from ..machine.cpu import available_threads
from ..machine.device import Device
from ..machine.gpu import find_gpu
from ..machine.lock import locked
from ..machine.remote import is_url
from ..machine.storage import Storage
from ..runtimes.choice import Choice, choose_runtime, resolve_options
from ..sampling.pipeline import needed_files
from ..sampling.scheduler import DDIMScheduler
from ..version import __version__
from .archives import TarJournals, staged_folder
from .gallery import PAGE, write_gallery
from .jobs import Defaults, RowReader
from .journals import Journals
from .known import KnownIds
from .measuring import choose_batch_size, default_limit, measure_costs, parse_bytes
from .options import RunOptions
from .places import find_place
from .plan import Batch, plan_batches
from .progress import Counter, Progress
from .ray import import_ray, render_with_ray
from .renderer import IMAGES, Outcome, Renderer, RendererSettings
from .run_file import RUN_FILE, RunFile, check_same, load_run_file
from .selection import Selection, Shard, Survey
from .sources import Jobs, JobsError, check_jobs
from .workers import Commit, render_in_workers

_TOLD_FAULTS = 5
_CHUNK = 1000


@dataclass
class Summary:
    """What a run came to."""

    output: str
    failures: str  #: the name of the file there that tells them
    progress: Progress
    stopped: bool  #: before the end, because it was asked to
    gallery: str | None = None


@dataclass
class Run:
    """One run. Call ``records()`` and read ``summary`` afterwards."""

    bundle_path: str
    jobs: Jobs
    defaults: Defaults
    options: RunOptions
    on_progress: Callable[[Progress], None] = lambda progress: None
    should_stop: Callable[[], bool] = lambda: False
    summary: Summary | None = field(default=None, init=False)

    def records(self) -> Iterator[Outcome]:
        """Render, and give the record of each image as it is finished.

        Raises:
            InvalidArgumentError: if an option or default is not accepted, before all else.
            LDMEngineError: whatever stops the run; a later one goes on from there.
        """
        options, shard = self.options, Shard.parse(self.options.shard)
        jobs_format = check_jobs(self.jobs, options.jobs_format)
        bundle = open_bundle(self.bundle_path)
        choice = choose_runtime(bundle, options.runtime, options.precision, options.device)
        resolve_options(
            choice.runtime, options.device, options.precision, options.threads, options.gpu_pool_mb
        )
        scheduler = DDIMScheduler.from_config(bundle.scheduler_config)
        reader = RowReader(bundle.model, scheduler.num_train_timesteps, self.defaults)
        if options.memory_limit is not None:
            parse_bytes(options.memory_limit)
        if options.executor == "ray":
            import_ray()
        wanted = self._fingerprint(bundle, choice)
        storage = find_place(options.output, shard.label, wanted, options.force)
        with locked(storage, shard.label):
            held = load_run_file(storage)  # another may have begun it meanwhile
            if held is not None:
                check_same(storage, held.fingerprint, wanted)
            storage.prepare()
            known, journals = KnownIds(), self._journals(storage, shard)
            journals.load(known)
            selection = Selection(self.jobs, jobs_format, reader, known, shard)
            survey = self._survey(selection, journals)
            counter = Counter(survey.total, survey.done, survey.failed, survey.bad_rows)
            self.summary = Summary(
                storage.output, journals.failures, counter.progress(), stopped=False
            )
            self.on_progress(self.summary.progress)
            if survey.to_do and not self.should_stop():
                bundle.check_changed_files(needed_files(bundle, choice.runtime, options.precision))
                run_file, settings, renderer = self._begin(storage, bundle, choice, held, survey)
                batches = self._batches(selection, run_file)
                workers = min(self.options.workers, survey.to_do)
                outcomes = self._execute(
                    renderer, settings, storage, workers, batches, journals.commit
                )
                yield from self._counted(outcomes, counter, self.summary)
            self._end(storage, journals, self.summary)

    def _counted(
        self, outcomes: Generator[Sequence[Outcome], None, None], counter: Counter, summary: Summary
    ) -> Iterator[Outcome]:
        """The records among `outcomes`, with the progress told after each batch."""
        counter.start()
        with closing(outcomes):
            for part in outcomes:
                failed = sum("error" in outcome for outcome in part)
                counter.add(len(part) - failed, failed)
                summary.progress = counter.progress()
                self.on_progress(summary.progress)
                yield from (outcome for outcome in part if "error" not in outcome)

    def _end(self, storage: Storage, journals: Journals, summary: Summary) -> None:
        summary.stopped = self.should_stop() and summary.progress.to_do > 0
        journals.finish(not summary.stopped)
        run_file = load_run_file(storage)
        if run_file is not None:  # else there never was a picture
            write_gallery(storage, journals.read_records(), run_file.fingerprint)
        if summary.progress.done:
            summary.gallery = f"{storage.output}/{PAGE}"
        storage.finish([journals.records, journals.failures])

    def _fingerprint(self, bundle: Bundle, choice: Choice) -> dict[str, Any]:
        """All that changes pixels or files; None for what an earlier run may decide."""
        options = self.options
        defaults = asdict(self.defaults)
        del defaults["num_images"]  # more images of a row leave the others as they are
        return {
            "bundle": bundle.digest,
            "model": bundle.model.source,
            "ldm_engine": __version__,
            "runtime": choice.runtime.name,
            "runtime_version": choice.runtime.version(options.device),
            "precision": options.precision,
            "device": _describe_device(options.device),
            "threads": options.threads,
            "batch_size": options.batch_size,
            "image_format": options.image_format,
            "quality": 0 if options.image_format == "png" else options.quality,
            "pillow": PIL.__version__,
            "layout": options.layout,
            "images_per_tar": 0 if options.layout == "files" else options.images_per_tar,
            **{f"default_{name}": value for name, value in defaults.items()},
        }

    def _journals(self, storage: Storage, shard: Shard) -> Journals:
        if self.options.layout == "webdataset":
            return TarJournals(storage, shard, self.options.images_per_tar)
        return Journals(storage, shard)

    def _survey(self, selection: Selection, journals: Journals) -> Survey:
        """Read all jobs once and tell what is wrong with them.

        Raises:
            JobsError: with ``strict`` if anything is, or if there is nothing in the file.
        """
        faults: list[Outcome] = []
        told: list[Outcome] = []
        found = Survey()
        for item in selection.survey(of_all_shards=self.options.strict):
            if isinstance(item, Survey):
                found = item
                break
            faults.append(item)
            if self.options.strict:
                del faults[_TOLD_FAULTS:]
            elif len(faults) >= _CHUNK:
                journals.tell_bad_rows(faults)
                faults.clear()
        told = faults[:_TOLD_FAULTS]
        if self.options.strict and found.bad_rows:
            listing = "\n".join(f"  - row {f['row']}: {f['error']}" for f in told)
            raise JobsError(
                f"{found.bad_rows} rows of the jobs cannot be rendered, and --strict stops before "
                f"rendering:\n{listing}\nMend them, or leave --strict out to render the others."
            )
        journals.tell_bad_rows(faults)
        if not found.total and not found.bad_rows and selection.shard.count == 1:
            raise JobsError("The job file has no rows. Give at least one prompt.")
        return found

    def _begin(
        self, storage: Storage, bundle: Bundle, choice: Choice, held: RunFile | None, survey: Survey
    ) -> tuple[RunFile, RendererSettings, Renderer | None]:
        """The run file, written unless it was there; how to render; a renderer if one is open."""
        threads = self.options.threads
        if threads is None and held is not None:
            threads = held.fingerprint["threads"]
        if threads is None:
            threads = max(1, available_threads() // self.options.workers)
        asked = self.options
        options = resolve_options(
            choice.runtime, asked.device, asked.precision, threads, asked.gpu_pool_mb
        )
        settings = RendererSettings(
            bundle=str(Path(self.bundle_path).absolute()),
            digest=bundle.digest,
            runtime=choice.runtime.name,
            options=options,
            image_format=self.options.image_format,
            quality=self.options.quality,
            folder=self._folder(),
        )
        if held is not None:
            return held, settings, None
        renderer = Renderer(settings, storage)
        fingerprint = {**self._fingerprint(bundle, choice), "threads": threads}
        run_file = self._measure(renderer, fingerprint, survey)
        if not run_file.save(storage):  # another shard was faster, and decides
            held = load_run_file(storage)
            if held is None:
                raise LDMEngineError(
                    f"{storage.output}/{RUN_FILE} came and went. Start the run again."
                )
            check_same(storage, held.fingerprint, self._fingerprint(bundle, choice))
            return self._begin(storage, bundle, choice, held, survey)
        # What was measured may be much more than what the run needs: begin it anew. And where
        # others render, this process needs no model.
        is_of_use = not run_file.measured and self.options.renders_here
        return run_file, settings, renderer if is_of_use else None

    def _folder(self) -> str:
        """Where images are written first."""
        if self.options.layout == "files":
            return IMAGES
        return staged_folder(Shard.parse(self.options.shard).label)

    def _measure(self, renderer: Renderer, fingerprint: dict[str, Any], survey: Survey) -> RunFile:
        """What the run file will say, after a short measurement with the largest images."""
        group, images = max(survey.groups.items(), key=lambda g: (g[0][0] * g[0][1], g[1]))
        size = self.options.batch_size
        if size is not None:
            return RunFile(fingerprint, measure_costs(renderer, group, size), {})
        told = self.options.memory_limit
        limit = default_limit() if told is None else parse_bytes(told)
        if limit is not None and self.options.executor == "local":
            limit //= self.options.workers
        size, costs, figures = choose_batch_size(renderer, group, images, limit)
        return RunFile({**fingerprint, "batch_size": size}, costs, figures)

    def _batches(self, selection: Selection, run_file: RunFile) -> Iterator[Batch]:
        """The batches to render, until the run is asked to stop."""
        batches = plan_batches(
            selection.tasks(),
            run_file.fingerprint["batch_size"],
            run_file.costs,
            lambda task: not selection.state(task),
        )
        for batch in batches:
            if self.should_stop():
                return
            yield batch

    def _execute(
        self,
        renderer: Renderer | None,
        settings: RendererSettings,
        storage: Storage,
        workers: int,
        batches: Iterator[Batch],
        commit: Commit,
    ) -> Generator[Sequence[Outcome], None, None]:
        options, label = self.options, Shard.parse(self.options.shard).label
        if options.renders_here:
            return (renderer or Renderer(settings, storage)).render(batches, commit)
        # Other processes, and other machines, have working directories of their own.
        output = storage.output if is_url(storage.output) else str(Path(storage.output).absolute())
        if options.executor == "ray":
            return render_with_ray(
                settings,
                output,
                label,
                workers,
                options.ray_address,
                batches,
                commit,
                self.should_stop,
            )
        return render_in_workers(settings, output, label, workers, batches, commit)


def _describe_device(name: str) -> str:
    """What of a device changes pixels: which GPU it is, but not its number."""
    device = Device.parse(name)
    return device.kind if device.kind == "cpu" else f"gpu: {find_gpu(device.index).name}"
