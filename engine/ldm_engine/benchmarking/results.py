"""What a benchmark measured: its settings, its samples, and the rows that they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..bundle.contract import PROGRAMS
from ..sampling.settings import PICTURE_SETTINGS, Setting, common_settings

SINGLE_STREAM, OFFLINE = "single-stream", "offline"  # MLPerf's terms
SCENARIOS = (SINGLE_STREAM, OFFLINE)
END_TO_END, UNET, HOST = "end_to_end", "unet", "host"
STAGES = (END_TO_END, *PROGRAMS, HOST)

Samples = tuple[float, ...]  #: seconds


def call_settings() -> list[Setting]:
    """The settings of an image that a benchmark has options for: all but texts and pictures."""
    left_out = ("negative_prompt", *PICTURE_SETTINGS)
    return [setting for setting in common_settings() if setting.name not in left_out]


@dataclass(frozen=True)
class Settings:
    """What is rendered in each call, and for how long calls are measured."""

    call: Mapping[str, Any]  #: the values of ``call_settings()`` by name
    threads: int
    warm_up: int  #: calls after the first that do not count
    min_samples: int  #: calls that count, at least
    min_seconds: float  #: of calls that count, at least

    @property
    def work(self) -> dict[str, Any]:
        """What changes how much is computed, by the command's option; scales do not."""
        scale, eta = self.call["guidance_scale"], self.call["eta"]
        work = {
            **self.call,
            "guidance_scale": "off (1.0)" if scale == 1.0 else "on (not 1.0)",
            "eta": "0 (no noise)" if eta == 0 else "above 0 (noise)",
            "threads": self.threads,
        }
        return {f"--{name.replace('_', '-')}": value for name, value in work.items()}


@dataclass(frozen=True)
class Case:
    """One configuration: what one process measures."""

    runtime: str
    precision: str
    batch_size: int

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}, batch {self.batch_size}"


@dataclass(frozen=True)
class Measurement(Case):
    """What was measured of one case; "first" are figures of a process that found no cache."""

    first_load_s: float
    first_start_to_first_step_s: float
    load_s: float
    start_to_first_step_s: float  #: from the start of the process
    start_to_first_image_s: float  #: likewise
    first_call_s: float
    peak_resident_bytes: int
    peak_anonymous_bytes: int
    samples_s: Mapping[str, Samples]  #: by stage

    def call_medians(self, stage: str) -> Samples:
        """The median of a stage's samples in each call: what of them is independent, if anything.

        The steps of one call were all taken in the same mood of the machine.
        """
        samples = self.samples_s[stage]
        length = max(1, len(samples) // len(self.samples_s[END_TO_END]))
        return tuple(median(samples[i : i + length]) for i in range(0, len(samples), length))

    @property
    def images_per_second(self) -> float:
        """All images of the calls that count over all their time."""
        calls = self.samples_s[END_TO_END]
        return self.batch_size * len(calls) / sum(calls)


@dataclass(frozen=True)
class Failure(Case):
    """A case that could not be measured."""

    reason: str


@dataclass(frozen=True)
class Row:
    """One thing that is measured: what two results are matched by."""

    runtime: str
    precision: str
    scenario: str
    batch_size: int
    stage: str

    def __str__(self) -> str:
        return (
            f"{self.runtime} {self.precision}, {self.scenario}, batch {self.batch_size}, "
            f"{self.stage}"
        )


@dataclass(frozen=True)
class Source:
    """Which bundle was measured."""

    digest: str
    source: str  #: of the model, as its export recorded it


@dataclass(frozen=True)
class Results:
    """One run of ``ldm-engine bench``."""

    date_utc: str
    is_complete: bool  #: False if it was interrupted
    bundle: Source
    load_average: float  #: of the minute before the first measurement
    machine: Mapping[str, Any]
    versions: Mapping[str, str | None]
    settings: Settings
    scenarios: tuple[str, ...]
    batch_sizes: tuple[int, ...]  #: of the scenario offline
    measurements: tuple[Measurement, ...]
    failures: tuple[Failure, ...]

    def of(self, scenario: str) -> list[Measurement]:
        """The measurements that belong to a scenario."""
        if scenario not in self.scenarios:
            return []
        sizes = sizes_of(scenario, self.batch_sizes)
        return [m for m in self.measurements if m.batch_size in sizes]

    @property
    def rows(self) -> dict[Row, Samples]:
        """Every row with the median of its samples in each call."""
        return {
            row: m.call_medians(row.stage)
            for scenario in self.scenarios
            for m in self.of(scenario)
            for row in rows_of(m, scenario)
        }


def sizes_of(scenario: str, batch_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The batch sizes of a scenario: single-stream has 1, `batch_sizes` are those of offline."""
    return (1,) if scenario == SINGLE_STREAM else batch_sizes


def rows_of(case: Case, scenario: str) -> Iterator[Row]:
    """The rows that a case gives in a scenario: every stage, or for throughput what makes it."""
    stages = STAGES if scenario == SINGLE_STREAM else (END_TO_END, UNET)
    for stage in stages:
        yield Row(case.runtime, case.precision, scenario, case.batch_size, stage)
