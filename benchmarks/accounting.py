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
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.benchmarking.timing import RunTimes
from ldm_engine.sampling.fitted import Figures, Origin, Table, Tables
from ldm_engine.sampling.opening import Opened, open_to_run
from ldm_engine.sampling.solvers import dpmsolver_rows
from ldm_engine.sampling.solvers_file import MAX_TERMS
from peers import Setup

GUIDANCE_SCALE = 6.0
STEPS = 20
COUNTED_STEPS = 100
SETTLED = 60  # steps until Python's free lists have filled; seen: 6 to 41


def measure(bundle: Path, setup: Setup, solver: str = "ddim") -> dict[str, Any]:
    """Counts and times of a guided loop, batch 1.

    By ddim with fresh noise in each step; by a fitted solver with as long a history as one may
    have, whose weights are those of DPM-Solver++, and 0 for what that does not use.
    """
    ends_s: list[float] = []
    opened = open_to_run(
        bundle,
        runtime=setup.variant,
        precision=setup.precision,
        device=setup.device,
        threads=setup.threads,
    )
    if solver == "fitted":
        opened = _with_longest_history(opened)
    settings = {"solver": solver, "eta": 0.5 if solver == "ddim" else 0.0}
    with LDMTextToImagePipeline.from_opened(opened) as pipe:
        counts = _count(pipe, settings)
        times = RunTimes(pipe)
        _render(pipe, STEPS, settings, lambda *_: ends_s.append(time.perf_counter()))
    whole_s = np.diff(ends_s)  # a turn of the loop each
    outside_s = whole_s - np.array(times.durations_s["unet"][1:])
    return {
        "runtime": setup.variant,
        "precision": setup.precision,
        "solver": solver,
        "steps": STEPS,
        "step_s": whole_s.tolist(),
        "outside_run_s": outside_s.tolist(),
        **counts,
    }


def _with_longest_history(opened: Opened) -> Opened:
    """The same bundle with solvers for all that is rendered here."""
    tables = []
    for steps in (1, STEPS, COUNTED_STEPS):
        grid = opened.schedule.log_snr_timesteps(steps)
        weights = tuple(
            (row.a, *row.b, *[0.0] * (min(step, MAX_TERMS) - len(row.b)))
            for step, row in enumerate(dpmsolver_rows(opened.schedule, grid), 1)
        )
        unknown, nobody = Figures(0, 0.0, 0.0, 0.0), Origin("", "", 0, "", "")
        tables.append(
            Table(
                GUIDANCE_SCALE, tuple(grid), weights, unknown, unknown, unknown, 0.0, origin=nobody
            )
        )
    return replace(opened, tables=Tables(tuple(tables)))


def _count(pipe: LDMTextToImagePipeline, settings: Mapping[str, Any]) -> dict[str, int]:
    """What Python's memory grows by over the settled steps, and what a step takes at its peak."""
    kept, peaks, blocks = (np.zeros(COUNTED_STEPS, np.int64) for _ in range(3))
    _render(pipe, 1, settings, lambda *_: None)  # warms up

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
        _render(pipe, COUNTED_STEPS, settings, note)
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


def _render(
    pipe: LDMTextToImagePipeline,
    steps: int,
    settings: Mapping[str, Any],
    on_step: Callable[..., object],
) -> None:
    pipe(
        "a bowl of fruit",
        num_inference_steps=steps,
        guidance_scale=GUIDANCE_SCALE,
        seed=0,
        callback_on_step_end=on_step,
        **settings,
    )


def main() -> None:
    """Print the account."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runtime", default="openvino")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--solver", choices=["ddim", "fitted"], default="ddim")
    a = parser.parse_args()
    account = measure(a.bundle, Setup(a.runtime, a.precision, "cpu", a.threads), a.solver)
    step_s, outside_s = (float(np.median(account.pop(n))) for n in ("step_s", "outside_run_s"))
    print(
        f"step {step_s * 1e3:.2f} ms, outside run() {outside_s * 1e3:.3f} ms: "
        f"{outside_s / step_s:.2%} (medians of {STEPS - 1} steps)"
    )
    print(json.dumps(account))


if __name__ == "__main__":
    main()
