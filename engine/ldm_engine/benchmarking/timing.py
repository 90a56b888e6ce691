"""A runtime whose programs note how long each run takes; what they compute is untouched."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from ..bundle.bundle import Bundle
from ..bundle.contract import PROGRAMS
from ..runtimes.base import Program, Runtime, RuntimeOptions


class TimedRuntime(Runtime):
    """Another runtime, by whose name it goes, with every ``run()`` timed.

    ``durations_s`` holds the seconds of each run by program, in order, until ``clear()``.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        facts = ("name", "format", "distributions", "install", "precisions")
        vars(self).update({fact: getattr(runtime, fact) for fact in facts})
        self.durations_s: dict[str, list[float]] = {name: [] for name in PROGRAMS}
        self.opened: dict[str, Program] = {}  #: the program last opened under each name

    def format_of(self, program: str, precision: str) -> str:
        """As the other runtime says."""
        return self._runtime.format_of(program, precision)

    def computes_in(self, bundle: Bundle, program: str, precision: str) -> str:
        """As the other runtime says."""
        return self._runtime.computes_in(bundle, program, precision)

    def stored_weights(self, bundle: Bundle, program: str, precision: str) -> str:
        """As the other runtime says."""
        return self._runtime.stored_weights(bundle, program, precision)

    def open(self, bundle: Bundle, program: str, options: RuntimeOptions) -> Program:
        """Load one program; its runs are timed."""
        opened = self._runtime.open(bundle, program, options)
        self.opened[program] = _TimedProgram(opened, self.durations_s[program])
        return self.opened[program]

    def clear(self) -> None:
        """Forget the runs so far."""
        for durations in self.durations_s.values():
            durations.clear()


class _TimedProgram(Program):
    """One opened program of another runtime."""

    def __init__(self, program: Program, durations_s: list[float]) -> None:
        self.name = program.name
        self._is_closed = False
        self._program = program
        self._durations_s = durations_s

    def allocate(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make the program's arrays, which are then these too."""
        self._program.allocate(shapes)
        self.inputs, self.outputs = self._program.inputs, self._program.outputs

    def _bind(self) -> None:
        self._program._bind()

    def _run(self, unchanged: Collection[str]) -> None:
        began = time.perf_counter()
        self._program.run(unchanged)
        self._durations_s.append(time.perf_counter() - began)

    def _release(self) -> None:
        self._program.close()

    def _clone(self) -> Program:
        """Another handle, whose runs are noted in the same place."""
        return _TimedProgram(self._program.clone(), self._durations_s)
