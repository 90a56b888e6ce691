"""Fits on the shapes model: what they gain on other prompts, and that they can be stopped."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import SHAPES
from ldm_engine import LDMTextToImagePipeline
from ldm_engine.errors import InvalidArgumentError, OutputError
from ldm_engine.fitting.fit import least_squares
from ldm_engine.fitting.images import Images
from ldm_engine.fitting.judging import MAX_DB, figures, psnr
from ldm_engine.fitting.prompts import hold_out, read_prompts
from ldm_engine.fitting.saved import Saved
from ldm_engine.fitting.tables import TableMaker, Work
from ldm_engine.sampling.fitted import Origin
from ldm_engine.sampling.solvers import ddim_rows, dpmsolver_rows

PROMPTS = read_prompts(SHAPES / "calibration_prompts.txt", "prompts", 8, 100)
FITTED_TO, HELD_OUT = hold_out(PROMPTS, 2)
WORK = Work(
    steps=(6,),
    prompts=FITTED_TO,
    held_out=HELD_OUT,
    images=8,
    held_out_images=4,
    origin=Origin("openvino", "fp32", 4, "0" * 64, "test"),
    reference_steps=50,
)
GUIDANCE = 2.0


class StoppedError(Exception):
    """What ends the work."""


@pytest.fixture(scope="module")
def pipe(shapes_bundle):
    with LDMTextToImagePipeline.from_pretrained(shapes_bundle.path, runtime="openvino") as opened:
        yield opened


@pytest.fixture(scope="module")
def made(pipe, tmp_path_factory):
    """The table of a work that was stopped on its way, and the calls that the second run made."""
    saved, calls = Saved(tmp_path_factory.mktemp("saved")), []

    def stop_at_70(number):
        calls.append(number)
        if sum(calls) >= 70:
            raise StoppedError

    with pytest.raises(StoppedError):
        list(TableMaker(pipe, WORK, GUIDANCE, saved).tables(stop_at_70))
    calls.clear()
    maker = TableMaker(pipe, WORK, GUIDANCE, saved)
    (table,) = maker.tables(calls.append)
    kept = []
    assert list(TableMaker(pipe, WORK, GUIDANCE, saved).tables(kept.append)) == [table]
    assert sum(kept) == maker.calls  # however much was kept
    return table, calls, maker.calls


def test_what_is_fitted_is_nearer_on_prompts_that_it_was_not_fitted_to(made):
    table, *_ = made
    fitted, usual = table.figures, table.dpmsolver
    assert table.steps == 6
    assert fitted.count == usual.count == table.ddim_50.count == 4
    assert fitted.median > usual.median + 1
    assert fitted.least > usual.least
    assert table.reference_db > table.ddim_50.median + 10 > 50


def test_work_that_was_stopped_goes_on(made):
    """All calls are reported, those of the converged pictures that were kept in one."""
    _, calls, expected = made
    assert sum(calls) == expected
    assert calls[0] > 50
    assert set(calls[1:]) == {1}


def test_a_walk_is_what_the_pipeline_renders(pipe):
    """Also with guidance off, in batches that are not full."""
    prompts, seeds = list(PROMPTS[:10]), list(range(10))
    for guidance, solver, rows in (
        (2.0, "dpmsolver++", dpmsolver_rows(pipe.schedule, pipe.schedule.log_snr_timesteps(4))),
        (1.0, "ddim", ddim_rows(pipe.schedule, 4, 0.0)),
    ):
        images = Images(pipe, prompts, seeds, guidance, lambda: None)
        pixels = images.decode(images.walk(rows)[None])
        expected = pipe(
            prompts, num_inference_steps=4, guidance_scale=guidance, solver=solver, seed=seeds,
            output_type="np",
        ).images  # fmt: skip
        np.testing.assert_allclose(pixels, expected, atol=2e-4)


def test_weights_that_are_exact_are_found():
    rng = np.random.default_rng(0)
    columns = [rng.standard_normal((3, 4, 8, 8)).astype(np.float32) for _ in range(3)]
    target = 0.5 * columns[0] + 2.0 * columns[1] - 0.25 * columns[2]
    found = least_squares(columns, target, np.array([0.4, 1.5, 0.0]))
    np.testing.assert_allclose(found, [0.5, 2.0, -0.25], atol=1e-5)


def test_columns_that_are_equal_keep_to_what_is_usual():
    column = np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)
    found = least_squares([column, column], 2 * column, np.array([1.5, 0.5]))
    np.testing.assert_allclose(found, [1.5, 0.5], atol=1e-4)


def test_figures_are_no_better_than_the_reference_allows():
    pixels = np.zeros((4, 2, 2, 3), np.float32)
    reference = pixels.copy()
    reference[1:] += 0.1
    assert psnr(pixels, reference) == pytest.approx([MAX_DB, 20, 20, 20], abs=1e-3)
    found = figures(psnr(pixels, reference), most=60)
    assert (found.count, found.median, found.least) == (4, pytest.approx(20), pytest.approx(20))
    assert figures(np.array([70.0, 80.0]), most=60).median == 60


def test_what_was_kept_and_is_damaged_is_made_again(tmp_path):
    saved, made = Saved(tmp_path), []

    def make():
        made.append(1)
        return {"a": np.arange(3.0)}

    for damage in (None, b"", b"PK", None):
        if damage is not None:
            (tmp_path / "x.npz").write_bytes(damage)
        assert saved.arrays("x", make)["a"].tolist() == [0, 1, 2]
    assert len(made) == 3


def test_what_cannot_be_kept_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        Saved(tmp_path / "file").arrays("x", lambda: {"a": np.zeros(1)})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a\nb\n", "hold 2 different prompts"),
        (b"", "hold 0 different prompts"),
        (b"a\n" * 100, "hold 1 different prompts"),
        (b"\xff\n" * 10, "not UTF-8: line 1"),
        ("a\nb\n".encode("utf-16-le"), "U+0000"),
    ],
)
def test_prompts_that_are_no_good_are_refused(tmp_path, content, says):
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidArgumentError) as caught:
        read_prompts(path, "prompts", 8, 100)
    assert says in str(caught.value)
    assert "8 to 100 different prompts" in str(caught.value)
