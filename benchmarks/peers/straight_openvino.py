"""diffusers' components as openvino.convert_model gives them, in static shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from .contract import Array, Setup, Sources
from .converted import ConvertedPeer

HINTS = {"fp32": "f32", "bf16": "bf16"}


class StraightOpenVINO(ConvertedPeer):
    """Three compiled models; one for each batch size of the UNet."""

    conversion = "straight-openvino"
    made_by = ("torch", "diffusers", "openvino")

    def __init__(self, sources: Sources, setup: Setup) -> None:
        super().__init__(sources, setup)
        self._settings = {
            "INFERENCE_PRECISION_HINT": HINTS[setup.precision],
            "INFERENCE_NUM_THREADS": setup.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        # One for each precision: OpenVINO 2026.4.1 takes what was compiled for another.
        self._compiled = self._folder / f"compiled-{setup.precision}"
        self._core = ov.Core()
        self._requests: dict[tuple[Any, ...], Any] = {}

    def _run(self, name: str, inputs: list[NDArray[Any]]) -> Array:
        request = self._request(name, tuple(array.shape for array in inputs))
        inputs = [np.asarray(array, order="C") for array in inputs]
        for index, array in enumerate(inputs):
            request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))
        request.infer()
        result: Array = request.get_output_tensor(0).data
        return result

    def _request(self, name: str, shapes: tuple[tuple[int, ...], ...]) -> Any:
        if (name, shapes) not in self._requests:
            model = self._core.read_model(self._folder / f"{name}.xml")
            model.reshape(dict(enumerate(map(list, shapes))))
            settings = dict(self._settings)
            if len(shapes[0]) < 4 or shapes[0][0] <= 2:  # what is cached has the weights too
                settings["CACHE_DIR"] = str(self._compiled)
            compiled = self._core.compile_model(model, "CPU", settings)
            # One shape at a time, as for the others: a second copy of the weights is large.
            self._requests = {k: r for k, r in self._requests.items() if k[0] != name}
            self._requests[name, shapes] = compiled.create_infer_request()
        return self._requests[name, shapes]

    @staticmethod
    def _convert(checkpoint: Path, folder: Path) -> None:
        import torch

        from .components import components

        for part in components(checkpoint):
            with torch.no_grad():
                model = ov.convert_model(part.module, example_input=part.example)
            ov.save_model(model, folder / f"{part.name}.xml", compress_to_fp16=False)
