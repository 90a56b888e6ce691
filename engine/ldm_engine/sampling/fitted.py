"""Solvers fitted to a bundle: tables of rows for small step counts, with what was measured of each.

A table holds for one guidance and one step count its timesteps and, for each step, the weights of
the latents and of the history in the data form (``solvers.py``). ``ldm_engine/fitting`` makes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from ..errors import BundleError
from .schedule import NoiseSchedule
from .solvers import Row, dpmsolver_rows
from .values import is_number, is_whole, shown

MAX_TERMS = 16  #: of history, this call's among them
MAX_WEIGHT = 100.0  #: far beyond what a fit gives; keeps float32 finite
MAX_TABLES, MAX_STEPS = 1000, 200


@dataclass(frozen=True)
class Figures:
    """PSNR to the converged pictures of held-out prompts, in dB."""

    count: int
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
class Table:
    """One fitted solver."""

    guidance_scale: float
    timesteps: tuple[int, ...]  #: descending, one a step
    weights: tuple[tuple[float, ...], ...]  #: a step's a, b[0], b[1], ...
    figures: Figures
    ddim_50: Figures  #: of DDIM with 50 steps, on the same prompts
    dpmsolver: Figures  #: of DPM-Solver++ 2M with as many steps as this one, likewise

    @property
    def steps(self) -> int:
        """Calls of the UNet."""
        return len(self.timesteps)

    def rows(self, schedule: NoiseSchedule) -> tuple[Row, ...]:
        """The solver's rows."""
        forms = dpmsolver_rows(schedule, self.timesteps)  # of which the data form is taken
        return tuple(
            Row(form.timestep, form.p, form.q, a, tuple(b), 0.0)
            for form, (a, *b) in zip(forms, self.weights, strict=True)
        )


def find_table(tables: Iterable[Table], guidance_scale: float, steps: int) -> Table | None:
    """The table for exactly these, if there is one."""
    same = (t for t in tables if t.guidance_scale == guidance_scale and t.steps == steps)
    return next(same, None)


def fewest_steps(tables: Iterable[Table], guidance_scale: float) -> Table | None:
    """That of the fewest steps among those whose figures are all at least DDIM-50's."""
    good = [
        t for t in tables if t.guidance_scale == guidance_scale and t.figures.reaches(t.ddim_50)
    ]
    return min(good, key=lambda t: t.steps, default=None)


def tables_as_json(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """`tables` as a bundle holds them."""
    return [asdict(table) for table in tables]


def read_tables(content: Any, schedule: NoiseSchedule, where: str) -> tuple[Table, ...]:
    """The tables of a file that is called `where` in errors.

    Raises:
        BundleError: naming the first thing that is not as it must be.
    """
    if not isinstance(content, list) or len(content) > MAX_TABLES:
        raise BundleError(f"{where} has no list of at most {MAX_TABLES} tables. {_REMEDY}")
    tables = tuple(
        _read_table(entry, schedule, f"{where}, table {i}") for i, entry in enumerate(content, 1)
    )
    keys = [(table.guidance_scale, table.steps) for table in tables]
    if len(set(keys)) < len(keys):
        raise BundleError(f"{where} has two tables for one guidance and step count. {_REMEDY}")
    return tables


_REMEDY = "Fit it again with `ldm-engine fit`, or remove the fitted solvers with --remove."


def _read_table(entry: Any, schedule: NoiseSchedule, where: str) -> Table:
    def require(holds: bool, name: str, value: Any, accepted: str) -> None:
        if not holds:
            raise BundleError(f"{where}: `{name}` is {shown(value)}; {accepted}. {_REMEDY}")

    require(isinstance(entry, Mapping), "table", entry, "an object is expected")
    guidance, timesteps, weights = (
        entry.get(name) for name in ("guidance_scale", "timesteps", "weights")
    )
    require(_is_finite(guidance), "guidance_scale", guidance, "a number is expected")
    last = schedule.num_train_timesteps - 1
    require(
        isinstance(timesteps, list)
        and 0 < len(timesteps) <= MAX_STEPS
        and all(is_whole(t) and 0 <= t <= last for t in timesteps)
        and all(first > second for first, second in pairwise(timesteps)),
        "timesteps", timesteps, f"a descending list from {last} to 0 is expected",
    )  # fmt: skip
    require(
        isinstance(weights, list) and len(weights) == len(timesteps),
        "weights", weights, "one list for each timestep is expected",
    )  # fmt: skip
    for number, row in enumerate(weights, 1):
        require(
            isinstance(row, list)
            and 2 <= len(row) <= 1 + min(number, MAX_TERMS)
            and all(_is_finite(w) and abs(w) <= MAX_WEIGHT for w in row),
            f"weights of step {number}", row,
            f"2 to {1 + min(number, MAX_TERMS)} numbers up to {MAX_WEIGHT:g} are expected",
        )  # fmt: skip
    figures = (_read_figures(entry.get(n), n, require) for n in ("figures", "ddim_50", "dpmsolver"))
    return Table(
        float(guidance), tuple(timesteps), tuple(tuple(map(float, r)) for r in weights), *figures
    )


def _read_figures(entry: Any, name: str, require: Any) -> Figures:
    names = ("count", "median", "tenth_percentile", "least")
    values = [entry.get(n) if isinstance(entry, Mapping) else None for n in names]
    holds = is_whole(values[0]) and values[0] > 0 and all(_is_finite(v) for v in values[1:])
    require(holds, name, entry, f"an object of {', '.join(names)} is expected")
    return Figures(int(values[0]), *map(float, values[1:]))


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)
