"""A run from jobs to images: the order of its steps, from the lock to the gallery."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from ..machine.lock import locked
from ..machine.storage import Storage
from ..sampling.opening import open_to_run
from .archives import TarJournals
from .execution import Counter, Execution, Progress
from .jobs.rows import Defaults, RowReader
from .jobs.sources import Jobs, JobsError, check_jobs
from .journals import Journals
from .options import RunOptions, Shard
from .places import RunFile, check_same, find_place, fingerprint, load_run_file
from .plan import Batch, plan_batches
from .ray import import_ray
from .records import PAGE, Outcome, write_gallery
from .selection import Selection, States, Survey

_SHOWN_FAULTS = 5
_CHUNK = 1000


@dataclass
class Summary:
    """What a run came to."""

    output: str
    failures: str  #: the name of the file there that lists them
    progress: Progress
    stopped: bool  #: before the end, by a signal
    gallery: str | None = None
    changed: int = 0  #: images that their user has changed, and that stay so


@dataclass
class Run:
    """One run. Call ``records()`` and read ``summary`` afterwards."""

    bundle_path: str
    jobs: Jobs
    defaults: Defaults
    options: RunOptions
    on_progress: Callable[[Progress], None] = lambda progress: None
    should_stop: Callable[[], bool] = lambda: False
    folder: str | None = None  #: where paths in jobs begin; None: in the folder of their file
    summary: Summary | None = field(default=None, init=False)

    def records(self) -> Generator[Outcome, None, None]:
        """Render, and give the record of each image as it is finished.

        Raises:
            InvalidArgumentError: if an option or default is not accepted, before all else.
            LDMEngineError: whatever stops the run; a later one goes on from there.
        """
        options, shard = self.options, Shard.parse(self.options.shard)
        jobs_format = check_jobs(self.jobs, options.jobs_format)
        opened = open_to_run(
            self.bundle_path,
            runtime=options.runtime,
            precision=options.precision,
            device=options.device,
            threads=options.threads,
        )
        limits = opened.limits
        reader = RowReader(limits, self.defaults)
        if options.executor == "ray":
            import_ray()
        wanted = fingerprint(opened, options, self.defaults)
        storage = find_place(options.output, shard.label, wanted, options.force)
        with locked(storage, shard.label):
            existing = load_run_file(storage)  # another may have begun it meanwhile
            if existing is not None:
                check_same(storage, existing.fingerprint, wanted)
            storage.prepare()
            states, journals = States(), self._journals(storage, shard)
            journals.load(states)
            for notice in journals.notices():
                warnings.warn(notice, stacklevel=2)
            selection = Selection(
                self.jobs, jobs_format, reader, states, shard, options.strict, self.folder
            )
            survey = self._survey(selection, journals)
            counter = Counter(survey.total, survey.done, survey.failed, survey.bad_rows)
            self.summary = Summary(
                storage.output,
                journals.failures,
                counter.progress(),
                stopped=False,
                changed=journals.changed,
            )
            self.on_progress(self.summary.progress)
            if survey.to_do and not self.should_stop():
                opened.check_hashes()
                execution = Execution.begin(opened, options, storage, survey, wanted)
                batches = self._batches(selection, execution.run_file)
                outcomes = execution.render(
                    batches, survey.to_do, journals.commit, self.should_stop
                )
                yield from self._counted(outcomes, counter, self.summary)
            self._end(storage, journals, self.summary)

    def _counted(
        self, outcomes: Generator[Sequence[Outcome], None, None], counter: Counter, summary: Summary
    ) -> Iterator[Outcome]:
        """The records among `outcomes`, with the progress reported after each batch."""
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

    def _journals(self, storage: Storage, shard: Shard) -> Journals:
        if self.options.layout == "webdataset":
            return TarJournals(storage, shard, self.options.images_per_tar)
        return Journals(storage, shard, self.options.replace_changed)

    def _survey(self, selection: Selection, journals: Journals) -> Survey:
        """Read all jobs once and report what is wrong with them.

        Raises:
            JobsError: with ``strict`` if anything is, or if there is nothing in the file.
        """
        faults: list[Outcome] = []
        found = Survey()
        for item in selection.survey(of_all_shards=self.options.strict):
            if isinstance(item, Survey):
                found = item
                break
            faults.append(item)
            if self.options.strict:
                del faults[_SHOWN_FAULTS:]
            elif len(faults) >= _CHUNK:
                journals.record_bad_rows(faults)
                faults.clear()
        if self.options.strict and found.bad_rows:
            listing = "\n".join(f"  - row {f['row']}: {f['error']}" for f in faults[:_SHOWN_FAULTS])
            raise JobsError(
                f"{found.bad_rows} rows of the jobs cannot be rendered, and --strict stops before "
                f"rendering:\n{listing}\nMend them, or leave --strict out to render the others."
            )
        if self.options.strict and found.fields:
            warnings.warn(
                f"The jobs have fields that are not read: {', '.join(sorted(found.fields))[:300]}. "
                "They go into the records.",
                stacklevel=2,
            )
        journals.record_bad_rows(faults)
        if not found.total and not found.bad_rows and selection.shard.count == 1:
            raise JobsError("The job file has no rows. Give at least one prompt.")
        return found

    def _batches(self, selection: Selection, run_file: RunFile) -> Iterator[Batch]:
        """The batches to render, until the run is to stop."""
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
