"""A worker process as its parent sees it: started, asked, watched, and never left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..cache import VARIABLE
from ..console import is_debugging
from ..errors import BenchmarkError

_LAST_LINES = 3  # of a dead worker's log that are shown
_LOOK_S = 0.5  # how often to look whether a silent process is still there
_DYING_S = 10.0  # how long a process that closed its output may take to end


class Worker:
    """One process that has a pipeline; leaving the ``with`` block kills it.

    Attributes:
        pid: the process.
        started: ``time.perf_counter()`` before the process was started.
    """

    def __init__(self, setup: dict[str, Any], cache: Path) -> None:
        """Start it; `setup` is what its pipeline is made of, `cache` the cache that it uses."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed on leaving
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # the folder that we are in is no code
        if environment.get(VARIABLE) != "off":
            environment[VARIABLE] = str(cache)
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ldm_engine.benchmarking.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if is_debugging() else self._log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which ends it
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self._answers = self._process.stdin, self._process.stdout
        self.pid = self._process.pid
        self._setup = setup

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # with what its libraries may have forked
        self._process.wait()
        self._log.close()
        for pipe in (self._commands, self._answers):
            with suppress(BrokenPipeError):
                pipe.close()

    def load(self) -> float:
        """Open the pipeline; the seconds that it took.

        Raises:
            BenchmarkError: if it cannot be opened.
        """
        return float(self._ask(self._setup)["load_s"])

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """What the worker's method `do` answers.

        Raises:
            BenchmarkError: if it failed, or the process died of it.
        """
        return self._ask({"do": do, **arguments})

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        line = b""
        with suppress(BrokenPipeError):
            self._commands.write(json.dumps(command).encode() + b"\n")
            self._commands.flush()
            line = self._read_line()
        if not line.endswith(b"\n"):
            raise BenchmarkError(self._describe_death())
        answer: dict[str, Any] = json.loads(line)
        for text in answer.pop("warnings"):
            warnings.warn(text, stacklevel=1)
        if "error" in answer:
            raise BenchmarkError(answer["error"])
        return answer

    def _read_line(self) -> bytes:
        """The next answer, or what there is of it when the process has ended."""
        line = b""
        while not line.endswith(b"\n"):
            # What a library forked may hold the pipe open when the process is no more.
            if not select.select([self._answers], [], [], _LOOK_S)[0]:
                if self._process.poll() is not None:
                    break
            elif chunk := os.read(self._answers.fileno(), 1 << 16):
                line += chunk
            else:
                break
        return line

    def _describe_death(self) -> str:
        try:
            code = self._process.wait(_DYING_S)
        except subprocess.TimeoutExpired:
            return "its process answers no more"
        if code >= 0:
            told = f"its process ended with exit code {code}"
        else:
            told = f"its process was killed by {_signal_name(-code)}"
        if code == -signal.SIGKILL:
            told += ", as the system does when memory runs out; try a smaller --batch-size"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return "; ".join([told, *lines[-_LAST_LINES:]])


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
