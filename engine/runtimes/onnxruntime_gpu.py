"""ONNX Runtime on a GPU: buffers bound once in its memory, fixed shapes, a step as one CUDA graph.

A step sends latents and time shift and fetches the noise prediction, as in ``paddle_gpu.py``. This
file has not yet run on hardware; its programs are tested with buffers in the CPU's memory.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import threading
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Bundle, dimension_name
from ..cache import drop_unsealed, seal_files
from ..errors import BundleError, LDMEngineError, RuntimeUnavailableError
from .base import Program
from .by_shape import ByShape, Shapes, describe
from .onnx_half import HalfProgram, halve_program

Provider = tuple[str, dict[str, Any]]
CUDA, TENSORRT, CPU = (f"{n}ExecutionProvider" for n in ("CUDA", "Tensorrt", "CPU"))
_FATAL_ONLY = 4  # of its log severities; what fails is raised as well
_ENGINES = "*.engine"  # what the TensorRT provider calls them in its cache
#: A captured graph is replayed with the buffers that it was captured with, whatever is bound: each
#: binding has a graph of its own.
_GRAPH_IDS = itertools.count(1)


@dataclass(frozen=True)
class Plan:
    """How one program's sessions are made."""

    device: tuple[str, int]  #: as ``OrtValue`` names it: "cuda" and the GPU's number
    #: In order of preference; the first one must be there. None: none with a CUDA graph.
    providers: tuple[Provider, ...]
    graph_providers: tuple[Provider, ...] | None = None
    cache: Path | None = None  #: of engines that are built for a session
    in_half: bool = False  #: rewrite the graph, so that whoever runs it computes in fp16


def cuda_plan(program: str, index: int, precision: str) -> Plan:
    """Sessions on the GPU `index`; those of the UNet, which alone runs often, as CUDA graphs."""

    def providers(with_graph: bool) -> tuple[Provider, ...]:
        return (cuda_provider(index, with_graph),)

    return replace(_plan(program, index, providers), in_half=precision == "fp16")


def tensorrt_plan(program: str, index: int, cache: Path | None) -> Plan:
    """Sessions in fp16; what TensorRT does not take runs with CUDA. Engines are kept in `cache`."""

    def providers(with_graph: bool) -> tuple[Provider, ...]:
        return tensorrt_provider(index, with_graph, cache), cuda_provider(index, False)

    return replace(_plan(program, index, providers), cache=cache)


def _plan(program: str, index: int, providers: Callable[[bool], tuple[Provider, ...]]) -> Plan:
    graph_providers = providers(True) if program == "unet" else None
    return Plan(("cuda", index), providers(False), graph_providers)


def cuda_provider(index: int, with_graph: bool) -> Provider:
    """ONNX Runtime's CUDA provider on the GPU `index`, with fp32 that is not rounded to TF32."""
    options = {
        "device_id": index,
        "use_tf32": 0,
        "enable_cuda_graph": int(with_graph),
        "arena_extend_strategy": "kSameAsRequested",
    }
    return CUDA, options


def tensorrt_provider(index: int, with_graph: bool, cache: Path | None) -> Provider:
    """Its TensorRT provider in fp16; engines are kept in the folder `cache`."""
    options: dict[str, Any] = {
        "device_id": index,
        "trt_fp16_enable": True,
        # Whole normalizations compute in fp32 unless told; this is for what of them is spelt out.
        "trt_layer_norm_fp32_fallback": True,
        "trt_cuda_graph_enable": with_graph,
    }
    if cache is not None:
        options |= {
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(cache),
        }
    return TENSORRT, options


def reach_gpu(library: Any, device: tuple[str, int]) -> None:
    """Load CUDA from pip's packages, if it is there, and touch the memory of `device`.

    `library` is ``onnxruntime``; what it logs is silenced, in the whole process.

    Raises:
        RuntimeUnavailableError: if that fails, with what could not be loaded.
    """
    library.set_default_logger_severity(_FATAL_ONLY)  # what fails is told below
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        library.preload_dlls()
    try:
        library.OrtValue.ortvalue_from_shape_and_type([1], np.float32, *device)
    except Exception as error:
        told = [line for line in printed.getvalue().splitlines() if "Failed" in line]
        raise RuntimeUnavailableError(
            f"ONNX Runtime {library.__version__} cannot use {device[0]} device {device[1]}: "
            f"{'; '.join(told) or reason(error)}. `pip install 'ldm-engine[onnxruntime-gpu]'` "
            "installs CUDA and cuDNN; see docs/gpu.md."
        ) from error


class Sessions(ByShape[Any]):
    """One program's sessions, each for fixed shapes; shared by clones, which take turns."""

    def __init__(self, bundle: Bundle, program: str, plan: Plan, size: int) -> None:
        """`size` is that of the weights in bytes."""
        super().__init__(size)
        self.device = plan.device
        self.turn = threading.Lock()  # graphs cannot be captured while another run is under way
        self._bundle, self._program, self._plan = bundle, program, plan
        self._inputs = bundle.programs[program].inputs
        self._half: HalfProgram | None = None  # for all shapes; sessions may use its weights

    def _make(self, shapes: Shapes) -> Any:
        if self._plan.cache is not None:
            drop_unsealed(self._plan.cache, _ENGINES)
        session = self._open_with_graph(shapes) or self._open(shapes, self._plan.providers)
        if self._plan.cache is not None:
            seal_files(self._plan.cache, _ENGINES)
        return session

    def _open_with_graph(self, shapes: Shapes) -> Any:
        """A session whose runs are replayed, or None if there cannot be one, with a warning."""
        if self._plan.graph_providers is None:
            return None
        try:
            return self._open(shapes, self._plan.graph_providers)
        except BundleError as error:
            warnings.warn(
                f"{self._program} cannot be run as a CUDA graph, and is slower without: {error}",
                stacklevel=2,
            )
            return None

    def _open(self, shapes: Shapes, providers: Sequence[Provider]) -> Any:
        from onnxruntime import InferenceSession, OrtValue

        graph, data = self._bundle.program_files(self._program, "onnx")
        settings = self._settings(shapes)
        model: str | bytes = str(graph)
        if self._plan.in_half:
            self._half = self._half or halve_program(graph, data)
            model, weights = self._half.graph, self._half.weights
            values = [OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
            settings.add_external_initializers(list(weights), values)
        try:
            # Else it prints an error and goes on with the CPU.
            session = InferenceSession(model, settings, providers=[*providers], enable_fallback=0)
        except Exception as error:
            raise BundleError(
                f"ONNX Runtime cannot load {graph} for {describe(shapes)}: {reason(error)} "
                "If it misses a library, docs/gpu.md tells how to get it; else run `ldm-engine "
                "verify` on the bundle, and if it is whole, export it again."
            ) from error
        if providers[0][0] not in session.get_providers():  # and this it does all the same
            raise RuntimeUnavailableError(
                f"ONNX Runtime cannot use its {providers[0][0]}: a library that it needs is "
                "missing or of another version; docs/gpu.md tells which it needs."
            )
        return session

    def _settings(self, shapes: Shapes) -> Any:
        from onnxruntime import SessionOptions

        settings = SessionOptions()
        settings.log_severity_level = _FATAL_ONLY
        for tensor in self._inputs:
            for axis, (accepted, size) in enumerate(
                zip(tensor.shape, shapes[tensor.name], strict=True)
            ):
                if accepted == -1:
                    name = dimension_name(tensor.name, axis)
                    settings.add_free_dimension_override_by_name(name, size)
        return settings


class ONNXRuntimeGPUProgram(Program):
    """One binding of device buffers; see ``Program`` for how long its outputs live.

    Clones share their sessions and take turns: they compute one at a time.
    """

    def __init__(self, name: str, bundle: Bundle, sessions: Sessions) -> None:
        super().__init__(name, bundle)
        self._sessions = sessions
        self._session: Any = None
        self._binding: Any = None
        self._run_options: Any = None
        self._on_device: Mapping[str, Any] = {}

    def _bind(self) -> None:
        from onnxruntime import OrtValue, RunOptions

        arrays = self.inputs | self.outputs
        self._session = self._binding = None  # frees what they hold before the next are made
        self._on_device = {}
        self._session = self._sessions.get({n: a.shape for n, a in self.inputs.items()})
        self._on_device = {
            name: OrtValue.ortvalue_from_shape_and_type(
                list(array.shape), array.dtype.type, *self._sessions.device
            )
            for name, array in arrays.items()
        }
        self._binding = self._session.io_binding()
        for name in self.inputs:
            self._binding.bind_ortvalue_input(name, self._on_device[name])
        for name in self.outputs:
            self._binding.bind_ortvalue_output(name, self._on_device[name])
        self._run_options = RunOptions()
        self._run_options.add_run_config_entry("gpu_graph_id", str(next(_GRAPH_IDS)))

    def run(self, unchanged: Collection[str] = ()) -> None:
        """Compute ``outputs`` from ``inputs``."""
        try:
            with self._sessions.turn:
                for name, array in self.inputs.items():
                    if name not in unchanged:
                        self._on_device[name].update_inplace(array)
                self._session.run_with_iobinding(self._binding, self._run_options)
                # Fetching makes an array; outputs in host memory, which ONNX Runtime would fill by
                # itself, are left alone when a graph is replayed.
                for name, array in self.outputs.items():
                    np.copyto(array, self._on_device[name].numpy())
        except Exception as error:
            shapes = describe({n: a.shape for n, a in self.inputs.items()})
            raise LDMEngineError(
                f"ONNX Runtime could not run the program {self.name} on {shapes}: "
                f"{reason(error)} If these are large for this GPU, ask for a smaller height, width "
                "or batch; else check the bundle with `ldm-engine verify`."
            ) from error

    def clone(self) -> ONNXRuntimeGPUProgram:
        """Another binding over the same sessions."""
        return ONNXRuntimeGPUProgram(self.name, self._bundle, self._sessions)


def reason(error: Exception) -> str:
    """One of ONNX Runtime's errors on one line."""
    return " ".join(str(error).split())[:300]
