"""The C++ library and command beside the Python ones, on OpenVINO: a step, and a start.

Steps are taken in turn by two processes, Python's and one that calls the C interface, each waiting
while the other computes: what else the machine does then slows both. Starts are whole commands.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.benchmarking.statistics import median_of_ratios

NAMES = ("Python", "C++")
PROMPT = "a large red circle"
GUIDANCE = 6.0


def main() -> None:
    """Measure steps or starts, and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["steps", "start", *NAMES])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prefix", type=Path, default=Path("build/cpp/install"))
    parser.add_argument("--steps", type=int, default=20, help="pairs of steps, or those of a start")
    parser.add_argument("--rounds", type=int, default=6, help="starts of each, over each cache")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--memory", default="resident")
    a = parser.parse_args()
    if a.what in NAMES:
        return (_render_in_python if a.what == "Python" else _render_in_cpp)(a)
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    (_measure_steps if a.what == "steps" else _measure_starts)(a)
    print(f"and after: {os.getloadavg()[0]:.1f}")
    return None


def _in_turn(rounds: int) -> Iterator[tuple[str, ...]]:
    for index in range(rounds):
        yield NAMES if index % 2 == 0 else NAMES[::-1]


def _measure_steps(a: argparse.Namespace) -> None:
    options = ["--precision", a.precision, "--memory", a.memory, "--prefix", str(a.prefix)]
    command = [sys.executable, __file__]
    rest = [str(a.bundle), *options, "--steps", str(a.steps + 1)]
    pipe = subprocess.PIPE
    python, cpp = (
        subprocess.Popen([*command, name, *rest], stdin=pipe, stdout=pipe, text=True)
        for name in NAMES
    )
    with python, cpp:
        processes = {"Python": python, "C++": cpp}
        for process in processes.values():  # the first one compiles
            _next_step(process)
        taken: dict[str, list[float]] = {name: [] for name in NAMES}
        for names in _in_turn(a.steps):
            for name in names:
                taken[name].append(_next_step(processes[name]))
    for name in NAMES:
        print(f"{name}: {_spread(taken[name])} s a step")
    ratio = median_of_ratios(taken["C++"], taken["Python"])
    print(f"C++ / Python: {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})")


def _next_step(process: subprocess.Popen[str]) -> float:
    """Let a process go on to the end of its next step; returns the seconds."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args} ended too early.")
    return float(line)


class _Turns:
    """Steps of this process: each waits for a line on stdin, and prints its seconds."""

    def __init__(self) -> None:
        self._wait()

    def _wait(self) -> None:
        sys.stdin.readline()
        self._began = time.perf_counter()

    def end(self, *_: Any) -> int:
        print(time.perf_counter() - self._began, flush=True)
        self._wait()
        return 0  # goes on


def _render_in_python(a: argparse.Namespace) -> None:
    pipe = LDMTextToImagePipeline.from_pretrained(
        a.bundle, runtime="openvino", precision=a.precision, memory=a.memory, progress_bar=False
    )
    pipe(
        PROMPT, num_inference_steps=a.steps, guidance_scale=GUIDANCE, seed=0,
        callback_on_step_end=_Turns().end,
    )  # fmt: skip


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    *(ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t),
)


class _Options(ctypes.Structure):
    _fields_: ClassVar = [
        ("size", ctypes.c_size_t),
        *((name, ctypes.c_char_p) for name in ("runtime", "device", "precision", "memory")),
        ("rest", ctypes.c_int32 * 4),
    ]


class _Request(ctypes.Structure):
    _fields_: ClassVar = [
        ("size", ctypes.c_size_t),
        *((n, ctypes.c_int32) for n in ("height", "width", "num_inference_steps", "reserved")),
        ("guidance_scales", ctypes.POINTER(ctypes.c_double)),
        ("guidance_scale_count", ctypes.c_size_t),
        ("rest", ctypes.c_size_t * 8),
        ("on_step_end", _Callback),
        ("user_data", ctypes.c_void_p),
    ]


def _render_in_cpp(a: argparse.Namespace) -> None:
    library = ctypes.CDLL(str(next(a.prefix.glob("lib*/**/libldm_engine.so"))))
    library.ldm_engine_last_error.restype = ctypes.c_char_p

    def check(code: int) -> None:
        if code:
            raise SystemExit(library.ldm_engine_last_error().decode())

    options, request = _Options(), _Request()
    check(library.ldm_engine_options_init(ctypes.byref(options), ctypes.c_size_t(56)))
    options.precision, options.memory = a.precision.encode(), a.memory.encode()
    pipeline, result = ctypes.c_void_p(), ctypes.c_void_p()
    path = os.fsencode(a.bundle)
    check(library.ldm_engine_open(path, ctypes.byref(options), ctypes.byref(pipeline)))
    check(library.ldm_engine_request_init(ctypes.byref(request), ctypes.c_size_t(120)))
    request.num_inference_steps = a.steps
    request.guidance_scales = (ctypes.c_double * 1)(GUIDANCE)
    request.guidance_scale_count = 1
    request.on_step_end = _Callback(_Turns().end)
    prompts = (ctypes.c_char_p * 1)(PROMPT.encode())
    arguments = (pipeline, prompts, ctypes.c_size_t(1), ctypes.byref(request))
    check(library.ldm_engine_generate(*arguments, ctypes.byref(result)))


def _measure_starts(a: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as kept:
        _time_starts("empty cache", a, lambda folder, _: f"{folder}/cache")
        _time_starts("kept cache", a, lambda _, name: f"{kept}/{name}")


def _time_starts(title: str, a: argparse.Namespace, cache: Callable[[str, str], str]) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    for names in _in_turn(a.rounds + 1):  # the first round reads files and fills the kept cache
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                environment = {**os.environ, "LDM_ENGINE_CACHE": cache(folder, name)}
                began = time.perf_counter()
                subprocess.run(
                    _command(name, a, folder), env=environment, check=True, capture_output=True
                )
                seconds[name].append(time.perf_counter() - began)
    for name in NAMES:
        print(f"{title}, {name}: {_spread(seconds[name][1:])} s", flush=True)


def _command(name: str, a: argparse.Namespace, folder: str) -> list[str]:
    python = [str(Path(sys.executable).with_name("ldm-engine")), "generate"]
    return [
        *(python if name == "Python" else [str(a.prefix / "bin" / "ldm-generate")]),
        str(a.bundle), PROMPT, "--num-inference-steps", str(a.steps), "--seed", "0",
        "--runtime", "openvino", "--precision", a.precision, "--memory", a.memory,
        "--output", folder,
    ]  # fmt: skip


def _spread(values: list[float]) -> str:
    return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
