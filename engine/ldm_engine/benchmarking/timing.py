"""Times every run of the programs that a pipeline holds; the programs stay what they are."""

from __future__ import annotations

import time
from collections.abc import Collection

from ..bundle.contract import PROGRAMS
from ..runtimes.base import Program
from ..sampling.pipeline import LDMTextToImagePipeline


class RunTimes:
    """The seconds of each run by program, in order, until ``clear()``."""

    def __init__(self, pipe: LDMTextToImagePipeline) -> None:
        """Time the programs of `pipe`, which is resident, and of its later clones."""
        self.durations_s: dict[str, list[float]] = {name: [] for name in PROGRAMS}
        for name in PROGRAMS:
            self._watch(pipe.programs[name])

    def clear(self) -> None:
        """Forget the runs so far."""
        for durations_s in self.durations_s.values():
            durations_s.clear()

    def _watch(self, program: Program) -> Program:
        """Replace two methods of this one object; a wrapper could forget the others."""
        run, clone, durations_s = program.run, program.clone, self.durations_s[program.name]

        def timed_run(unchanged: Collection[str] = ()) -> None:
            began = time.perf_counter()
            run(unchanged)
            durations_s.append(time.perf_counter() - began)

        vars(program).update(run=timed_run, clone=lambda: self._watch(clone()))
        return program
