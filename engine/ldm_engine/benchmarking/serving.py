"""A process that answers requests: the other end of ``process.py``.

Requests come as JSON lines on its standard input, and each gets one answer on its standard output;
when the input ends, so does the process, at once.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
import warnings
from typing import Any, NoReturn, TextIO

from ..errors import LDMEngineError


def serve(worker: object) -> NoReturn:
    """Answer requests, each a call of a method of `worker`, until there are no more.

    An answer is what the method returned, or why it failed, and the warnings meanwhile.
    """
    answers = _take_stdout()
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    warned: list[str] = []
    warnings.showwarning = lambda message, *_, **__: warned.append(str(message))
    while True:
        request = requests.get()
        try:
            answer = getattr(worker, request["method"])(**request["arguments"])
        except Exception as error:
            answer = {"error": _describe(error)}
        print(json.dumps({**answer, "warnings": warned}), file=answers, flush=True)
        warned.clear()


def _describe(error: Exception) -> str:
    if isinstance(error, LDMEngineError):
        return str(error)
    traceback.print_exc()  # to the log that the parent keeps
    return f"{type(error).__name__}: {error}"


def _take_stdout() -> TextIO:
    """Standard output for the answers alone; what libraries print there goes to stderr."""
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _read_requests(requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    # Not through sys.stdin: OpenVINO's import forks a process that closes it, and would wait for
    # ever for the lock that a thread has in it while it reads.
    rest = b""
    while chunk := os.read(0, 1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            requests.put(json.loads(line))
    os._exit(0)  # whoever started this is gone or done
