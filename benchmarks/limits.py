"""What this machine can do at most: products and convolutions in three precisions, and memory.

The best of all runs, sizes, kinds and libraries counts: a limit is what was reached once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from ldm_engine.machine.cpu import available_threads

PRECISIONS = ("fp32", "bf16", "int8")
MATRIX_SIZES = (1024, 2048)
#: Channels and side of 3x3 convolutions, as in the UNet and in the decoder.
CONVOLUTIONS = ((320, 64), (512, 64), (256, 128))
SECONDS = 0.5  # of each product, after a first call
READ_BYTES = 256 << 20  # a thread; far beyond any cache


def measure(threads: int) -> dict[str, float]:
    """Operations a second ("fp32", "bf16", "int8") and bytes read a second ("memory")."""
    best = dict.fromkeys(PRECISIONS, 0.0)
    for precision, operations, call in _products(threads):
        best[precision] = max(best[precision], operations / _fastest(call))
    return {**{p: rate for p, rate in best.items() if rate}, "memory": _read_rate(threads)}


def _products(threads: int) -> Iterator[tuple[str, float, Callable[[], Any]]]:
    """(precision, multiplications and additions of a call, the call)."""
    for size in MATRIX_SIZES:
        shapes, operations = ((size, size), (size, size)), 2.0 * size**3
        for precision in PRECISIONS:
            yield precision, operations, _openvino_call(shapes, precision, threads)
        if find_spec("torch"):
            yield from _torch_products(size, operations, threads)
    for channels, side in CONVOLUTIONS:
        convolved = ((2, channels, side, side), (channels, channels, 3, 3))
        operations = 2.0 * 2 * channels * channels * 9 * side * side
        for precision in PRECISIONS:
            yield precision, operations, _openvino_call(convolved, precision, threads)


def _torch_products(
    size: int, operations: float, threads: int
) -> Iterator[tuple[str, float, Callable[[], Any]]]:
    import torch

    torch.set_num_threads(threads)
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.rand(size, size).to(kind) for _ in range(2))
        yield precision, operations, partial(torch.matmul, a, b)


def _openvino_call(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], precision: str, threads: int
) -> Callable[[], Any]:
    """The product of an input and constant weights, or their convolution if they have four axes."""
    import openvino as ov
    from openvino import opset13 as op

    stream = np.random.default_rng(0)
    given = op.parameter(list(shapes[0]), np.float32)
    left: Any = given
    right: Any = op.constant(stream.random(shapes[1], np.float32))
    if precision == "int8":
        low, high = op.constant(np.float32(0)), op.constant(np.float32(2.55))
        left = op.fake_quantize(given, low, high, low, high, 256)
        quantized = op.constant(stream.integers(-127, 128, shapes[1], dtype=np.int8))
        right = op.multiply(op.convert(quantized, "f32"), op.constant(np.float32(1 / 127)))
    if len(shapes[0]) == 4:
        result = op.convolution(left, right, [1, 1], [1, 1], [1, 1], [1, 1])
    else:
        result = op.matmul(left, right, False, False)
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = ov.Core().compile_model(ov.Model([result], [given]), "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(stream.random(shapes[0], np.float32)))

    def run() -> None:
        request.start_async()  # infer() would copy the result
        request.wait()

    return run


def _read_rate(threads: int) -> float:
    """Of all threads that read memory at once, each its own."""
    blocks = [np.ones(READ_BYTES, np.int8) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = _fastest(lambda: list(pool.map(np.max, blocks)))
    return float(READ_BYTES * threads / seconds)


def _fastest(call: Callable[[], Any]) -> float:
    """Seconds of the fastest call."""
    call()
    fastest, ends = float("inf"), time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < ends:
        call()
        fastest = min(fastest, time.perf_counter() - began)
    return fastest


def main() -> None:
    """Print the limits as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=available_threads())
    print(json.dumps(measure(parser.parse_args().threads)))


if __name__ == "__main__":
    main()
