"""Renders pictures on a GPU and holds them against those of the CPU in fp32.

    python benchmarks/gpu/render.py demo-output/bundle --runtime onnxruntime --output gpu-pictures

Fails if the pictures are too far apart. docs/gpu.md has what has to be installed. This script has
not yet run on hardware.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contestants import whole_number
from numpy.typing import NDArray

from ldm_engine import LDMTextToImagePipeline, open_bundle
from ldm_engine.benchmarking.timing import TimedRuntime
from ldm_engine.commands.images import contact_sheet, save_png
from ldm_engine.errors import LDMEngineError
from ldm_engine.machine.files import make_folder
from ldm_engine.runtimes.choice import Choice, choose_runtime, resolve_options
from ldm_engine.sampling.pipeline import to_pil

PROMPTS = (
    "a small red circle on the left and a large blue star on the right, white background",
    "a large green triangle in the center, black background",
    "a small yellow star at the top and a large purple square at the bottom, gray background",
    "a large orange circle on the right",
)
#: What the median picture must reach, in dB to fp32 on the CPU. In fp32 two runtimes on the CPU
#: are above 90; narrower ones go other ways from step to step.
MIN_PSNR = {"fp32": 60.0, "fp16": 35.0, "bf16": 35.0}


def render(
    pipe: LDMTextToImagePipeline, count: int, steps: int, guidance_scale: float
) -> NDArray[np.float32]:
    """`count` pictures [n, H, W, 3] of the prompts in turn."""
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
    images = [
        pipe(
            prompt,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            seed=i,
            output_type="np",
        ).images
        for i, prompt in enumerate(prompts)
    ]
    return np.concatenate([np.asarray(image) for image in images])


def psnr(given: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """The peak signal-to-noise ratio of each picture in dB, at most 100."""
    power = np.square(given.astype(np.float64) - reference).mean(axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(power, 1e-10))


def run(a: argparse.Namespace) -> dict[str, Any]:
    """Render on both and compare.

    Raises:
        LDMEngineError: if the GPU or a runtime for it is missing, before anything is loaded.
    """
    bundle = open_bundle(a.bundle)
    choice = choose_runtime(bundle, a.runtime, a.precision, a.device)
    options = resolve_options(choice.runtime, a.device, a.precision, None)
    timed = TimedRuntime(choice.runtime)
    began = time.perf_counter()
    pipe = LDMTextToImagePipeline.from_bundle(bundle, Choice(timed, choice.reason), options)
    render(pipe, 1, 3, a.guidance_scale)  # warms up
    opened_s = time.perf_counter() - began
    timed.clear()
    began = time.perf_counter()
    images = render(pipe, a.count, a.steps, a.guidance_scale)
    seconds = time.perf_counter() - began
    reference = render(
        LDMTextToImagePipeline.from_pretrained(a.bundle), a.count, a.steps, a.guidance_scale
    )
    found = psnr(images, reference)
    if a.output:
        make_folder(a.output)
        for name, pictures in (("gpu", images), ("cpu", reference)):
            save_png(contact_sheet(to_pil(pictures)), a.output, name)
    return {
        "runtime": choice.runtime.name,
        "version": choice.runtime.version(a.device),
        "precision": a.precision,
        "pictures": a.count,
        "steps": a.steps,
        "until_warm_s": opened_s,
        "seconds_a_picture": seconds / a.count,
        "unet_step_ms": float(np.median(timed.durations_s["unet"])) * 1e3,
        "psnr_median": float(np.median(found)),
        "psnr_least": float(found.min()),
        "largest_difference": int(np.abs(images - reference).max() * 255 + 0.5),
        "required_psnr_median": MIN_PSNR[a.precision],
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--device", default="gpu:0", help="cpu rehearses it all without one.")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--precision", default="fp32", choices=tuple(MIN_PSNR))
    parser.add_argument("--count", type=whole_number(1), default=16, help="Pictures.")
    parser.add_argument("--steps", type=whole_number(1), default=50)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--output", type=Path, help="A folder for contact sheets.")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Render, print what was found as JSON, and judge it."""
    a = parse(arguments)
    try:
        found = run(a)
    except LDMEngineError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1))
    return 0 if found["psnr_median"] >= found["required_psnr_median"] else 1


if __name__ == "__main__":
    sys.exit(main())
