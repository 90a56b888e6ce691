"""Converts a bundle's ONNX programs to ncnn, and compares ncnn with ONNX Runtime.

    pip install '.[onnxruntime]' onnx ncnn pnnx
    python examples/edge/ncnn_check.py BUNDLE FOLDER

ncnn has no batch axis and pnnx fixes the image size. So programs are converted for one row of the
bundle's own image size, the UNet without what repeats rows under guidance, and run row by row.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import ncnn
import numpy as np
import onnx
import pnnx
from comparing import compare, weights_inside

from ldm_engine.bundle.bundle import Bundle
from ldm_engine.bundle.contract import TABLE, shapes
from ldm_engine.bundle.manifest import open_bundle
from ldm_engine.runtimes.base import Program, Runtime, RuntimeOptions


def one_row(bundle: Bundle, program: str) -> dict[str, tuple[int, ...]]:
    """The shapes that a program is converted for."""
    size = bundle.model.sample_size
    sizes = {"N": 1, "S": 1, "B": 1, "rows": 1, "h": size, "w": size}
    return shapes(program, bundle.model, **sizes)


def without_repeats(model: onnx.ModelProto) -> onnx.ModelProto:
    """The rows `arange(n) % m` of one row are that row."""
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type == "Gather" and makers.get(node.input[1]) == "Mod":
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    return model


def convert(bundle: Bundle, folder: Path) -> None:
    """Write the `.param` and `.bin` files; pnnx leaves files of its own beside them."""
    for program in bundle.programs:
        source = folder / f"{program}.onnx"
        onnx.save(without_repeats(weights_inside(bundle, program)), source)
        by_name = one_row(bundle, program)
        given = [
            f"[{','.join(map(str, by_name[t.name]))}]" + ("i64" if t.dtype == "int64" else "f32")
            for t in TABLE[program].inputs
        ]
        command = [pnnx.EXEC_PATH, source.name, f"inputshape={','.join(given)}", "fp16=0"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


class NCNNProgram(Program):
    """One program, run for one row after another."""

    def __init__(self, name: str, bundle: Bundle, stem: Path) -> None:
        super().__init__(name, bundle)
        self._stem = stem
        self._net: Any = ncnn.Net()
        self._net.opt.num_threads = 1
        self._net.load_param(f"{stem}.ncnn.param")
        self._net.load_model(f"{stem}.ncnn.bin")

    def _bind(self) -> None:
        pass

    def _run(self, unchanged: Collection[str]) -> None:
        (output,) = self.outputs.values()
        for row in range(len(output)):
            extractor = self._net.create_extractor()
            for i, array in enumerate(self.inputs.values()):
                kind = np.int32 if array.dtype == np.int64 else np.float32
                values = np.array(array[row % len(array)], dtype=kind, ndmin=1)
                extractor.input(f"in{i}", ncnn.Mat(values).clone())  # a Mat does not own its values
            status, computed = extractor.extract("out0")
            if status != 0:
                raise self._failure("ncnn", f"status {status}.")
            output[row] = np.array(computed).reshape(output[row].shape)

    def _clone(self) -> Program:
        return NCNNProgram(self.name, self._bundle, self._stem)

    def _release(self) -> None:
        self._net = None


class NCNNRuntime(Runtime):
    """Opens the files of a folder."""

    name, format, distributions, install = "ncnn", "onnx", ("ncnn",), "pip install ncnn"
    precisions: ClassVar[dict[str, tuple[str, ...]]] = {"cpu": ("fp32",)}

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def covers(self, bundle: Bundle, program: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether images are of the size that was converted."""
        fixed = one_row(bundle, program)
        return all(shape[1:] == fixed[name][1:] for name, shape in shapes.items())

    def open(self, bundle: Bundle, program: str, options: RuntimeOptions) -> Program:
        """Load one program."""
        return NCNNProgram(program, bundle, self._folder / program)


if __name__ == "__main__":
    opened, target = open_bundle(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    convert(opened, target)
    compare(opened, NCNNRuntime(target))
