"""Writing a program with TensorRT engines, converted from its Paddle form on this machine's GPU.

This has not yet run on hardware. It was written to Paddle's sources: they put the engines' paths
into the graph, which here become names (see ``ENGINE_PLACE``), so that a bundle can be moved.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ldm_engine.bundle.bundle import ProgramInfo
from ldm_engine.bundle.contract import TensorSpec
from ldm_engine.bundle.formats import ENGINE_PLACE, FORMAT_FILES, engine_file_name
from ldm_engine.errors import LDMEngineError
from ldm_engine.runtimes.gpu.tensorrt_build import Range

from .paddle import name_outputs
from .tensorrt_conversion import Input, Request

_MODULE = "ldm_export.formats.tensorrt_conversion"
#: A string of a graph that is an engine's path, as Paddle names engines.
_ENGINE_PATH = re.compile(r'"(?:[^"\\]|\\.)*?(engine_\d+_\d+\.trt)"')
_STEM = "converted"


def write_tensorrt(
    program: str,
    folder: Path,
    info: ProgramInfo,
    ranges: Mapping[str, Range],
    precision: str,
    vocab_size: int,
    run: Callable[[Request], None],
) -> tuple[str, ...]:
    """Convert the Paddle form in `folder` and return the new files' names in the bundle.

    Args:
        program: its name.
        folder: the program's, in the bundle.
        info: its inputs and outputs.
        ranges: of the shapes of its inputs.
        precision: "fp16" or "fp32".
        vocab_size: ids are below this.
        run: converts; ``run_in_process``.

    Raises:
        LDMEngineError: if Paddle cannot convert it, or writes it in another form than expected.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tensorrt-") as scratch:
        request = Request(
            model=str(folder / Path(FORMAT_FILES["paddle"][0]).stem),
            output=str(Path(scratch) / _STEM),
            precision=precision,
            inputs=tuple(_input(tensor, ranges[tensor.name], vocab_size) for tensor in info.inputs),
        )
        run(request)
        return _collect(program, Path(scratch), folder, [tensor.name for tensor in info.outputs])


def _input(tensor: TensorSpec, sizes: Range, vocab_size: int) -> Input:
    highest = vocab_size if tensor.dtype == "int64" else 1
    return Input(tensor.name, tensor.dtype, *sizes, values=(0, highest))


def run_in_process(request: Request) -> None:
    """Convert in a process of its own.

    Raises:
        LDMEngineError: with the end of its output, if it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", _MODULE],
        input=request.to_json(),
        env={**os.environ, "NVIDIA_TF32_OVERRIDE": "0"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-400:]
        raise LDMEngineError(
            f"Paddle could not convert {request.model} to TensorRT: {said} "
            "If the GPU's memory is full, make room or ask for smaller --max-batch and --max-size; "
            "else leave tensorrt out of --formats."
        )


def _collect(program: str, scratch: Path, folder: Path, outputs: list[str]) -> tuple[str, ...]:
    """Move what was written from `scratch` into `folder`, under the bundle's names."""
    graph, weights = (scratch / f"{_STEM}{suffix}" for suffix in (".json", ".pdiparams"))
    try:
        text = graph.read_text()
        engines = list(dict.fromkeys(_ENGINE_PATH.findall(text)))
        names = {engine: engine_file_name(program, i) for i, engine in enumerate(engines)}
        for engine, name in names.items():
            (scratch / _STEM / engine).replace(folder / Path(name).name)
        places = {e: json.dumps(ENGINE_PLACE + Path(n).name) for e, n in names.items()}
        content = json.loads(_ENGINE_PATH.sub(lambda match: places[match[1]], text))
        name_outputs(content, outputs)
        target = [folder / name for name in FORMAT_FILES["tensorrt"]]
        target[0].write_text(json.dumps(content, separators=(",", ":")))
        weights.replace(target[1])
    except (OSError, ValueError) as error:
        raise LDMEngineError(
            f"Paddle wrote the TensorRT form of {program} in a way that is not known here: {error}."
            " Leave tensorrt out of --formats, and report this."
        ) from error
    if not names:
        raise LDMEngineError(
            f"Paddle gave nothing of {program} to TensorRT; its log shows why with "
            "GLOG_v=6. Leave tensorrt out of --formats, and report this."
        )
    return (*(f"{program}/{path.name}" for path in target), *names.values())
