"""Times one guided UNet step (batch 1) of several contenders, interleaved: A B C, A B C, ...

Each contender has a process of its own, which is idle while the others compute. Ratios of medians
are what to read: the machine may be noisy, but it is as noisy for everyone.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import contenders
import numpy as np

PAUSE_S = 0.3  # idle OpenMP threads spin for 0.2 s before they sleep
WARM_UP = 2


def work(arguments: argparse.Namespace) -> None:
    """Be one contender: warm up, then run a step for each line on stdin and tell its time."""
    inputs = dict(np.load(Path(arguments.scratch) / "inputs.npz"))
    began = time.perf_counter()
    step = contenders.open_contender(
        arguments.worker, arguments.bundle, arguments.checkpoint, inputs, arguments.threads
    )
    for _ in range(WARM_UP):
        output = step()
    np.save(Path(arguments.scratch) / f"{arguments.worker}.npy", output)
    told = sys.__stdout__
    assert told
    print("ready", time.perf_counter() - began, file=told, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        elapsed = time.perf_counter() - began
        print("step", elapsed, _anonymous_bytes(), file=told, flush=True)


def _anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def measure(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Samples in seconds, memory in bytes and error of each contender."""
    workers = {name: _start(name, arguments, scratch) for name in arguments.contenders}
    samples: dict[str, list[float]] = {name: [] for name in workers}
    anonymous = dict.fromkeys(workers, 0)
    for round_number in range(arguments.rounds):
        for name, worker in workers.items():
            time.sleep(PAUSE_S)
            assert worker.stdin
            worker.stdin.write("\n")
            worker.stdin.flush()
            elapsed, memory = _answer(worker, "step")
            samples[name].append(float(elapsed))
            anonymous[name] = max(anonymous[name], int(memory))
        print(f"round {round_number + 1} of {arguments.rounds}", file=sys.stderr)
    for worker in workers.values():
        assert worker.stdin
        worker.stdin.close()
        worker.wait()
    reference = np.load(scratch / f"{arguments.contenders[0]}.npy")
    errors = {name: _error(np.load(scratch / f"{name}.npy"), reference) for name in workers}
    return {"samples_s": samples, "anonymous_bytes": anonymous, "relative_error": errors}


def _start(name: str, arguments: argparse.Namespace, scratch: Path) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, str(arguments.bundle), str(arguments.checkpoint)]
    command += ["--worker", name, "--scratch", str(scratch), "--threads", str(arguments.threads)]
    pipe = subprocess.PIPE
    worker = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=None, text=True)
    print(f"{name}: ready after {float(_answer(worker, 'ready')[0]):.1f} s", file=sys.stderr)
    return worker


def _answer(worker: subprocess.Popen[str], kind: str) -> list[str]:
    assert worker.stdout
    for line in worker.stdout:
        if line.startswith(f"{kind} "):
            return line.split()[1:]
    raise SystemExit(f"A contender ended early: {worker.args}")


def _error(output: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(output - reference) / np.linalg.norm(reference))


def table(result: dict[str, Any]) -> str:
    """Markdown: medians, ratios to the first contender, memory, error."""
    medians = {name: float(np.median(s)) for name, s in result["samples_s"].items()}
    first = next(iter(medians))
    lines = [
        f"| contender | median | ratio to {first} | anonymous memory | error to {first} |",
        "|---|---|---|---|---|",
    ]
    for name, median in medians.items():
        lines.append(
            f"| {name} | {median * 1000:.0f} ms | {median / medians[first]:.3f} "
            f"| {result['anonymous_bytes'][name] / 2**30:.2f} GiB "
            f"| {result['relative_error'][name]:.1e} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure, print the table, keep the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path, help="the same model in the diffusers layout")
    parser.add_argument("--contenders", nargs="+", default=["ours-openvino-fp32"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=32, help="latent height and width")
    parser.add_argument("--output", type=Path, help="JSON file for all samples")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    with tempfile.TemporaryDirectory() as scratch:
        inputs = contenders.step_inputs(arguments.checkpoint, arguments.size)
        contenders.prepare(inputs, arguments.bundle, arguments.checkpoint)
        np.savez(Path(scratch) / "inputs.npz", **inputs)
        result = measure(arguments, Path(scratch))
    print(table(result))
    if arguments.output:
        facts = {
            "command": _command(arguments),
            "threads": arguments.threads,
            "processor": _processor(),
            "versions": {n: _version(n) for n in VERSIONED},
        }
        arguments.output.write_text(json.dumps(facts | result, indent=1) + "\n")


def _command(arguments: argparse.Namespace) -> str:
    """What was run, without where its files lay."""
    words = ["python benchmarks/unet_step.py", arguments.bundle.name, arguments.checkpoint.name]
    words += ["--rounds", arguments.rounds, "--threads", arguments.threads]
    words += ["--size", arguments.size, "--contenders", *arguments.contenders]
    return " ".join(map(str, words))


VERSIONED = ("ldm-engine", "openvino", "onnxruntime", "paddlepaddle", "torch", "diffusers")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
