"""diffusers' components as torch.onnx.export gives them, in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from .contract import Array, Setup, Sources
from .converted import ConvertedPeer

ROWS = "rows"  # the name of the free dimension


class StraightONNXRuntime(ConvertedPeer):
    """Three sessions; one for each batch size of the UNet."""

    conversion = "straight-onnx"
    made_by = ("torch", "diffusers", "onnx")

    def __init__(self, sources: Sources, setup: Setup) -> None:
        super().__init__(sources, setup)
        self._threads = setup.threads
        self._sessions: dict[tuple[str, int], Any] = {}

    def _run(self, name: str, inputs: list[NDArray[Any]]) -> Array:
        session = self._session(name, len(inputs[0]))
        names = [value.name for value in session.get_inputs()]
        result: Array = session.run(None, dict(zip(names, inputs, strict=True)))[0]
        return result

    def _session(self, name: str, rows: int) -> Any:
        if (name, rows) not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self._threads
            options.add_free_dimension_override_by_name(ROWS, rows)
            self._sessions = {k: s for k, s in self._sessions.items() if k[0] != name}
            path = self._folder / f"{name}.onnx"
            self._sessions[name, rows] = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[name, rows]

    @staticmethod
    def _convert(checkpoint: Path, folder: Path) -> None:
        """Through torch.onnx, then with all weights of a graph in one file beside it."""
        import tempfile

        import onnx
        import torch

        from .components import components

        for part in components(checkpoint):
            free = {
                name: {0: ROWS} for name, e in zip(part.inputs, part.example, strict=True) if e.ndim
            }
            with tempfile.TemporaryDirectory(dir=folder) as scratch, torch.no_grad():
                traced = str(Path(scratch) / "traced.onnx")
                torch.onnx.export(
                    part.module,
                    part.example,
                    traced,
                    dynamo=False,
                    opset_version=17,
                    input_names=list(part.inputs),
                    output_names=["result"],
                    dynamic_axes=free,
                )
                model = onnx.load(traced)
            target = folder / f"{part.name}.onnx"
            onnx.save(model, target, save_as_external_data=True, location=f"{part.name}.onnx.data")
