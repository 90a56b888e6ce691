"""A worker process as its parent sees it: started, called, watched, and never left behind."""

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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ..errors import BenchmarkError

_LAST_LINES = 3  # of a dead worker's log that are shown
_LOOK_S = 0.5  # how often to look whether a silent process is still there
_DYING_S = 10.0  # how long a process that closed its output may take to end

Process = TypeVar("Process", bound="WorkerProcess")


def check_system() -> None:
    """Raise ``BenchmarkError`` where processes cannot be watched and ended as these are."""
    if sys.platform == "win32":
        raise BenchmarkError(
            "This is Windows; Linux and macOS are accepted for benchmarks, whose processes are "
            "watched through pipes and ended with all that they started. Time `generate` or "
            "`render` here, or measure on another system."
        )


class WorkerProcess:
    """One process that answers requests (``serving.py``); leaving the ``with`` block kills it.

    Attributes:
        pid: the process.
        started: ``time.perf_counter()`` before the process was started.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], shows_log: bool = False
    ) -> None:
        """Start `command`, with `environment` added to this process's own.

        What it writes to stderr is kept for the error if it dies, or shown at once.
        """
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed on leaving
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if shows_log else self._log,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C is for the parent, which ends it
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self.pid = self._process.pid

    def __enter__(self: Process) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            # With what its libraries may have forked.
            os.killpg(self.pid, signal.SIGKILL)  # type: ignore[attr-defined,unused-ignore]
        self._process.wait()
        self._log.close()
        for pipe in (self._requests, self._answers):
            with suppress(BrokenPipeError):
                pipe.close()

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the worker, and wait for what it returns.

        Raises:
            BenchmarkError: if it failed, or the process died of it.
        """
        line = b""
        with suppress(BrokenPipeError):
            request = json.dumps({"method": method, "arguments": arguments})
            self._requests.write(request.encode() + b"\n")
            self._requests.flush()
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
            return "its process no longer answers"
        if code >= 0:
            text = f"its process ended with exit code {code}"
        else:
            name = _signal_name(-code)
            text = f"its process was killed by {name}"
            if name == "SIGKILL":
                text += ", as the system does when memory runs out"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return "; ".join([text, *lines[-_LAST_LINES:]])


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
