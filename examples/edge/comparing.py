"""Compares a runtime that is not the engine's with ONNX Runtime: program by program, and a picture.

Errors of programs are relative L2, the largest of a program's reference cases
(`ldm_engine.checks.cases`); pictures are compared value by value.
"""

from __future__ import annotations

import time

import numpy as np
import onnx
from numpy.typing import NDArray

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.bundle.bundle import Bundle
from ldm_engine.checks.cases import Case, reference_cases, run_case
from ldm_engine.checks.tolerances import relative_error
from ldm_engine.runtimes.base import Runtime, RuntimeOptions
from ldm_engine.runtimes.choice import Choice
from ldm_engine.runtimes.onnxruntime import ONNXRuntimeRuntime
from ldm_engine.sampling.opening import prepare

PROMPT = "a large blue circle on the right, white background"
OPTIONS = RuntimeOptions(threads=1)


def weights_inside(bundle: Bundle, program: str) -> onnx.ModelProto:
    """A program's ONNX graph with its weights; saved as one file it may have 2 GiB."""
    return onnx.load(bundle.path / program / "model.onnx")


def compare(bundle: Bundle, runtime: Runtime) -> None:
    """Print how far `runtime` lies from ONNX Runtime."""
    for program in bundle.programs:
        cases = [
            case
            for case in reference_cases(program, bundle.model)
            if runtime.covers(bundle, program, case.input_shapes)
        ]
        error = max(_error(bundle, runtime, case) for case in cases)
        print(f"{program}: relative error {error:.1e} in {len(cases)} cases")
    (given, seconds), (expected, usual) = (
        _picture(bundle, r) for r in (runtime, ONNXRuntimeRuntime())
    )
    difference = np.abs(given.astype(int) - expected)
    print(
        f"a picture of 50 steps with guidance: {np.count_nonzero(difference)} of {given.size} "
        f"values differ, by {difference.max()}/255 at most; {seconds:.1f} s, "
        f"in ONNX Runtime {usual:.1f} s (one thread, without opening)"
    )


def _error(bundle: Bundle, runtime: Runtime, case: Case) -> float:
    with (
        runtime.open(bundle, case.program, OPTIONS) as theirs,
        ONNXRuntimeRuntime().open(bundle, case.program, OPTIONS) as ours,
    ):
        given, expected = run_case(theirs, case), run_case(ours, case)
    return max(relative_error(given[name], expected[name]) for name in expected)


def _picture(bundle: Bundle, runtime: Runtime) -> tuple[NDArray[np.uint8], float]:
    """[H, W, 3], and how long the call took."""
    opened = prepare(bundle, Choice(runtime, "requested"), OPTIONS)
    with LDMTextToImagePipeline.from_opened(opened, memory="resident") as pipe:
        start = time.perf_counter()
        image = pipe(PROMPT, guidance_scale=2, num_inference_steps=50, seed=0).images[0]
        return np.asarray(image), time.perf_counter() - start
