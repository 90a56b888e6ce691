"""Tables show whole figures, and nothing of a foreign file as markup."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from ldm_engine.benchmarking.comparison import compare
from ldm_engine.commands.bench_tables import print_comparison, print_results
from made_results import made_measurement, made_results


@pytest.fixture
def to():
    return Console(file=io.StringIO(), width=40, soft_wrap=True)


def shown(to):
    return to.file.getvalue()


@pytest.mark.parametrize(
    ("scale", "median"),
    [(1e-5, "0.001"), (0.01, "1.050"), (1.0, "105.0"), (100.0, "10500"), (1e5, "10500000")],
)
def test_figures_of_any_size_are_whole_in_a_narrow_terminal(to, scale, median):
    machine = {"processor": "A", "threads": 2, "memory_bytes": 8 << 30}
    print_results(made_results(made_measurement(scale=scale, count=11), machine=machine), to)
    row = next(line for line in shown(to).splitlines() if "text_encoder" in line)
    assert row.split()[-5] == median
    assert "e+" not in shown(to)
    assert "8.00 GiB" in shown(to)


def test_foreign_names_are_no_markup(to):
    measurement = replace(made_measurement(), runtime="[red]it[/]", precision="\x1b[2J")
    results = made_results(measurement)
    print_comparison(compare(results, results), ["[bold]note\x1b[2J"], 0.05, to)
    assert "[red]it[/]" in shown(to)
    assert "[bold]note" in shown(to)
    assert "\x1b[2J" not in shown(to)
