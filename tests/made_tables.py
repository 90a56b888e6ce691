"""Tables of a fitted solver, made without a fit: for what reads, chooses and runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

from ldm_engine import Bundle, NoiseSchedule, open_bundle
from ldm_engine.sampling.fitted import Figures, Origin, Table, Tables
from ldm_engine.sampling.solvers import dpmsolver_rows
from ldm_engine.sampling.solvers_file import save_tables

ORIGIN = Origin("openvino", "fp32", 8, "0" * 64, "0.1.0")
DDIM = Figures(8, 46.0, 42.0, 37.0)


def made_table(
    schedule: NoiseSchedule, guidance_scale: float, steps: int, least: float = 38.0
) -> Table:
    """DPM-Solver++ with a third item of history; `least` decides whether it reaches DDIM."""
    grid = tuple(schedule.log_snr_timesteps(steps))
    weights = tuple(
        (float(row.a), *(float(b) for b in row.b), *((1e-3,) if 2 <= i < steps - 1 else ()))
        for i, row in enumerate(dpmsolver_rows(schedule, grid))
    )
    figures = Figures(8, 50.0, 45.0, least)
    return Table(guidance_scale, grid, weights, figures, DDIM, DDIM, 70.0, ORIGIN)


def copy_with_tables(bundle: Bundle, folder: Path) -> Bundle:
    """A copy of `bundle` with tables for guidance 6: 9 steps, and 12, the first to reach DDIM."""
    copied = open_bundle(shutil.copytree(bundle.path, folder, copy_function=shutil.copy))
    schedule = NoiseSchedule.from_config(copied.scheduler_config)
    tables = (made_table(schedule, 6.0, 9, least=30.0), made_table(schedule, 6.0, 12))
    save_tables(copied, Tables(tables), schedule)
    return copied
