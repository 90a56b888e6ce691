"""Writing a program as ONNX: ``model.onnx`` (the graph) and ``model.onnx.data`` (the weights).

paddle2onnx writes nothing for models above 2 GB. So the layer is traced with its weights as
inputs, only that small graph is converted and repaired, and the weights go straight from the
model into the data file.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import paddle
from numpy.typing import NDArray
from paddle import Tensor, nn
from paddle.static import InputSpec

from ldm_engine.bundle.formats import FORMAT_FILES

from ..programs import ProgramSpec
from ..tracing import call_with
from ..weights import halve
from .onnx_folding import Weight, fold_constants
from .onnx_graph import GraphFormError, StoredWeight, attach_weights, repair

OPSET = 17  # the first with LayerNormalization
PAGE_BYTES = 4096  # weights begin at multiples of it, so that each can be mapped on its own


def write_onnx(spec: ProgramSpec, folder: Path, weights: str = "fp32") -> None:
    """Write the program into `folder`.

    Args:
        spec: its layer must still run as dygraph.
        folder: exists.
        weights: "fp32", or "fp16" to store matrices and kernels in half precision; the graph then
            casts them to fp32, and computes in fp32 all the same.

    Raises:
        GraphFormError: if paddle2onnx failed, or wrote a graph of another form than expected.
        CheckpointError: if a weight is too large for fp16.
    """
    graph_path, data_path = (folder / name for name in FORMAT_FILES["onnx"])
    content = _convert(spec)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own, which has no public name in onnx
        raise GraphFormError(f"{spec.name} cannot be read: {error}") from error
    repair(model, spec.inputs, spec.outputs, _norm_epsilons(spec))
    parameters = {name: parameter.numpy for name, parameter in spec.parameters.items()}
    stored = _write_weights(fold_constants(model.graph, parameters), data_path, weights)
    attach_weights(model.graph, {t.name for t in spec.inputs}, stored, data_path.name)
    onnx.save(model, str(graph_path))
    try:
        onnx.checker.check_model(str(graph_path), full_check=True)
    except Exception as error:
        raise GraphFormError(f"the checker says of {spec.name}: {str(error)[:500]}") from error


class _WeightsAsInputs(nn.Layer):
    """A layer whose parameters are handed to ``forward``."""

    def __init__(self, layer: nn.Layer, names: Sequence[str]) -> None:
        super().__init__()
        self.layer = layer
        self.names = tuple(names)

    def forward(self, inputs: list[Tensor], weights: list[Tensor]) -> Tensor:
        """The layer's output for `inputs`, with `weights` in the order of ``names``."""
        return call_with(self.layer, self.names, weights, inputs)


def _convert(spec: ProgramSpec) -> bytes:
    """The program as paddle2onnx writes it, weights being inputs named as in the model."""
    import paddle2onnx

    weights = [InputSpec(list(p.shape), "float32", n) for n, p in spec.parameters.items()]
    layer = _WeightsAsInputs(spec.layer, list(spec.parameters))
    layer.eval()
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the traced program holds no weights is the intent
        static = paddle.jit.to_static(
            layer, input_spec=[spec.input_specs(), weights], full_graph=True
        )
        paddle.jit.save(static, f"{scratch}/program")
        with _captured_stdout(Path(scratch) / "log") as log:
            try:
                content = paddle2onnx.export(
                    f"{scratch}/program.json",
                    "",
                    opset_version=OPSET,
                    auto_upgrade_opset=False,
                    enable_onnx_checker=False,  # it refuses what the repairs are for
                    optimize_tool="None",
                )
            except (Exception, SystemExit) as error:  # it may exit, and loses the reason on the way
                content = b""
                print(f"{type(error).__name__}: {error}")
        if not content:
            reason = " ".join(log.read_text(errors="replace").split())[-500:]
            raise GraphFormError(f"nothing for {spec.name} ({reason})")
    return cast(bytes, content)


@contextmanager
def _captured_stdout(path: Path) -> Iterator[Path]:
    """Send what C++ and Python print to a file: paddle2onnx has no quiet mode."""
    sys.stdout.flush()
    before = os.dup(1)
    try:
        # Not every ``sys.stdout`` writes to descriptor 1: a notebook's does not.
        with path.open("w") as file, redirect_stdout(file):
            os.dup2(file.fileno(), 1)
            yield path
    finally:
        os.dup2(before, 1)
        os.close(before)


def _norm_epsilons(spec: ProgramSpec) -> dict[str, float]:
    """Scale weight's name to epsilon, of every normalisation that the program uses."""
    epsilons = {
        f"{path}.weight": float(layer._epsilon)
        for path, layer in spec.layer.named_sublayers()
        if isinstance(layer, (nn.GroupNorm, nn.LayerNorm))
    }
    return {name: e for name, e in epsilons.items() if name in spec.parameters}


def _write_weights(
    parameters: Mapping[str, Weight], path: Path, weights: str
) -> list[StoredWeight]:
    """Write all values into one file, each at the beginning of a page."""
    stored = []
    with path.open("wb") as file:
        for name, weight in parameters.items():
            values: NDArray[np.floating[Any]] = weight()
            if weights == "fp16" and sum(size > 1 for size in values.shape) > 1:
                values = halve(name, values)
            file.write(b"\0" * (-file.tell() % PAGE_BYTES))
            stored.append(
                StoredWeight(name, values.dtype.name, values.shape, file.tell(), values.nbytes)
            )
            file.write(np.ascontiguousarray(values).data)
    return stored
