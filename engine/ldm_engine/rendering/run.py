"""A run from jobs to images: the order of its steps, from the lock to the gallery."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..machine.lock import locked
from ..machine.storage import Storage, Unwritten
from ..sampling.opening import Opened, open_to_run
from ..sampling.rules import steps_to_run
from .archives import TarJournals
from .execution import Counter, Execution, Progress
from .gallery.page import PAGE, write_gallery
from .jobs.rows import Defaults, RowReader
from .jobs.sources import Jobs, JobsError, check_jobs
from .journals import Journals
from .options import RunOptions, Shard
from .places import RunFile, check_same, find_place, fingerprint, load_run_file
from .plan import Batch, plan_batches
from .ray import import_ray
from .records import Outcome
from .selection import Selection, States, Survey
from .summary import Forecast, Summary

_SHOWN_FAULTS, _SHOWN_IDS = 5, 10
_CHUNK = 1000


@dataclass(frozen=True)
class _Place:
    """What was opened, and where the run's images go."""

    opened: Opened
    reader: RowReader
    jobs_format: str | None
    fingerprint: dict[str, Any]
    shard: Shard
    storage: Storage


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
        place = self._open()
        storage, shard, wanted = place.storage, place.shard, place.fingerprint
        with locked(storage, shard.label):
            existing = load_run_file(storage)  # another may have begun it meanwhile
            if existing is not None:
                check_same(storage, existing.fingerprint, wanted)
            storage.prepare()
            selection, journals = self._select(place, storage)
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
                place.opened.check_hashes()
                execution = Execution.begin(place.opened, self.options, storage, survey, wanted)
                batches = self._batches(selection, execution.run_file)
                outcomes = execution.render(
                    batches, survey.to_do, journals.commit, self.should_stop
                )
                yield from self._counted(outcomes, counter, self.summary)
            self._end(storage, journals, self.summary)

    def forecast(self) -> Forecast:
        """What ``records()`` would render; nothing is written.

        Raises:
            LDMEngineError: whatever would stop the run before it renders.
        """
        place = self._open()
        selection, journals = self._select(place, Unwritten(place.storage))
        survey = self._survey(selection, journals)
        to_do = (task for task in selection.tasks() if not selection.state(task))
        run_file = load_run_file(place.storage)
        steps = sum(g.images * steps_to_run(g.example.values) for g in survey.groups.values())
        return Forecast(
            place.storage.output,
            self.bundle_path,
            place.opened.choice.runtime.name,
            self.options.precision,
            survey,
            tuple(task.identity.id for task in islice(to_do, _SHOWN_IDS)),
            steps * run_file.costs.image_step_s / self.options.workers if run_file else None,
        )

    def _open(self) -> _Place:
        """Check the options, open the bundle and find the place."""
        options = self.options
        shard = Shard.parse(options.shard)
        jobs_format = check_jobs(self.jobs, options.jobs_format)
        opened = open_to_run(
            self.bundle_path,
            runtime=options.runtime,
            precision=options.precision,
            device=options.device,
            threads=options.threads,
        )
        reader = RowReader(opened.limits, self.defaults)
        if options.executor == "ray":
            import_ray()
        wanted = fingerprint(opened, options, self.defaults)
        storage = find_place(options.output, shard.label, wanted, options.force)
        return _Place(opened, reader, jobs_format, wanted, shard, storage)

    def _select(self, place: _Place, storage: Storage) -> tuple[Selection, Journals]:
        """The images of the jobs, and what `storage` has of them."""
        states, journals = States(), self._journals(storage, place.shard)
        journals.load(states)
        for notice in journals.notices():
            warnings.warn(notice, stacklevel=2)
        selection = Selection(
            self.jobs,
            place.jobs_format,
            place.reader,
            states,
            place.shard,
            self.options.strict,
            self.folder,
        )
        return selection, journals

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
            write_gallery(
                storage,
                journals.read_records(),
                journals.read_failures(),
                run_file.fingerprint,
                str(Path(self.bundle_path).absolute()),
                journals.edited,
            )
        if summary.progress.done:
            summary.gallery = f"{storage.output}/{PAGE}"
        storage.finish([journals.records, journals.failures])

    def _journals(self, storage: Storage, shard: Shard) -> Journals:
        if self.options.layout == "webdataset":
            return TarJournals(storage, shard, self.options.archive_images)
        return Journals(storage, shard, self.options.replace_changed)

    def _survey(self, selection: Selection, journals: Journals) -> Survey:
        """Read all jobs once and report what is wrong with them.

        Raises:
            JobsError: with ``strict`` if anything is, or if there is nothing in the file.
        """
        faults: list[Outcome] = []
        shown: list[str] = []
        found = Survey()
        for item in selection.survey(of_all_shards=self.options.strict):
            if isinstance(item, Survey):
                found = item
                break
            if len(shown) < _SHOWN_FAULTS:
                shown.append(f"  - row {item['row']}: {item['error']}")
            if not self.options.strict:
                faults.append(item)
            if len(faults) >= _CHUNK:
                journals.record_bad_rows(faults)
                faults.clear()
        found.faults = "\n".join(shown)
        if self.options.strict and found.bad_rows:
            raise JobsError(
                f"{found.bad_rows} rows of the jobs cannot be rendered, and --strict stops before "
                f"rendering:\n{found.faults}\nMend them, or leave --strict out to render the "
                "others."
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
