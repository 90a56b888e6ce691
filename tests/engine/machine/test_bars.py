"""Bars of calls from Python, on a stderr that says it is a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.machine.bars import HIDDEN, BarOptions, drawn_bar

CALL = {"num_inference_steps": 3, "output_type": "np", "seed": 0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def see(monkeypatch):
    """Makes stderr a new terminal. To be called in the test, before which pytest sets stderr."""

    def begin():
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return begin


@pytest.fixture(scope="module")
def pipe(tiny_bundle):
    with LDMTextToImagePipeline.from_pretrained(tiny_bundle.path) as pipe:
        yield pipe


@pytest.fixture(autouse=True)
def default_bars(pipe):
    pipe.set_progress_bar_config()


def test_a_call_draws_its_steps(pipe, see):
    terminal = see()
    pipe("a", **CALL)
    drawn = terminal.getvalue()
    assert "rendered" in drawn
    assert "3/3" in drawn


def test_nothing_is_drawn_elsewhere(pipe, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    pipe("a", **CALL)
    assert sys.stderr.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw, or a service
    pipe("a", **CALL)


def test_they_are_switched_as_in_diffusers(pipe, see):
    terminal = see()
    pipe.set_progress_bar_config(disable=True)
    pipe("a", **CALL)
    assert terminal.getvalue() == ""
    pipe.set_progress_bar_config(desc="[mine]", leave=False)
    pipe.clone()("a", **CALL)
    assert "[mine]" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")  # the line is cleared
    with pytest.raises(TypeError, match="colour"):
        pipe.set_progress_bar_config(colour="red")


def test_a_callback_is_called_beside_a_bar_and_can_stop(pipe, see):
    terminal = see()
    seen = []
    found = pipe("a", callback_on_step_end=lambda *step: seen.append(step) or True, **CALL)
    assert (len(seen), found.num_steps_run) == (1, 1)
    assert "1/3" in terminal.getvalue()


def test_one_is_drawn_at_a_time(pipe, see):
    terminal = see()
    twin = pipe.clone()
    twin.set_progress_bar_config(desc="[inner]")
    pipe("a", callback_on_step_end=lambda *step: twin("b", **CALL) and None, **CALL)
    assert "[inner]" not in terminal.getvalue()
    twin("b", **CALL)
    assert "[inner]" in terminal.getvalue()


def test_opening_draws_what_it_hashes(copy_bundle, see):
    terminal = see()
    folder = copy_bundle()
    LDMTextToImagePipeline.from_pretrained(folder, progress_bar=False).close()
    assert terminal.getvalue() == ""
    (folder / "unet/inference.pdiparams").touch()
    with LDMTextToImagePipeline.from_pretrained(folder) as pipe:
        assert "hashing" in terminal.getvalue()
        assert "opening the programs" in terminal.getvalue()
        terminal = see()
        pipe("a", **CALL)
        assert "3/3" in terminal.getvalue()


def test_what_commands_and_exports_open_draws_nothing(pipe, see):
    terminal = see()
    with LDMTextToImagePipeline.from_opened(pipe.opened) as other:
        other("a", **CALL)
    assert terminal.getvalue() == ""


def test_after_an_error_others_are_drawn(see):
    see()
    with pytest.raises(KeyError), drawn_bar(BarOptions()):
        raise KeyError
    with drawn_bar(BarOptions()) as bar:
        assert bar.is_drawn
    with drawn_bar(HIDDEN) as bar:
        assert not bar.is_drawn
