"""The table of a bundle's fitted solvers, for ``fit`` and ``info``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table as Grid

from ..fitting.tables import DDIM_STEPS
from ..sampling.fitted import Figures, Table, Tables
from ..sampling.values import number_text
from . import console


def print_tables(tables: Tables) -> None:
    """What ``info`` shows of a bundle's tables, also that there are none."""
    if tables.fault:
        console.out.print(f"Fitted solvers cannot be used: {console.plain(tables.fault)}")
    elif tables.tables:
        print_solvers(tables.tables)
        console.out.print(
            "The first mark of a guidance is what --num-inference-steps auto takes there."
        )
    else:
        console.out.print("No solvers were fitted to the bundle; `ldm-engine fit` makes some.")


def print_solvers(tables: Sequence[Table]) -> None:
    """A line for each of them: how near its pictures are, beside DDIM's and DPM-Solver++'s."""
    console.out.print(
        "PSNR to the converged pictures of held-out prompts in dB: median/10th percentile/least. "
        f"What reaches {DDIM_STEPS} steps of ddim in all three has a mark."
    )
    console.print_whole(_grid(tables))


def _grid(tables: Sequence[Table]) -> Grid:
    grid = console.plain_table(
        ">guidance", ">steps", "fitted", "", f"ddim {DDIM_STEPS}", "dpmsolver++", ">calls saved",
        ">pictures", "fitted in",
    )  # fmt: skip
    for table in tables:
        grid.add_row(
            number_text(table.guidance_scale),
            str(table.steps),
            _shown(table.figures),
            "✓" if table.figures.reaches(table.ddim_50) else "",
            _shown(table.ddim_50),
            _shown(table.dpmsolver),
            f"{1 - table.steps / DDIM_STEPS:.0%}",
            str(table.figures.count),
            f"{table.origin.runtime} {table.origin.precision}",
        )
    return grid


def _shown(figures: Figures) -> str:
    return f"{figures.median:.1f}/{figures.tenth_percentile:.1f}/{figures.least:.1f}"
