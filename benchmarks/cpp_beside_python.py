"""``ldm-generate`` beside ``ldm-engine generate``, in turn, on OpenVINO: step, memory, start."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from ldm_engine.benchmarking.memory import PeakMemory

NAMES = ("Python", "C++")
PROMPT = "a large red circle"

#: The engine's own command tells no times.
TIMED = """
import statistics, sys, time
from ldm_engine import LDMTextToImagePipeline
bundle, prompt, steps, precision, memory = sys.argv[1:]
pipe = LDMTextToImagePipeline.from_pretrained(
    bundle, runtime="openvino", precision=precision, memory=memory
)
ends = []
pipe(
    prompt, num_inference_steps=int(steps), guidance_scale=6.0, seed=0,
    callback_on_step_end=lambda *_: ends.append(time.perf_counter()),
)
took = [1000 * (b - a) for a, b in zip(ends, ends[1:])]
print(f"median step {statistics.median(took)} ms")
"""


def main() -> None:
    """Measure what was asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["steps", "start"])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--command", default="build/cpp/install/bin/ldm-generate")
    parser.add_argument("--steps", type=int, help="default: 6 for steps, 1 for start")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--memory", default="resident")
    a = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    (_measure_steps if a.what == "steps" else _measure_starts)(a)
    print(f"and after: {os.getloadavg()[0]:.1f}")


def _in_turn(rounds: int) -> Iterator[str]:
    for index in range(rounds):
        yield from NAMES if index % 2 == 0 else NAMES[::-1]


def _measure_steps(a: argparse.Namespace) -> None:
    steps: dict[str, list[float]] = {name: [] for name in NAMES}
    peaks: dict[str, list[float]] = {name: [] for name in NAMES}
    for name in _in_turn(a.rounds):
        with tempfile.TemporaryDirectory() as folder:
            _, said, peak = _run(_timed_command(name, a, folder), {})
        steps[name].append(float(re.search(r"median step ([\d.]+)", said)[1]))
        peaks[name].append(peak / 2**30)
        print(f"  {name}: step {steps[name][-1]:.2f} ms, {peaks[name][-1]:.2f} GiB", flush=True)
    for name in NAMES:
        print(f"{name}: step {median(steps[name]):.2f} ms, {max(peaks[name]):.2f} GiB anonymous")
    ratios = [ours / python for python, ours in zip(steps["Python"], steps["C++"], strict=True)]
    print(f"C++ / Python, of the steps of a round: {_spread(ratios)}")


def _timed_command(name: str, a: argparse.Namespace, folder: str) -> list[str]:
    steps = str(a.steps or 6)
    if name == "Python":
        return [sys.executable, "-c", TIMED, str(a.bundle), PROMPT, steps, a.precision, a.memory]
    return [*_generate(name, a, folder, steps), "--timings"]


def _measure_starts(a: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as kept:
        _time_starts("empty cache", a, lambda folder, _: f"{folder}/cache")
        _time_starts("kept cache", a, lambda _, name: f"{kept}/{name}")


def _time_starts(title: str, a: argparse.Namespace, cache: Callable[[str, str], str]) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    for name in _in_turn(a.rounds + 1):  # the first one reads files and fills the kept cache
        with tempfile.TemporaryDirectory() as folder:
            command = _generate(name, a, folder, str(a.steps or 1))
            took, _, _ = _run(command, {"LDM_ENGINE_CACHE": cache(folder, name)})
        seconds[name].append(took)
    for name, all_of_them in seconds.items():
        print(f"{title}, {name}: {_spread(all_of_them[1:])} s", flush=True)


def _generate(name: str, a: argparse.Namespace, folder: str, steps: str) -> list[str]:
    python = [str(Path(sys.executable).with_name("ldm-engine")), "generate"]
    return [
        *(python if name == "Python" else [a.command]), str(a.bundle), PROMPT,
        "--num-inference-steps", steps, "--seed", "0", "--runtime", "openvino",
        "--precision", a.precision, "--memory", a.memory, "--output", folder,
    ]  # fmt: skip


def _run(command: list[str], environment: dict[str, str]) -> tuple[float, str, int]:
    """Seconds, what it said, and the peak of its anonymous memory in bytes."""
    began = time.perf_counter()
    with (
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        ) as process,
        PeakMemory(process.pid) as memory,
    ):
        said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}: {said}")
    return time.perf_counter() - began, said, memory.peak.anonymous


def _spread(values: list[float]) -> str:
    return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
