"""One program's conversion to TensorRT by Paddle: the request, and the call.

    python -m ldm_export.formats.tensorrt_conversion < REQUEST.json

A process of its own for each program: Paddle keeps a copy of every weight that it converted, and
TensorRT rounds fp32 to TF32 unless a variable forbids it when the process starts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ldm_engine.runtimes.gpu.paddle import FP32_OPERATORS
from ldm_engine.runtimes.gpu.tensorrt import import_tensorrt

WORKSPACE_BYTES = 4 << 30  # memory for TensorRT while it tries kernels
OPTIMIZATION_LEVEL = 3  # TensorRT's own default, of 0 to 5


@dataclass(frozen=True)
class Input:
    """A tensor of the program, with the shapes that engines are to be built for."""

    name: str
    dtype: str
    least: tuple[int, ...]
    best: tuple[int, ...]
    most: tuple[int, ...]
    values: tuple[float, float]  #: what random inputs for trying shapes lie between


@dataclass(frozen=True)
class Request:
    """The conversion of one program, as plain values."""

    model: str  #: the path of its graph without ".json"
    output: str  #: the path to write, without ".json"; engines go into a folder of that name
    precision: str  #: "fp16" or "fp32"
    inputs: tuple[Input, ...]

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Request:
        """What ``to_json`` wrote."""
        raw = json.loads(text)
        inputs = tuple(map(_read_input, raw.pop("inputs")))
        return cls(**raw, inputs=inputs)


def _read_input(entry: Mapping[str, Any]) -> Input:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()
    }
    return Input(**values)


def convert(request: Request, library: Any) -> None:
    """Have Paddle write the program with engines; `library` is ``paddle.tensorrt.export``."""
    inputs = [
        library.Input(
            min_input_shape=tensor.least,
            optim_input_shape=tensor.best,
            max_input_shape=tensor.most,
            input_data_type=tensor.dtype,
            input_range=tensor.values,
            name=tensor.name,
        )
        for tensor in request.inputs
    ]
    config = library.TensorRTConfig(
        inputs=inputs,
        precision_mode=library.PrecisionMode[request.precision.upper()],
        # Its converter of group norm does not look at this: that is in fp32 by TensorRT's own
        # default for normalization layers, and its products with scale and bias are in fp16.
        ops_run_float=list(FP32_OPERATORS) if request.precision == "fp16" else None,
        optimization_level=OPTIMIZATION_LEVEL,
        workspace_size=WORKSPACE_BYTES,
        save_model_dir=request.output,
    )
    library.convert(request.model, config)


def main() -> None:
    """Do what the request on stdin asks for."""
    import_tensorrt()
    from paddle.tensorrt import export

    convert(Request.from_json(sys.stdin.read()), export)


if __name__ == "__main__":
    main()
