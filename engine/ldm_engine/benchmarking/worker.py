"""The process that ``measure.py`` measures: one pipeline, and the calls that are made of it."""

from __future__ import annotations

import time
import warnings
from typing import Any

from ..sampling.encoding import encode_time
from ..sampling.pipeline import LDMTextToImagePipeline
from ..sampling.tokenizer import PromptTruncatedWarning, UnknownWordsWarning
from .results import END_TO_END, HOST
from .serving import serve
from .timing import RunTimes


class _Bench:
    """What the parent process calls; ``open`` comes first."""

    def open(
        self, pipeline: dict[str, Any], prompts: list[str], call: dict[str, Any]
    ) -> dict[str, Any]:
        """Open a pipeline by arguments of ``from_pretrained``, for calls with these settings."""
        began = time.perf_counter()
        self._pipe = LDMTextToImagePipeline.from_pretrained(**pipeline, progress_bar=False)
        load_s = time.perf_counter() - began
        self._times = RunTimes(self._pipe)
        self._prompts, self._call = prompts, call
        return {"load_s": load_s}

    def first_call(self, stops_after_step: bool) -> dict[str, Any]:
        """A call that records when its first step ended, and may end with it."""
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
        self._times.clear()
        self._pipe.clear_encoded()  # as if its texts were others than those of the last one
        began = time.perf_counter()
        self._pipe(self._prompts, seed=0, **self._call)
        elapsed_s = time.perf_counter() - began
        runs = self._times.durations_s
        inside_s = sum(map(sum, runs.values()))
        return {**runs, END_TO_END: [elapsed_s], HOST: [elapsed_s - inside_s]}

    def time_encoder(self, count: int) -> dict[str, Any]:
        """Encode the schedule `count` times; calls keep it, so theirs runs in the first alone."""
        program, model = self._pipe.programs["time_encoder"], self._pipe.bundle.model
        rows = self._pipe.opened.request({"prompt": self._prompts, **self._call}).rows
        timesteps = [row.timestep for row in rows]
        self._times.clear()
        for _ in range(count):
            encode_time(program, model, timesteps)
        return {"time_encoder": self._times.durations_s["time_encoder"]}


if __name__ == "__main__":
    for category in (PromptTruncatedWarning, UnknownWordsWarning):
        warnings.simplefilter("ignore", category)  # what is drawn does not matter
    serve(_Bench())
