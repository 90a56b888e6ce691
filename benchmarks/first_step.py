"""From the start of a process to the end of its first denoising step: our command and diffusers.

Both are started anew for each sample, in turn. diffusers' pipeline runs the same prompt, guidance
and precision; its time ends in the scheduler after the first UNet call, ours after the first turn
of the loop.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PROMPT = "A painting of a squirrel eating a burger"

OURS = """
import os, sys
from ldm_engine import cli, pipeline
run_loop = pipeline.run_loop
def stop_after_first(unet, steps, *rest):
    run_loop(unet, steps[:1], *rest)
    os._exit(0)
pipeline.run_loop = stop_after_first
sys.argv = ["ldm-engine", "generate", *sys.argv[1:]]
cli.main()
"""

DIFFUSERS = """
import os, sys, torch
from diffusers import LDMTextToImagePipeline
torch.set_num_threads(int(sys.argv[2]))
kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[sys.argv[3]]
pipe = LDMTextToImagePipeline.from_pretrained(sys.argv[1], torch_dtype=kind)
pipe.set_progress_bar_config(disable=True)
step = pipe.scheduler.step
def stop_after_first(*arguments, **keywords):
    step(*arguments, **keywords)
    os._exit(0)
pipe.scheduler.step = stop_after_first
pipe([sys.argv[4]], guidance_scale=6.0, num_inference_steps=50)
"""


def seconds(command: list[str]) -> float:
    """Wall time of `command`, which must succeed."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.perf_counter() - began


def main() -> None:
    """Warm both up once, then take samples in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path, help="the same model in the diffusers layout")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--runtime", default="openvino")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path)
    a = parser.parse_args()
    theirs = "bf16" if a.precision == "int8" else a.precision
    with tempfile.TemporaryDirectory() as scratch:
        ours = [sys.executable, "-c", OURS, str(a.bundle), PROMPT, "--output", scratch]
        ours += ["--runtime", a.runtime, "--precision", a.precision, "--threads", str(a.threads)]
        other = [sys.executable, "-c", DIFFUSERS, str(a.checkpoint), str(a.threads), theirs, PROMPT]
        commands = {"ours": ours, "diffusers": other}
        first = {name: seconds(command) for name, command in commands.items()}
        samples: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(a.rounds):
            for name, command in commands.items():
                samples[name].append(seconds(command))
    medians = {name: float(np.median(s)) for name, s in samples.items()}
    print(f"first start, s: {first}")
    print(f"later starts, medians, s: {medians}")
    print(f"ratio: {medians['ours'] / medians['diffusers']:.3f}")
    if a.output:
        facts = {"precision": a.precision, "first_s": first, "samples_s": samples}
        a.output.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
