"""Converged pictures: DPM-Solver++ 2M on a grid so fine that a finer one changes little."""

from __future__ import annotations

from collections.abc import Iterable

from ..sampling.schedule import NoiseSchedule
from ..sampling.solvers import Row, dpmsolver_rows

#: What is judged against converged pictures must be this much farther from them than they are from
#: those of a finer grid.
MARGIN_DB = 10.0
STEPS = 120  #: of the grid, beside the timesteps that are fitted


def reference_rows(
    schedule: NoiseSchedule, steps: int, wanted: Iterable[int] = ()
) -> tuple[Row, ...]:
    """The rows of a grid of `steps` that passes through the timesteps `wanted`."""
    steps = min(steps, schedule.num_train_timesteps)
    fine = {*schedule.log_snr_timesteps(steps), *wanted}
    return dpmsolver_rows(schedule, sorted(fine, reverse=True))
