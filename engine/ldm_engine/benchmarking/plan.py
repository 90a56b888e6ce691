"""What a benchmark is to measure: its options, checked as far as can be without measuring."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..bundle.bundle import Bundle
from ..errors import InvalidArgumentError
from ..runtimes.base import RuntimeOptions
from ..runtimes.choice import Choice, resolve_options, select_runtimes
from ..sampling.opening import prepare
from ..sampling.request import MAX_BATCH
from .measure import prompts
from .results import (
    OFFLINE,
    SCENARIOS,
    Case,
    Row,
    Settings,
    call_settings,
    rows_of,
    sizes_of,
)

DEFAULT_BATCH_SIZES = "1,2,4,8"


@dataclass(frozen=True)
class Plan:
    """What is to be measured, checked as far as can be without measuring."""

    bundle: Bundle
    selected: Sequence[tuple[Choice, str]]
    refusals: Sequence[str]
    settings: Settings
    scenarios: tuple[str, ...]
    batch_sizes: tuple[int, ...]

    def cases_of(self, scenario: str) -> list[Case]:
        """The cases that a scenario needs."""
        sizes = sizes_of(scenario, self.batch_sizes)
        return [Case(c.runtime.name, p, size) for c, p in self.selected for size in sizes]

    @property
    def cases(self) -> list[Case]:
        """The cases of all scenarios, each once, those of one configuration together."""
        sizes = {c.batch_size for s in self.scenarios for c in self.cases_of(s)}
        return [Case(c.runtime.name, p, size) for c, p in self.selected for size in sorted(sizes)]

    @property
    def rows(self) -> list[Row]:
        """The rows that the results will have if nothing fails."""
        return [
            row for s in self.scenarios for case in self.cases_of(s) for row in rows_of(case, s)
        ]

    def check_files(self) -> None:
        """Refuse a damaged bundle once, rather than in every process."""
        for choice, precision in self.selected:
            options = RuntimeOptions(precision=precision)
            prepare(self.bundle, choice, options).check_hashes()


def make_plan(
    bundle: Bundle,
    *,
    runtime: str,
    precision: str,
    scenario: str,
    batch_size: str | None,
    threads: int | None,
    warm_up: int,
    min_samples: int,
    min_seconds: float,
    **call: Any,
) -> Plan:
    """Check the options of ``ldm-engine bench``, which documents them; `call` are of an image.

    Raises:
        InvalidArgumentError: if a value is outside what is accepted.
        RuntimeUnavailableError: if no such runtime and precision runs here.
    """
    scenarios = _parse_scenarios(scenario)
    if batch_size is not None and OFFLINE not in scenarios:
        raise InvalidArgumentError(
            f"`--batch-size {batch_size}` is for the scenario offline; single-stream renders one "
            "image at a time. Leave it out, or add --scenario offline."
        )
    selected, refusals = select_runtimes(bundle, runtime, precision)
    choice, first_precision = selected[0]
    options = resolve_options(choice.runtime, "cpu", first_precision, threads)
    request = prepare(bundle, choice, options).request({"prompt": prompts(1), **call})
    settings = Settings(
        call={s.name: request.values(0)[s.name] for s in call_settings()},
        threads=options.threads,
        warm_up=warm_up,
        min_samples=min_samples,
        min_seconds=min_seconds,
    )
    sizes: tuple[int, ...] = ()
    if OFFLINE in scenarios:
        sizes = _parse_batch_sizes(DEFAULT_BATCH_SIZES if batch_size is None else batch_size)
    return Plan(bundle, selected, refusals, settings, scenarios, sizes)


def _parse_scenarios(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise InvalidArgumentError(
            f"`--scenario` names {', '.join(map(repr, unknown))}; {' and '.join(SCENARIOS)} are "
            "accepted, one or both with a comma."
        )
    return tuple(name for name in SCENARIOS if name in names)


def _parse_batch_sizes(text: str) -> tuple[int, ...]:
    sizes = [size.strip() for size in text.split(",")]
    bad = [s for s in sizes if not re.fullmatch("[0-9]{1,5}", s) or not 0 < int(s) <= MAX_BATCH]
    if bad:
        raise InvalidArgumentError(
            f"`--batch-size` names {', '.join(map(repr, bad))}; whole numbers from 1 to "
            f"{MAX_BATCH} are accepted, with commas: --batch-size {DEFAULT_BATCH_SIZES}"
        )
    return tuple(sorted(set(map(int, sizes))))
