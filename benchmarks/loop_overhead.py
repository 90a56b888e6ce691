"""What the loop adds to the UNet: its time outside ``run()``, as a share of the step."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.runtimes import Program


def main() -> None:
    """Render once to warm up, once to measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--num-inference-steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    pipe = LDMTextToImagePipeline.from_pretrained(
        a.bundle, runtime=a.runtime, precision=a.precision, threads=a.threads
    )
    unet: Program = pipe._programs["unet"]
    run, inside_s, ends_s = unet.run, list[float](), list[float]()

    def timed_run() -> None:
        began = time.perf_counter()
        run()
        inside_s.append(time.perf_counter() - began)

    unet.run = timed_run  # type: ignore[method-assign]
    for _ in range(2):
        inside_s.clear()
        ends_s.clear()
        pipe(
            "a bowl of fruit",
            num_inference_steps=a.num_inference_steps,
            guidance_scale=6.0,
            eta=0.5,
            seed=0,
            callback_on_step_end=lambda *_: ends_s.append(time.perf_counter()),
        )
    whole_s = np.diff(ends_s)  # a whole turn of the loop each
    outside = np.median(whole_s - np.array(inside_s[1:]))
    print(
        f"step {np.median(whole_s) * 1e3:.2f} ms, outside run() {outside * 1e3:.3f} ms: "
        f"{outside / np.median(whole_s):.2%} (medians of {len(whole_s)} steps with noise)"
    )


if __name__ == "__main__":
    main()
