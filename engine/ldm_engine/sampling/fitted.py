"""Solvers fitted to a bundle: tables of weights, and which of them serves a request.

A table holds for one guidance and one step count its timesteps, for each step the weights of the
latents and of the history in the data form (``solvers.py``), and how its pictures compare with
DDIM's, as measured on prompts that it was not fitted to. ``ldm_engine/fitting`` makes tables, and
``solvers_file.py`` keeps them.

Its twins are ``cpp/src/sampling/fitted.cpp`` and ``examples/browser/fitted.mjs``;
``tests/data/solvers_files.json`` holds them to the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..errors import BundleError, InvalidArgumentError
from .schedule import NoiseSchedule
from .solvers import Row, fitted_rows
from .values import number_text

DIGEST_DIGITS = 16
#: Weights of two tables are mixed for a guidance between theirs if those are at most this far
#: apart: up to twice that far pictures were as near as by weights of its own
#: (``benchmarks/notes/solvers.md``).
MAX_GAP = 1.0


@dataclass(frozen=True)
class Figures:
    """PSNR to the converged pictures of prompts that nothing was fitted to, in dB."""

    count: int  #: of pictures
    median: float
    tenth_percentile: float
    least: float

    def reaches(self, other: Figures) -> bool:
        """Whether all of them are at least those of `other`."""
        return (
            self.median >= other.median
            and self.tenth_percentile >= other.tenth_percentile
            and self.least >= other.least
        )


@dataclass(frozen=True)
class Origin:
    """What a table was fitted with."""

    runtime: str
    precision: str
    images: int  #: that it was fitted to
    prompts_sha256: str  #: of all prompts, a line each
    version: str  #: of this package


@dataclass(frozen=True)
class Table:
    """One fitted solver."""

    guidance_scale: float
    timesteps: tuple[int, ...]  #: descending, one a step
    weights: tuple[tuple[float, ...], ...]  #: a step's a, b[0], b[1], ...
    figures: Figures  #: none better than `reference_db` allows to be seen
    ddim_50: Figures  #: of DDIM with 50 steps, of the same pictures
    dpmsolver: Figures  #: of DPM-Solver++ 2M with as many steps as this one, likewise
    #: How near the converged pictures are to what they converge to: the least of the first ones.
    reference_db: float
    origin: Origin

    @property
    def steps(self) -> int:
        """Calls of the UNet."""
        return len(self.timesteps)

    @property
    def key(self) -> tuple[float, int]:
        """What there is one table for: guidance and steps."""
        return self.guidance_scale, self.steps

    @cached_property
    def digest(self) -> str:
        """A hash of all that makes the pixels: a step's timestep, number of weights, weights.

        They are hashed as float64, little-endian.
        """
        numbers = [
            number
            for timestep, row in zip(self.timesteps, self.weights, strict=True)
            for number in (timestep, len(row), *row)
        ]
        return hashlib.sha256(np.asarray(numbers, "<f8").tobytes()).hexdigest()[:DIGEST_DIGITS]

    def rows(self, schedule: NoiseSchedule) -> tuple[Row, ...]:
        """The solver's rows."""
        return fitted_rows(schedule, self.timesteps, self.weights)


@dataclass(frozen=True)
class Tables:
    """The tables of a bundle, which may have none."""

    tables: tuple[Table, ...] = ()  #: by guidance, then by steps
    fault: str = ""  #: why those that it has cannot be used

    def of(self, guidance_scale: float) -> tuple[Table, ...]:
        """Those for this guidance, mixed where need be, those of the fewest steps first.

        Raises:
            BundleError: if the bundle's tables cannot be read.
            InvalidArgumentError: if there are none.
        """
        if self.fault:
            raise BundleError(self.fault)
        found = self._serving(guidance_scale)
        if not found:
            had = ", ".join(
                dict.fromkeys(f"{number_text(table.guidance_scale)}" for table in self.tables)
            )
            raise InvalidArgumentError(
                "The bundle has no fitted solver for a `guidance_scale` of "
                f"{number_text(guidance_scale)}{f', but for {had}' if had else ''}; between two of "
                f"them at most {MAX_GAP:g} apart it would be mixed. Make one with "
                f"{_command(guidance_scale)}`, or use the solver dpmsolver++ with a number of "
                "steps."
            )
        return found

    def find(self, guidance_scale: float, steps: int) -> Table:
        """The table for exactly these.

        Raises:
            BundleError: if the bundle's tables cannot be read.
            InvalidArgumentError: if there is none.
        """
        same = self.of(guidance_scale)
        for table in same:
            if table.steps == steps:
                return table
        raise InvalidArgumentError(
            f"The bundle has no fitted solver of {steps} steps for a `guidance_scale` of "
            f"{number_text(guidance_scale)}, but of {_steps(same)}. Give one of these "
            "as `num_inference_steps`, or auto, or make one with "
            f"{_command(guidance_scale)} --steps {steps}`."
        )

    def fewest(self, guidance_scale: float) -> Table:
        """The table of the fewest steps whose figures are all at least DDIM-50's.

        Raises:
            BundleError: if the bundle's tables cannot be read.
            InvalidArgumentError: if there is none.
        """
        same = self.of(guidance_scale)
        for table in same:
            if table.figures.reaches(table.ddim_50):
                return table
        raise InvalidArgumentError(
            f"No fitted solver of the bundle reaches DDIM's 50 steps at a `guidance_scale` of "
            f"{number_text(guidance_scale)}; those of {_steps(same)} steps do not. "
            f"Fit more steps with {_command(guidance_scale)} --steps "
            f"{same[-1].steps + 2},{same[-1].steps + 4}`, or give `num_inference_steps`."
        )

    def _serving(self, guidance_scale: float) -> tuple[Table, ...]:
        """For each number of steps the table of this guidance, or of its neighbours."""
        by_steps: dict[int, list[Table]] = {}
        for table in self.tables:
            by_steps.setdefault(table.steps, []).append(table)
        serving = (_served_by(by_steps[steps], guidance_scale) for steps in sorted(by_steps))
        return tuple(table for table in serving if table is not None)

    def merged(self, others: Sequence[Table]) -> Tables:
        """These with `others`, which take the place of those for the same guidance and steps."""
        all_of_them = {table.key: table for table in (*self.tables, *others)}
        return Tables(tuple(all_of_them[key] for key in sorted(all_of_them)))


def _served_by(tables: Sequence[Table], guidance_scale: float) -> Table | None:
    """The table that some of the same number of steps, in order of guidance, have for another."""
    below = [table for table in tables if table.guidance_scale <= guidance_scale]
    above = [table for table in tables if table.guidance_scale > guidance_scale]
    if below and below[-1].guidance_scale == guidance_scale:
        return below[-1]
    if not below or not above:
        return None
    return _mixed(below[-1], above[0], guidance_scale)


def _mixed(low: Table, high: Table, guidance_scale: float) -> Table | None:
    """Weights between those of two tables, if these are near enough to each other and alike."""
    gap = high.guidance_scale - low.guidance_scale
    lengths = [[len(row) for row in table.weights] for table in (low, high)]
    if gap > MAX_GAP or low.timesteps != high.timesteps or lengths[0] != lengths[1]:
        return None
    share = (guidance_scale - low.guidance_scale) / gap
    weights = tuple(
        tuple((1 - share) * a + share * b for a, b in zip(row, other, strict=True))
        for row, other in zip(low.weights, high.weights, strict=True)
    )
    # What one of them does not reach is not promised between them.
    worse = high if low.figures.reaches(low.ddim_50) else low
    return replace(worse, guidance_scale=guidance_scale, weights=weights)


def _command(guidance_scale: float) -> str:
    return f"`ldm-engine fit BUNDLE --guidance {number_text(guidance_scale)}"


def _steps(tables: Sequence[Table]) -> str:
    return ", ".join(str(table.steps) for table in tables)
