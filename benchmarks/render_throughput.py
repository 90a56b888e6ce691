"""``render`` beside the bare pipeline on the same images: seconds, their ratio, and memory."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import ldm_engine
from ldm_engine import LDMTextToImagePipeline
from ldm_engine.benchmarking.statistics import median_of_ratios, summarize
from ldm_engine.machine.memory import read_memory


class _PreparedError(Exception):
    """Ends a call after its first step."""


def main() -> None:
    """Interleave rounds of both; each begins with its UNet compiled, and opens the decoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-inference-steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    prompts = [f"a large red circle, number {i}, black background" for i in range(a.images)]
    bare_s, render_s = [], []
    for round_number in range(a.rounds):
        # The machine's speed drifts: whoever is first in one round is second in the next.
        for measure in ((_bare, _render), (_render, _bare))[round_number % 2]:
            (bare_s if measure is _bare else render_s).append(measure(a, prompts))
    ratio, memory = median_of_ratios(bare_s, render_s), read_memory(os.getpid())
    print(
        json.dumps(
            {
                **{k: str(v) for k, v in vars(a).items()},
                "bare_s": [round(s, 2) for s in bare_s],
                "render_s": [round(s, 2) for s in render_s],
                "ratio_of_throughputs": round(ratio.value, 3),
                "interval": [round(ratio.low, 3), round(ratio.high, 3)],
                "images_per_second": round(a.images / summarize(render_s).median, 3),
                "anonymous_bytes": memory and memory.anonymous,
            },
            indent=1,
        )
    )


def _bare(a: argparse.Namespace, prompts: list[str]) -> float:
    """The loop that one would write: call after call, pictures kept in memory for a moment."""
    settings = {"num_inference_steps": a.num_inference_steps, "guidance_scale": 2.0}
    with LDMTextToImagePipeline.from_pretrained(
        a.bundle, runtime=a.runtime, precision=a.precision, progress_bar=False
    ) as pipe:
        _prepare_unet(pipe, prompts[: a.batch_size], **settings)
        pipe.clear_encoded()
        start = time.perf_counter()
        for first in range(0, len(prompts), a.batch_size):
            pipe(prompts[first : first + a.batch_size], **settings, seed=first)
        return time.perf_counter() - start


def _prepare_unet(pipe: LDMTextToImagePipeline, prompts: list[str], **settings: float) -> None:
    """What ``render`` does as well before it counts time."""

    def stop(*_: object) -> None:
        raise _PreparedError

    with suppress(_PreparedError):
        pipe(prompts, **settings, seed=0, callback_on_step_end=stop)


def _render(a: argparse.Namespace, prompts: list[str]) -> float:
    """From the first batch to the last record, images and journals on the disk."""
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in ldm_engine.render(
            a.bundle,
            prompts,
            output=f"{folder}/out",
            runtime=a.runtime,
            precision=a.precision,
            batch_size=a.batch_size,
            num_inference_steps=a.num_inference_steps,
            guidance_scale=2.0,
            on_progress=lambda progress: seconds.append(progress.seconds),
        ):
            pass
    return seconds[-1]


if __name__ == "__main__":
    main()
