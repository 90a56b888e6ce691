"""TensorRT programs of a bundle, opened by Paddle: where they may run, and for which shapes.

This file has not yet run on hardware.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib
import importlib.util
import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ...bundle.bundle import Bundle
from ...bundle.formats import ENGINE_PLACE
from ...errors import BundleError, RuntimeUnavailableError, ShapeError, last_lines
from ...machine.device import Device
from ...machine.gpu import find_gpu
from ..base import RuntimeOptions
from ..paddle_predictor import PaddleLibrary, import_inference
from .paddle import PaddleGPUProgram, open_on_gpu
from .tensorrt_build import FORMAT, difference, read_build, rebuild_command, shape_ranges

INSTALL = "pip install 'tensorrt==10.*'"


def missing_tensorrt() -> list[str]:
    """The part of TensorRT that is not installed, with its remedy; empty if all is."""
    if importlib.util.find_spec("tensorrt") or ctypes.util.find_library("nvinfer"):
        return []
    return [f"TensorRT (libnvinfer) is not installed; install it with `{INSTALL}`"]


def import_tensorrt() -> None:
    """Load the libraries of TensorRT's package, if that is how it was installed, for all to see.

    Paddle opens ``libnvinfer.so``, which the package has with a number at the end only, and else
    takes what the process has loaded globally. Python loads libraries for itself alone.

    Raises:
        RuntimeUnavailableError: if it is broken.
    """
    if importlib.util.find_spec("tensorrt") is None:
        return
    try:
        version = str(importlib.import_module("tensorrt").__version__)
    except Exception as error:
        raise RuntimeUnavailableError(
            f"TensorRT's package cannot be imported: {error}. Install it again: `{INSTALL}`."
        ) from error
    for library in ("libnvinfer.so", "libnvinfer_plugin.so"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(f"{library}.{version.partition('.')[0]}", ctypes.RTLD_GLOBAL)


def facts_here(index: int) -> dict[str, str]:
    """What TensorRT programs depend on: the GPU `index`, and TensorRT's and CUDA's versions.

    Raises:
        RuntimeUnavailableError: if there is no such GPU, or Paddle lacks TensorRT.
    """
    gpu = find_gpu(index).name
    inference = import_inference(PaddleLibrary.install)
    from paddle import version

    import_tensorrt()
    return {"gpu": gpu, "tensorrt": _find_version(inference), "cuda": str(version.cuda())}


def _find_version(inference: Any) -> str:
    """The version of the TensorRT that Paddle finds."""
    from paddle import __version__ as paddle

    wanted: tuple[int, ...] = ()
    found: tuple[int, ...] = ()
    reason = "it finds no libnvinfer.so"
    try:
        wanted = inference.get_trt_compile_version()
        found = inference.get_trt_runtime_version() if any(wanted) else ()
    except Exception as error:
        reason = last_lines(error)
    if any(found):
        return ".".join(map(str, found))
    if wanted and not any(wanted):
        raise RuntimeUnavailableError(
            f"Paddle {paddle} has no TensorRT in it; {PaddleLibrary.gpu_install}."
        )
    built = f", which was built with TensorRT {'.'.join(map(str, wanted))}," if wanted else ""
    raise RuntimeUnavailableError(
        f"Paddle {paddle}{built} cannot use TensorRT here: {reason}. Install that major version "
        f"(`{INSTALL}`); if it is installed, put the folder of its libnvinfer.so into "
        "LD_LIBRARY_PATH."
    )


class TensorRTProgram(PaddleGPUProgram):
    """One program with TensorRT engines, which take only the shapes that they were built for."""

    def allocate(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make the arrays for these `shapes`; see ``Program``.

        Raises:
            ShapeError: also if the engines were not built for them.
        """
        build = read_build(self._bundle)
        ranges = shape_ranges(self.name, self._bundle.model, build)
        for name, (least, _, most) in ranges.items():
            given = shapes.get(name, ())
            if not _within(given, least, most):
                raise ShapeError(
                    f"`{name}` of program {self.name} has shape {tuple(given)}; {least} to {most} "
                    f"is accepted: this bundle's TensorRT programs were built for {build.batch[0]} "
                    f"to {build.batch[2]} images at once of {build.size[0]} to {build.size[2]} "
                    'pixels. Choose that or runtime="paddle", or build them again with: '
                    f"{rebuild_command(self._bundle, build)}"
                )
        super().allocate(shapes)


class TensorRTRuntime(PaddleLibrary):
    """Opens ``tensorrt.json`` programs."""

    name = "tensorrt"
    format = FORMAT
    fp32_runtime = "paddle"
    precisions: ClassVar[dict[str, tuple[str, ...]]] = {"gpu": ("fp32", "fp16")}

    def computes_in(self, bundle: Bundle, program: str, precision: str) -> str:
        """As it was built."""
        return bundle.programs[program].formats[self.format].weights

    def stored_weights(self, bundle: Bundle, program: str, precision: str) -> str:
        """As in Paddle's programs, which these were made from."""
        return bundle.programs[program].formats["paddle"].weights

    def _missing_for_gpu(self, precision: str, device: Device) -> list[str]:
        return [*super()._missing_for_gpu(precision, device), *missing_tensorrt()]

    def mismatch(self, bundle: Bundle, precision: str, device: Device) -> str | None:
        """Why this bundle's programs cannot run here in `precision`, and what to do, or None."""
        try:
            build = read_build(bundle)
            command = rebuild_command(bundle, build)
            if precision != build.precision:
                return (
                    f"its TensorRT programs compute in {build.precision}; choose that, or build "
                    f"them with --precision {precision} in: {command}"
                )
            return difference(build, facts_here(device.index), command)
        except (BundleError, RuntimeUnavailableError) as error:
            return str(error).rstrip(".")

    def offers(self, bundle: Bundle, kind: str) -> tuple[str, ...]:
        """The one that they were built in."""
        is_there = self.format in bundle.formats
        return (read_build(bundle).precision,) if is_there else super().offers(bundle, kind)

    def format_facts(self, bundle: Bundle) -> dict[str, str]:
        """The machine, batches and sizes that the engines were built for."""
        return {"TensorRT": str(read_build(bundle))} if self.format in bundle.formats else {}

    def covers(self, bundle: Bundle, program: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether `program` can be run on inputs of these `shapes`."""
        ranges = shape_ranges(program, bundle.model, read_build(bundle))
        return all(_within(shapes[n], least, most) for n, (least, _, most) in ranges.items())

    def open(self, bundle: Bundle, program: str, options: RuntimeOptions) -> TensorRTProgram:
        """Load one program; its engines are read when it is first run."""
        graph, weights, *engines = bundle.program_files(program, self.format)
        folder = _ScratchFolder()
        located = folder.path / graph.name
        located.write_text(locate_engines(graph.read_text(), engines))
        # The engines compute in what they were built for, and all else in fp32.
        opened = open_on_gpu(TensorRTProgram, bundle, program, (located, weights), "fp32", options)
        opened.source = folder
        return opened


class _ScratchFolder:
    """A folder that is removed with the last reference to this, or when the process ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="ldm-engine-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _within(given: Sequence[int], least: Sequence[int], most: Sequence[int]) -> bool:
    """Whether a shape is within these bounds; one of another rank is for others to refuse."""
    return all(low <= n <= high for low, n, high in zip(least, given, most, strict=False))


def locate_engines(graph: str, engines: Sequence[Path]) -> str:
    """A program's text with the paths of its `engines` in place of their names."""
    for engine in engines:
        place = json.dumps(ENGINE_PLACE + engine.name)
        graph = graph.replace(place, json.dumps(str(engine.resolve()), ensure_ascii=False))
    return graph
