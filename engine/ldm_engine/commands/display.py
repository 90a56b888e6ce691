"""What is seen of a run: a bar in a terminal, log lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from threading import Event, Thread
from typing import Any

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from ..machine.files import reason
from ..rendering.execution import Progress
from ..rendering.selection import Group
from ..rendering.summary import Forecast, Summary
from ..sampling.rules import steps_to_run
from . import console
from .log import LOG

LOG_EVERY_S = 5.0
_SHOWN_GROUPS = 10

Show = Callable[[Progress], None]


@contextmanager
def shown(as_json: bool) -> Iterator[Show]:
    """Call the result with each new state of the run."""
    with ExitStack() as stack:
        if as_json:
            shows = [stack.enter_context(_json_lines())]
        elif console.err.is_terminal:
            shows = [stack.enter_context(_bar())]
        else:
            shows = [stack.enter_context(_log(_tell))]
        if LOG.is_open:
            shows.append(stack.enter_context(_log(LOG.write, with_time=False)))

        def show(progress: Progress) -> None:
            for each in shows:
                each(progress)

        yield show


@dataclass
class Reading:
    """Prompts of a run that the model does not read as they stand."""

    truncated: int = 0
    with_unknown_words: int = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Count an image's prompt."""
        self.truncated += record["prompt_truncated"]
        self.with_unknown_words += bool(record["unknown_words"])


def print_summary(summary: Summary, reading: Reading, as_json: bool) -> None:
    """What the run came to."""
    progress = summary.progress
    if as_json:
        facts = {n: getattr(summary, n) for n in ("output", "gallery", "stopped", "changed")}
        facts |= {f"prompts_{name}": count for name, count in asdict(reading).items()}
        if fault := _print_json("summary", progress, **facts):
            _tell(f"{fault}; the run is complete without it.")
            _let_go()
        return
    lines = [
        f"{progress.done} of {progress.total} images are in {summary.output}",
        f"{progress.rendered} of them by this run, in {_duration(progress.seconds)}",
    ]
    if progress.failed:
        noun = "failure is" if progress.failed == 1 else "failures are"
        lines.append(f"{progress.failed} {noun} listed in {summary.failures} there")
    if count := reading.truncated:
        noun = "prompt was" if count == 1 else "prompts were"
        lines.append(f"{count} {noun} longer than the model takes and cut off")
    if count := reading.with_unknown_words:
        noun = "prompt has" if count == 1 else "prompts have"
        lines.append(f"{count} {noun} words that the model has no token for, named in the records")
    if summary.gallery:
        lines.append(f"look at {summary.gallery}")
    _report("; ".join(lines) + ".", is_printed=not console.err.quiet)


def print_forecast(forecast: Forecast, as_json: bool) -> None:
    """What a run would render."""
    survey = forecast.survey
    groups = [_group_facts(group) for group in survey.groups.values()]
    if as_json:
        counts = {n: getattr(survey, n) for n in ("total", "to_do", "done", "failed", "bad_rows")}
        facts = {n: v for n, v in vars(forecast).items() if n not in ("survey", "seconds")}
        facts |= {"seconds_left": forecast.seconds, "groups": groups, "faults": survey.faults}
        print(json.dumps({"event": "forecast", **counts, **facts}), flush=True)
        return
    lines = [
        f"{survey.to_do} of {survey.total} images would be rendered with {forecast.bundle} "
        f"({forecast.runtime}, {forecast.precision}) into {forecast.output}; nothing was written."
    ]
    for group in groups[:_SHOWN_GROUPS]:
        size = f"{group['width']}x{group['height']}"
        how = "guided" if group["guided"] else "without guidance"
        lines.append(f"  - {group['images']} of {size} in {group['steps']} steps, {how}")
    if forecast.first:
        more = ", …" if survey.to_do > len(forecast.first) else ""
        lines.append(f"Their ids: {', '.join(forecast.first)}{more}.")
    lines.append(f"{survey.done} are there; {survey.failed} failed before and are not tried again.")
    if survey.bad_rows:
        noun = "row" if survey.bad_rows == 1 else "rows"
        lines.append(f"{survey.bad_rows} {noun} cannot be rendered:\n{survey.faults}")
    if forecast.seconds is None:
        lines.append("How long it takes is measured when a run begins.")
    elif survey.to_do:
        lines.append(f"About {_duration(forecast.seconds)}, by what was measured when it began.")
    _report("\n".join(lines), is_printed=True)  # what was asked for, also with --quiet


def _report(text: str, is_printed: bool) -> None:
    """Log `text`, and print it or not."""
    LOG.write(text)
    if is_printed:
        console.out.print(console.plain(text))


def _group_facts(group: Group) -> dict[str, int | bool]:
    values = group.example.values
    size = {name: values[name] for name in ("width", "height")}
    is_guided = values["guidance_scale"] != 1.0
    return {"images": group.images, **size, "steps": steps_to_run(values), "guided": is_guided}


@contextmanager
def _json_lines() -> Iterator[Show]:
    """A line for each state; a run of hours does not depend on who reads them, or where they go."""
    is_told = False

    def show(progress: Progress) -> None:
        nonlocal is_told
        fault = _print_json("progress", progress)
        if fault and not is_told:
            is_told = True
            _tell(f"{fault}; the run goes on without it.")

    try:
        yield show
    except BaseException:
        _let_go()
        raise


def _print_json(event: str, progress: Progress, **more: object) -> str:
    """Print an event; returns what is wrong if that cannot be done.

    What a full disk does not take waits in Python's buffer, and goes before the next line.
    """
    facts = {n: round(v, 3) if isinstance(v, float) else v for n, v in asdict(progress).items()}
    try:
        print(json.dumps({"event": event, **facts, **more}), flush=True)
    except BrokenPipeError:
        _let_go()
        return "The reader of the progress has gone"
    except OSError as error:
        return f"The progress cannot be written: {reason(error)}"
    return ""


def _let_go() -> None:
    """Let what could not be written go nowhere: Python would fail with it at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        with suppress(OSError):
            sys.stdout.flush()


def _tell(text: str) -> None:
    """Print on stderr, unless that takes nothing either."""
    with suppress(OSError):
        console.err.print(console.plain(text))


@contextmanager
def _bar() -> Iterator[Show]:
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console.err) as bar:
        task = bar.add_task(_describe(None), total=None)

        def show(progress: Progress) -> None:
            completed = progress.total - progress.to_do
            description = _describe(progress)
            bar.update(task, total=progress.total, completed=completed, description=description)

        yield show


@contextmanager
def _log(write: Callable[[str], None], with_time: bool = True) -> Iterator[Show]:
    """A line every few seconds, also while a batch takes minutes."""
    latest: Progress | None = None
    ended = Event()

    def show(progress: Progress) -> None:
        nonlocal latest
        latest = progress

    def log() -> None:
        write(f"{time.strftime('%H:%M:%S ') if with_time else ''}{_describe(latest)}")

    def log_on() -> None:
        while not ended.wait(LOG_EVERY_S):
            log()

    logger = Thread(target=log_on, daemon=True)
    logger.start()
    try:
        yield show
        log()
    finally:
        ended.set()
        logger.join()


def _describe(progress: Progress | None) -> str:
    if progress is None:
        return "reading the jobs"
    shown = f"{progress.done} of {progress.total} images"
    if progress.to_do and not progress.images_per_second:
        return f"{shown}, preparing the next"
    if progress.failed:
        shown += f", {progress.failed} failed"
    if progress.images_per_second:
        shown += f", {progress.images_per_second:.3g} a second"
    if progress.seconds_left and progress.to_do:
        shown += f", {_duration(progress.seconds_left)} left"
    return shown


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
