"""The reference cases: fixed inputs for every program, and a short loop over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.contract import IN_0_1, TABLE, shapes
from ..bundle.model import ModelInfo
from ..runtimes.base import Program
from ..sampling.pipeline import LDMTextToImagePipeline

Arrays = dict[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]

#: The short end-to-end loop; eta above 0 so that the noise stream takes part.
END_TO_END: dict[str, Any] = {
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
    "eta": 0.5,
    "seed": 0,
}
END_TO_END_PROMPTS = ("a small red circle on the left", "A painting of a squirrel eating a burger")
#: Program and label, as those of a case.
END_TO_END_KEY = ("end_to_end", "3 guided steps, 2 images")


@dataclass(frozen=True)
class Case:
    """Seeded inputs of one program at one batch size and one image size."""

    program: str
    label: str
    input_shapes: Shapes
    output_shapes: Shapes
    vocab_size: int

    def inputs(self) -> Arrays:
        """The same arrays on every machine."""
        stream = np.random.RandomState(0)
        arrays: Arrays = {}
        for tensor in TABLE[self.program].inputs:
            shape = self.input_shapes[tensor.name]
            values: NDArray[Any]
            if tensor.dtype == "int64":
                values = stream.randint(0, self.vocab_size, shape)
            elif tensor.name == "timesteps":
                values = stream.randint(0, 1000, shape)
            elif tensor.values == IN_0_1:
                values = stream.uniform(size=shape)
            else:
                values = stream.standard_normal(shape)
            arrays[tensor.name] = values.astype(tensor.dtype)
        return arrays


def reference_cases(program: str, model: ModelInfo) -> Iterator[Case]:
    """`program` at two batch sizes and, where it has one, two image sizes."""
    contract = TABLE[program]
    for sizes in _sizes(model)[contract.runs_once_per]:
        by_name = shapes(program, model, **sizes)
        yield Case(
            program,
            _label(model, sizes),
            {tensor.name: by_name[tensor.name] for tensor in contract.inputs},
            {tensor.name: by_name[tensor.name] for tensor in contract.outputs},
            model.vocab_size,
        )


def _sizes(model: ModelInfo) -> dict[str, list[dict[str, int]]]:
    """The free dimensions of the cases, by how often a program runs."""
    small, large = model.sample_size, model.sample_size + model.size_multiple
    images = [{"B": 1, "h": small, "w": small}, {"B": 2, "h": small, "w": large}]
    return {
        "text": [{"N": 1}, {"N": 2}],
        "schedule": [{"S": 1}, {"S": 50}],
        "step": [
            {"B": 1, "rows": 2, "h": small, "w": small},
            {"B": 2, "rows": 2, "h": small, "w": large},
            {"B": 2, "rows": 4, "h": large, "w": small},
        ],
        "image": images,
        "input image": images,
    }


def _label(model: ModelInfo, sizes: Mapping[str, int]) -> str:
    if "N" in sizes:
        return f"{sizes['N']} texts"
    if "S" in sizes:
        return f"{sizes['S']} timesteps"
    width, height = (sizes[side] * model.scale_factor for side in "wh")
    label = f"batch {sizes['B']}, {width}x{height}"
    if "rows" in sizes:
        label += ", guided" if sizes["rows"] > sizes["B"] else ", unguided"
    return label


def run_case(program: Program, case: Case) -> Arrays:
    """The outputs of an opened program, copied."""
    program.allocate({**case.input_shapes, **case.output_shapes})
    for name, array in case.inputs().items():
        np.copyto(program.inputs[name], array)
    program.run()
    return {name: array.copy() for name, array in program.outputs.items()}


def render_end_to_end(pipe: LDMTextToImagePipeline) -> NDArray[np.float32]:
    """The images of the short loop, [2, H, W, 3] in [0, 1]."""
    return np.asarray(pipe(list(END_TO_END_PROMPTS), output_type="np", **END_TO_END).images)
