"""Converts a bundle's ONNX programs to MNN, and compares MNN with ONNX Runtime.

pip install '.[onnxruntime]' onnx MNN==3.6.1
python examples/edge/mnn_check.py BUNDLE FOLDER [--fp16]
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import _tools  # MNN's converter; the command `mnnconvert` around it runs pip and sends a log
import MNN
import numpy as np
import onnx
from comparing import compare, weights_inside

from ldm_engine.bundle.bundle import Bundle
from ldm_engine.bundle.manifest import open_bundle
from ldm_engine.runtimes.base import Program, Runtime, RuntimeOptions


def convert(bundle: Bundle, folder: Path, *options: str) -> None:
    """Write the `.mnn` files."""
    for program in bundle.programs:
        source, target = bundle.path / program / "model.onnx", folder / f"{program}.mnn"
        if bundle.programs[program].formats["onnx"].weights == "fp16":
            # MNN 3.6.1 reads these wrongly where they lie beside a graph, and reports nothing.
            source = folder / f"{program}.onnx"
            onnx.save(weights_inside(bundle, program), source)
        words = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(target)]
        _tools.mnnconvert(["mnnconvert", *words, "--bizCode", "ldm", *options])
        print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


class MNNProgram(Program):
    """One program; MNN's integers are of 32 bits."""

    def __init__(self, name: str, bundle: Bundle, path: Path) -> None:
        super().__init__(name, bundle)
        info = bundle.programs[name]
        inputs, outputs = ([t.name for t in tensors] for tensors in (info.inputs, info.outputs))
        self._path = path
        self._module: Any = MNN.nn.load_module_from_file(str(path), inputs, outputs)

    def _bind(self) -> None:
        pass

    def _run(self, unchanged: Collection[str]) -> None:
        expr, given = MNN.expr, []
        for array in self.inputs.values():
            kind, dtype = (expr.int, "i4") if array.dtype == np.int64 else (expr.float, "f4")
            given.append(expr.const(array.astype(dtype), list(array.shape), expr.NCHW, kind))
        computed = self._module.forward(given)
        for array, output in zip(self.outputs.values(), computed, strict=True):
            np.copyto(array, expr.convert(output, expr.NCHW).read())

    def _clone(self) -> Program:
        return MNNProgram(self.name, self._bundle, self._path)

    def _release(self) -> None:
        self._module = None


class MNNRuntime(Runtime):
    """Opens the files of a folder."""

    name, format, distributions, install = "mnn", "onnx", ("MNN",), "pip install MNN"
    precisions: ClassVar[dict[str, tuple[str, ...]]] = {"cpu": ("fp32",)}

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, bundle: Bundle, program: str, options: RuntimeOptions) -> Program:
        """Load one file."""
        return MNNProgram(program, bundle, self._folder / f"{program}.mnn")


if __name__ == "__main__":
    opened, target = open_bundle(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    convert(opened, target, *sys.argv[3:])
    compare(opened, MNNRuntime(target))
