"""Times a guided UNet step on a GPU, this engine against diffusers in torch, in turn.

    python benchmarks/gpu/unet_step.py BUNDLE CHECKPOINT --output unet-step.json

CHECKPOINT is what BUNDLE was exported from, in the diffusers layout. The error of each is the
relative L2 error of its noise prediction to torch's in fp32 on the same GPU. docs/gpu.md has what
has to be installed. This script has not yet run on hardware.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contestants import Contestant, Ours, Torch, torch_device, whole_number

from ldm_engine import Bundle, open_bundle
from ldm_engine.checks.tolerances import relative_error
from ldm_engine.errors import InvalidArgumentError, LDMEngineError
from ldm_engine.machine.device import Device
from ldm_engine.machine.environment import machine_facts, versions
from ldm_engine.machine.gpu import find_gpu
from ldm_engine.runtimes.choice import Choice, choose_runtime, select_runtimes

VERSIONED = (
    *("ldm-engine", "numpy", "onnxruntime-gpu", "paddlepaddle-gpu", "tensorrt"),
    *("torch", "diffusers", "transformers"),
)
TORCH = ("eager", "compile")


def measure(
    contestants: Mapping[str, Callable[[], None]], rounds: int, steps: int
) -> dict[str, list[float]]:
    """Seconds of a step, one sample a round for each; the order turns by one from round to round.

    A sample is the mean over `steps` steps one after another.
    """
    names = list(contestants)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            step = contestants[name]
            began = time.perf_counter()
            for _ in range(steps):
                step()
            samples[name].append((time.perf_counter() - began) / steps)
    return samples


def summarize(samples: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Of each contestant: median and quartiles in ms, and its time over the fastest of ours."""
    medians = {name: float(np.median(values)) for name, values in samples.items()}
    ours = min((m for name, m in medians.items() if name.startswith("ours")), default=None)
    rows = {}
    for name, values in samples.items():
        low, high = np.percentile(values, [25, 75])
        rows[name] = {
            "median_ms": medians[name] * 1e3,
            "quartiles_ms": [float(low) * 1e3, float(high) * 1e3],
        }
        if ours is not None:
            rows[name]["times_ours"] = medians[name] / ours
    return rows


def choose_ours(bundle: Bundle, named: Sequence[str], device: str) -> list[tuple[Choice, str]]:
    """The runtimes and precisions `named` as RUNTIME:PRECISION, or all that run on `device`.

    Raises:
        InvalidArgumentError: if one is no such pair.
        RuntimeUnavailableError: if one cannot be had here, before anything is loaded.
    """
    if not named:
        return select_runtimes(bundle, "all", "all", device)[0]
    chosen = []
    for pair in named:
        runtime, colon, precision = pair.partition(":")
        if not colon:
            raise InvalidArgumentError(
                f"`--ours` is {pair!r}; RUNTIME:PRECISION is accepted, such as paddle:fp16."
            )
        chosen.append((choose_runtime(bundle, runtime, precision, device), precision))
    return chosen


def open_all(a: argparse.Namespace, bundle: Bundle) -> dict[str, Contestant]:
    """The contestants, opened and warmed up."""
    pairs = choose_ours(bundle, a.ours, a.device)
    wanted = [] if a.torch == "none" else a.torch.split(",")
    if not set(wanted) <= set(TORCH):
        raise InvalidArgumentError(
            f"`--torch` is {a.torch!r}; {', '.join(TORCH)} (with commas) or none is accepted."
        )
    if wanted:
        torch_device(a.device)  # refuses before weights are read
    contestants: dict[str, Contestant] = {}
    for choice, precision in pairs:
        name = f"ours {choice.runtime.name} {precision}"
        print(f"opening {name}", file=sys.stderr)
        contestants[name] = Ours(bundle, choice, precision, a.device)
    for kind in wanted:
        name = f"torch {kind} {a.torch_precision}"
        print(f"opening {name}", file=sys.stderr)
        mode = a.compile_mode if kind == "compile" else None
        contestants[name] = Torch(a.checkpoint, a.torch_precision, a.device, mode)
    for contestant in contestants.values():
        for _ in range(a.warm_up):
            contestant()
    return contestants


def find_errors(a: argparse.Namespace, contestants: Mapping[str, Contestant]) -> dict[str, float]:
    """The relative error of each to torch in fp32; none without torch."""
    if a.torch == "none":
        return {}
    reference = Torch(a.checkpoint, "fp32", a.device, None)
    reference()
    return {name: relative_error(c.result(), reference.result()) for name, c in contestants.items()}


def describe(device: Device) -> dict[str, Any]:
    """What it was measured on."""
    if device.kind == "cpu":
        return {"name": "cpu"}
    gpu = find_gpu(device.index)
    return {"name": gpu.name, "memory_bytes": gpu.memory_bytes}


def table(rows: Mapping[str, Mapping[str, Any]], errors: Mapping[str, float]) -> str:
    """The results as Markdown."""
    lines = [
        "| who | median | quartiles | times the best of ours | error |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        low, high = row["quartiles_ms"]
        ratio = f"{row['times_ours']:.2f}" if "times_ours" in row else ""
        error = f"{errors[name]:.1e}" if name in errors else ""
        lines.append(
            f"| {name} | {row['median_ms']:.2f} ms | {low:.2f} to {high:.2f} | {ratio} | {error} |"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--device", default="gpu:0", help="cpu rehearses it all without one.")
    parser.add_argument(
        "--ours",
        action="append",
        default=[],
        metavar="RUNTIME:PRECISION",
        help="May be repeated. Default: all that run on the device.",
    )
    parser.add_argument("--torch", default="eager,compile", help="eager, compile, or none.")
    parser.add_argument("--torch-precision", default="fp16", choices=("fp32", "fp16", "bf16"))
    parser.add_argument("--compile-mode", default="reduce-overhead", help="Of torch.compile.")
    parser.add_argument("--rounds", type=whole_number(1), default=30)
    parser.add_argument("--steps", type=whole_number(1), default=10, help="In one sample.")
    parser.add_argument(
        "--warm-up", type=whole_number(0), default=10, help="Steps before the first sample."
    )
    parser.add_argument("--output", type=Path, help="A JSON file for all samples.")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    a = parse(arguments)
    try:
        bundle = open_bundle(a.bundle)
        contestants = open_all(a, bundle)
    except LDMEngineError as error:
        print(error, file=sys.stderr)
        return 1
    samples = measure(contestants, a.rounds, a.steps)
    errors = find_errors(a, contestants)
    rows = summarize(samples)
    print(table(rows, errors))
    if a.output:
        facts = {
            "device": describe(Device.parse(a.device)),
            "machine": machine_facts(),
            "versions": versions(VERSIONED),
            "bundle": bundle.digest,
            "model": bundle.model.source,
            "settings": {k: str(v) for k, v in vars(a).items()},
            "errors": errors,
            "summary": rows,
            "samples_s": samples,
        }
        a.output.write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
