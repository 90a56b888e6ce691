"""The notebook runs as it stands, where `make demo` has run, and is stored without outputs."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT
from ldm_engine import NoiseSchedule, open_bundle
from ldm_engine.sampling.fitted import Tables
from ldm_engine.sampling.solvers_file import save_tables
from made_tables import made_table

TOUR = ROOT / "examples/tour.ipynb"


@pytest.fixture
def demo(shapes_bundle, tmp_path, monkeypatch) -> Path:
    """A checkout's folder `examples` beside what `make demo` leaves, a solver fitted included."""
    bundle = open_bundle(shutil.copytree(shapes_bundle.path, tmp_path / "demo-output/bundle"))
    schedule = NoiseSchedule.from_config(bundle.scheduler_config)
    save_tables(bundle, Tables((made_table(schedule, 2.0, 16),)), schedule)
    monkeypatch.setenv(
        "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    examples = tmp_path / "examples"
    examples.mkdir()
    return examples


def test_the_tour_runs(demo):
    notebook = nbformat.read(TOUR, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(demo)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    assert "16 steps, fitted" in text
    assert int(re.search(r"from 0 to 255: (\d+)", text)[1]) <= 1  # other rounding in a batch
    assert "pass" in text
    assert "fail" not in text, text
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 14


def test_it_is_stored_without_outputs():
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell.id for cell in code if cell.outputs or cell.execution_count]
