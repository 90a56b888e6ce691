"""The process that is measured: it opens one pipeline and renders when it is told to.

Started by ``measure.py``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..runtimes.choice import Choice
from ..sampling.encoding import encode_time
from ..sampling.opening import open_to_run
from ..sampling.pipeline import LDMTextToImagePipeline
from ..sampling.tokenizer import PromptTruncatedWarning
from .results import END_TO_END, HOST
from .serving import serve
from .timing import TimedRuntime


class _Bench:
    """A pipeline over timed programs, and the calls that are made of it."""

    def __init__(
        self,
        bundle: str,
        runtime: str,
        precision: str,
        prompts: list[str],
        settings: dict[str, Any],
    ) -> None:
        """Open the pipeline as ``from_pretrained`` does."""
        began = time.perf_counter()
        opened = open_to_run(
            bundle, runtime=runtime, precision=precision, threads=settings["threads"]
        )
        opened.check_hashes()
        self._runtime = TimedRuntime(opened.choice.runtime)
        self._pipe = LDMTextToImagePipeline.from_opened(
            replace(opened, choice=Choice(self._runtime, opened.choice.reason))
        )
        self.load_s = time.perf_counter() - began
        self._prompts = prompts
        self._call = {
            name: settings[name]
            for name in ("num_inference_steps", "guidance_scale", "eta", "height", "width")
        }

    def first_call(self, stops_after_step: bool) -> dict[str, Any]:
        """A call that tells when its first step ended, and may end with it."""
        ends: list[float] = []

        def on_step(*_: object) -> bool:
            ends.append(time.perf_counter())
            return stops_after_step

        began = time.perf_counter()
        self._pipe(self._prompts, seed=0, callback_on_step_end=on_step, **self._call)
        ended = time.perf_counter()
        return {"first_call_s": ended - began, "first_step_s": ends[0] - began}

    def call(self) -> dict[str, Any]:
        """One call, and the seconds of every run of every program in it."""
        self._runtime.clear()
        began = time.perf_counter()
        self._pipe(self._prompts, seed=0, **self._call)
        elapsed_s = time.perf_counter() - began
        runs = {name: list(s) for name, s in self._runtime.durations_s.items()}
        inside_s = sum(sum(s) for s in runs.values())
        return {**runs, END_TO_END: [elapsed_s], HOST: [elapsed_s - inside_s]}

    def time_encoder(self, count: int) -> dict[str, Any]:
        """Encode the schedule `count` times; calls keep it, so theirs runs in the first alone."""
        model = self._pipe.bundle.model
        steps = self._pipe.schedule.leading(self._call["num_inference_steps"])
        self._runtime.clear()
        for _ in range(count):
            encode_time(
                self._runtime.opened["time_encoder"], model, [step.timestep for step in steps]
            )
        return {"time_encoder": list(self._runtime.durations_s["time_encoder"])}


class _Requests:
    """The first request opens the pipeline, the others name a method of it."""

    def __init__(self) -> None:
        self._bench: _Bench | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked for."""
        if self._bench is None:
            self._bench = _Bench(**request)
            return {"load_s": self._bench.load_s}
        act: Callable[..., dict[str, Any]] = getattr(self._bench, request.pop("do"))
        return act(**request)


if __name__ == "__main__":
    warnings.simplefilter("ignore", PromptTruncatedWarning)  # it is no matter what is drawn
    serve(_Requests().answer)
