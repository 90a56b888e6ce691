"""What the loop costs beside the UNet: time outside ``run()``, and memory from Python.

The counts are the same on every run, however noisy the machine; the times are not.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.benchmarking.timing import RunTimes
from peers import Setup

STEPS = 20
COUNTED_STEPS = 100
SETTLED = 60  # steps until Python's free lists have filled; seen: 6 to 41


def measure(bundle: Path, setup: Setup) -> dict[str, Any]:
    """Counts and times of a guided loop with fresh noise in each step, batch 1."""
    ends_s: list[float] = []
    with LDMTextToImagePipeline.from_pretrained(
        bundle,
        runtime=setup.variant,
        precision=setup.precision,
        device=setup.device,
        threads=setup.threads,
    ) as pipe:
        counts = _count(pipe)
        times = RunTimes(pipe)
        _render(pipe, STEPS, lambda *_: ends_s.append(time.perf_counter()))
    whole_s = np.diff(ends_s)  # a turn of the loop each
    outside_s = whole_s - np.array(times.durations_s["unet"][1:])
    return {
        "runtime": setup.variant,
        "precision": setup.precision,
        "steps": STEPS,
        "step_s": whole_s.tolist(),
        "outside_run_s": outside_s.tolist(),
        **counts,
    }


def _count(pipe: LDMTextToImagePipeline) -> dict[str, int]:
    """What Python's memory grows by over the settled steps, and what a step takes at its peak."""
    kept, peaks, blocks = (np.zeros(COUNTED_STEPS, np.int64) for _ in range(3))
    _render(pipe, 1, lambda *_: None)  # warms up

    def note(step: int, *_: object) -> None:
        peaks[step] = tracemalloc.get_traced_memory()[1]
        gc.collect()
        blocks[step] = sys.getallocatedblocks()
        kept[step] = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()

    gc.collect()
    gc.freeze()  # what is there already need not be looked through after each step
    tracemalloc.start()
    try:
        _render(pipe, COUNTED_STEPS, note)
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    in_step = (peaks[1:] - kept[:-1])[SETTLED:]
    return {
        "counted_steps": COUNTED_STEPS - 1 - SETTLED,
        "blocks_kept": int(blocks[-1] - blocks[SETTLED]),
        "bytes_kept": int(kept[-1] - kept[SETTLED]),
        "peak_bytes_in_step": int(np.median(in_step)),
        "largest_peak_bytes": int(in_step.max()),
    }


def _render(pipe: LDMTextToImagePipeline, steps: int, on_step: Callable[..., object]) -> None:
    pipe(
        "a bowl of fruit",
        num_inference_steps=steps,
        guidance_scale=6.0,
        eta=0.5,
        seed=0,
        callback_on_step_end=on_step,
    )


def main() -> None:
    """Print the account."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runtime", default="openvino")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    account = measure(a.bundle, Setup(a.runtime, a.precision, "cpu", a.threads))
    step_s, outside_s = (float(np.median(account.pop(n))) for n in ("step_s", "outside_run_s"))
    print(
        f"step {step_s * 1e3:.2f} ms, outside run() {outside_s * 1e3:.3f} ms: "
        f"{outside_s / step_s:.2%} (medians of {STEPS - 1} steps with noise)"
    )
    print(json.dumps(account))


if __name__ == "__main__":
    main()
