"""One program's call by two OpenVINO graphs, or by one with other settings, in turn: their ratio.

A graph is a path of an .xml, and settings of OpenVINO after commas:

    python benchmarks/two_graphs.py BUNDLE old/openvino_model.xml,SNIPPETS_MODE=DISABLE \\
        new/openvino_model.xml --precision bf16
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from ldm_engine import open_bundle
from ldm_engine.benchmarking.statistics import median_of_ratios, summarize
from ldm_engine.bundle.contract import shapes
from ldm_engine.bundle.model import ModelInfo
from ldm_engine.checks.tolerances import relative_error
from ldm_engine.machine.cpu import available_threads
from ldm_engine.runtimes.openvino import shared_core
from ldm_engine.sampling.encoding import unet_shapes

_HINTS = {"fp32": "f32", "bf16": "bf16"}


def main() -> None:
    """Time both in turn, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="whose sizes the graphs have")
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--program", default="unet", choices=("unet", "vae_decoder"))
    parser.add_argument("--precision", default="fp32", choices=list(_HINTS), help="but of int8")
    parser.add_argument("--rounds", type=int, default=40)
    a = parser.parse_args()
    inputs = _inputs(open_bundle(a.bundle).model, a.program)
    requests = [_compiled(graph, a.precision, inputs) for graph in (a.first, a.second)]
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(a.rounds):
        for i in (0, 1) if number % 2 == 0 else (1, 0):
            began = time.perf_counter()
            requests[i].infer()
            times[i].append(time.perf_counter() - began)
    ratio = median_of_ratios(times[1], times[0])
    expected, given = (request.get_output_tensor().data for request in requests)
    print(
        json.dumps(
            {
                "first_s": round(summarize(times[0]).median, 4),
                "second_s": round(summarize(times[1]).median, 4),
                "second_over_first": round(ratio.value, 3),
                "interval": [round(ratio.low, 3), round(ratio.high, 3)],
                "relative_l2": relative_error(given, expected),
            },
            indent=1,
        )
    )


def _inputs(model: ModelInfo, program: str) -> dict[str, Any]:
    """Noise, in the shapes of one image under guidance."""
    size = model.sample_size
    latents = (1, model.latent_channels, size, size)
    wanted = (
        unet_shapes(model, latents, 2)
        if program == "unet"
        else shapes(program, model, B=1, h=size, w=size)
    )
    stream = np.random.RandomState(0)
    outputs = ("noise_pred", "image")
    return {
        name: stream.standard_normal(shape).astype(np.float32)
        for name, shape in wanted.items()
        if name not in outputs
    }


def _compiled(graph: str, precision: str, inputs: dict[str, Any]) -> Any:
    path, *settings = graph.split(",")
    model = shared_core().read_model(path)
    model.reshape({name: list(array.shape) for name, array in inputs.items()})
    config = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": available_threads(),
        **dict(setting.split("=") for setting in settings),
    }
    request = shared_core().compile_model(model, "CPU", config).create_infer_request()
    for name, array in inputs.items():
        request.set_tensor(name, openvino.Tensor(array))
    request.infer()
    return request


if __name__ == "__main__":
    main()
