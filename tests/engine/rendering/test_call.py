"""``ldm_engine.render``: what it returns renders once, as a whole or record by record."""

from __future__ import annotations

import gc
import io
import sys
import warnings

import pytest

import ldm_engine
from ldm_engine.errors import LDMEngineError
from rendering_runs import images_of

SETTINGS = {"num_inference_steps": 1, "batch_size": 1, "runtime": "onnxruntime"}


@pytest.fixture
def prepared(tiny_onnx_bundle, tmp_path):
    def prepare(**options):
        return ldm_engine.render(
            tiny_onnx_bundle.path, ["a", "b"], output=tmp_path / "out", **{**SETTINGS, **options}
        )

    return prepare


def test_a_run_renders_all_and_says_what_it_came_to(prepared, tmp_path):
    seen = []
    run = prepared(on_progress=seen.append)
    assert "not begun" in repr(run)
    assert not (tmp_path / "out").exists()
    summary = run.run()
    assert (summary.progress.done, summary.progress.failed) == (2, 0)
    assert summary.output == str(tmp_path / "out")
    assert len(images_of(tmp_path / "out")) == 2
    assert seen[-1] == summary.progress
    assert "not begun" not in repr(run)
    again = prepared().run()
    assert (again.progress.done, again.progress.rendered) == (2, 0)


def test_one_that_is_never_used_warns(prepared):
    run = prepared()
    with pytest.warns(ResourceWarning, match=r"nothing was rendered.*\.run\(\)"):
        run = None  # noqa: F841


@pytest.mark.parametrize("use", [lambda r: r.run(), next, lambda r: r.close()])
def test_one_that_was_used_does_not(prepared, use):
    run = prepared()
    use(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        run.close()
        del run
        gc.collect()


def test_it_renders_once(prepared):
    run = prepared()
    next(run)
    with pytest.raises(LDMEngineError, match="begun before"):
        run.run()
    assert len(list(run)) == 1
    assert run.summary.progress.done == 2


def test_a_run_draws_a_bar_where_someone_sees_it(prepared, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    prepared().run()
    assert "2/2" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", Terminal())
    prepared().run(progress_bar=False)
    assert sys.stderr.getvalue() == ""
