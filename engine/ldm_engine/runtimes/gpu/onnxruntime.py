"""ONNX Runtime on a GPU: buffers bound once in its memory, fixed shapes, a step as one CUDA graph.

A step sends latents and time shift and fetches the noise prediction, as in ``paddle.py``. This
file has not yet run on hardware; its programs are tested with buffers in the CPU's memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle.bundle import Bundle
from ...bundle.contract import dimension_name
from ...errors import BundleError, LDMEngineError, RuntimeUnavailableError
from ...machine.cache import cache_folder, drop_unsealed, seal_files
from ..base import Program
from ..by_shape import ByShape, Shapes, describe
from .onnx_half import HalfProgram, halve_program

Provider = tuple[str, dict[str, Any]]
CUDA, TENSORRT, CPU = (f"{n}ExecutionProvider" for n in ("CUDA", "Tensorrt", "CPU"))
FATAL_ONLY = 4  # of its log severities; what fails is raised as well
_ENGINES = "*.engine"  # the TensorRT provider's names for them in its cache
#: While one thread captures a CUDA graph, CUDA refuses allocations and copies to all others, on any
#: GPU. All of ONNX Runtime's work on one is therefore done by one thread at a time.
_TURN = threading.Lock()


@dataclass(frozen=True)
class Plan:
    """How one program's sessions are made."""

    device: tuple[str, int]  #: as ``OrtValue`` names it: "cuda" and the GPU's number
    #: In order of preference; the first one must be there. None: none with a CUDA graph.
    providers: tuple[Provider, ...]
    graph_providers: tuple[Provider, ...] | None = None
    cache: str | None = None  #: name of the cache's folders of engines, without the shapes
    in_fp16: bool = False  #: rewrite the graph to compute in fp16


def cuda_plan(program: str, index: int, precision: str) -> Plan:
    """Sessions on the GPU `index`; those of the UNet, which alone runs often, as CUDA graphs."""

    def providers(with_graph: bool) -> tuple[Provider, ...]:
        return (cuda_provider(index, with_graph),)

    return replace(_plan(program, index, providers), in_fp16=precision == "fp16")


def tensorrt_plan(program: str, index: int, cache: str | None) -> Plan:
    """Sessions in fp16; what TensorRT does not take runs with CUDA. See ``Plan`` for `cache`."""

    def providers(with_graph: bool) -> tuple[Provider, ...]:
        return tensorrt_provider(index, with_graph), cuda_provider(index, False)

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


def tensorrt_provider(index: int, with_graph: bool) -> Provider:
    """Its TensorRT provider in fp16."""
    options = {
        "device_id": index,
        "trt_fp16_enable": True,
        # Whole normalizations compute in fp32 by default; this is for those spelt out in the graph.
        "trt_layer_norm_fp32_fallback": True,
        "trt_cuda_graph_enable": with_graph,
    }
    return TENSORRT, options


def keep_engines(providers: Sequence[Provider], folder: Path) -> tuple[Provider, ...]:
    """These `providers`, with TensorRT's engines kept in `folder`."""
    kept = {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
    }
    return tuple((n, options | kept if n == TENSORRT else options) for n, options in providers)


def reach_gpu(library: Any, device: tuple[str, int]) -> None:
    """Load CUDA from pip's packages, if it is there, and touch the memory of `device`.

    `library` is ``onnxruntime``; what it logs is silenced, in the whole process.

    Raises:
        RuntimeUnavailableError: if that fails, with what could not be loaded.
    """
    library.set_default_logger_severity(FATAL_ONLY)  # the error below has the reason
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        library.preload_dlls()
    try:
        with _TURN:
            library.OrtValue.ortvalue_from_shape_and_type([1], np.float32, *device)
    except Exception as error:
        failures = [line for line in printed.getvalue().splitlines() if "Failed" in line]
        raise RuntimeUnavailableError(
            f"ONNX Runtime {library.__version__} cannot use {device[0]} device {device[1]}: "
            f"{'; '.join(failures) or reason(error)}. `pip install 'ldm-engine[onnxruntime-gpu]'` "
            "installs CUDA and cuDNN; see docs/gpu.md."
        ) from error


@dataclass
class BoundSession:
    """A session for fixed shapes, with the buffers on the device that it reads and writes.

    A session keeps a single CUDA graph, which is replayed with the buffers that it was captured
    with, also when others are bound later. So they are made once, and all users of the session
    share them.
    """

    session: Any
    binding: Any
    buffers: Mapping[str, Any]  #: inputs and outputs by name
    sender: object = None  #: the mark of the program whose inputs are in the buffers


class Sessions(ByShape[BoundSession]):
    """One program's sessions, each for the shapes of its inputs and outputs; shared by clones."""

    def __init__(self, bundle: Bundle, program: str, plan: Plan, size: int) -> None:
        """`size` is that of the weights in bytes."""
        super().__init__(size)
        self._bundle, self._program, self._plan = bundle, program, plan
        self._info = bundle.programs[program]
        self._half: HalfProgram | None = None  # for all shapes; sessions may use its weights

    def _compile(self, shapes: Shapes) -> BoundSession:
        folder = self._engine_folder(shapes)
        if folder is not None:
            drop_unsealed(folder, _ENGINES)
        session = self._open_with_graph(shapes, folder) or self._open(
            shapes, self._plan.providers, folder
        )
        if folder is not None:
            seal_files(folder, _ENGINES)
        return self._bound(session, shapes)

    def _engine_folder(self, shapes: Shapes) -> Path | None:
        """Where engines for these `shapes` are kept.

        Each shape has its own folder: the provider's names for engines do not distinguish fixed
        shapes, and it would load those of others (onnxruntime issue 32254).
        """
        if self._plan.cache is None:
            return None
        digest = hashlib.sha256(describe(shapes).encode()).hexdigest()[:16]
        return cache_folder("onnxruntime-tensorrt", f"{self._plan.cache}-{digest}")

    def _bound(self, session: Any, shapes: Shapes) -> BoundSession:
        from onnxruntime import OrtValue

        try:
            buffers = {
                tensor.name: OrtValue.ortvalue_from_shape_and_type(
                    list(shapes[tensor.name]), np.dtype(tensor.dtype).type, *self._plan.device
                )
                for tensor in self._info.inputs + self._info.outputs
            }
        except Exception as error:
            raise LDMEngineError(
                f"ONNX Runtime cannot make buffers for the program {self._program} on "
                f"{describe(shapes)}: {reason(error)} Choose a smaller height, width or batch."
            ) from error
        binding = session.io_binding()
        for tensor in self._info.inputs:
            binding.bind_ortvalue_input(tensor.name, buffers[tensor.name])
        for tensor in self._info.outputs:
            binding.bind_ortvalue_output(tensor.name, buffers[tensor.name])
        return BoundSession(session, binding, buffers)

    def _open_with_graph(self, shapes: Shapes, folder: Path | None) -> Any:
        """A session whose runs are replayed, or None if there cannot be one, with a warning."""
        if self._plan.graph_providers is None:
            return None
        try:
            return self._open(shapes, self._plan.graph_providers, folder)
        except BundleError as error:
            warnings.warn(
                f"{self._program} cannot be run as a CUDA graph, and is slower without: {error}",
                stacklevel=2,
            )
            return None

    def _open(self, shapes: Shapes, providers: Sequence[Provider], folder: Path | None) -> Any:
        from onnxruntime import InferenceSession, OrtValue

        if folder is not None:
            providers = keep_engines(providers, folder)
        graph, data = self._bundle.program_files(self._program, "onnx")
        settings = self._settings(shapes)
        model: str | bytes = str(graph)
        if self._plan.in_fp16:
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
                "If it misses a library, docs/gpu.md shows how to install it; else run `ldm-engine "
                "verify` on the bundle, and if it is whole, export it again."
            ) from error
        if providers[0][0] not in session.get_providers():  # and this it does all the same
            raise RuntimeUnavailableError(
                f"ONNX Runtime cannot use its {providers[0][0]}: a library that it needs is "
                "missing or of another version; docs/gpu.md lists those it needs."
            )
        return session

    def _settings(self, shapes: Shapes) -> Any:
        from onnxruntime import SessionOptions

        settings = SessionOptions()
        settings.log_severity_level = FATAL_ONLY
        for tensor in self._info.inputs:
            for axis, (accepted, size) in enumerate(
                zip(tensor.shape, shapes[tensor.name], strict=True)
            ):
                if accepted == -1:
                    name = dimension_name(tensor.name, axis)
                    settings.add_free_dimension_override_by_name(name, size)
        return settings


class ONNXRuntimeGPUProgram(Program):
    """Arrays on the host of sessions on a device; see ``Program`` for how long its outputs live.

    All such programs take turns, and clones share sessions with their buffers.
    """

    def __init__(self, name: str, bundle: Bundle, sessions: Sessions) -> None:
        super().__init__(name, bundle)
        self._sessions: Any = sessions
        self._bound: Any = None  # the BoundSession in use
        self._mark = object()

    def _bind(self) -> None:
        shapes = {n: a.shape for n, a in (self.inputs | self.outputs).items()}
        self._mark = object()  # the buffers hold what earlier arrays sent
        with _TURN:
            self._bound = None  # frees what it holds before the next is made
            self._bound = self._sessions.get(shapes)

    def _run(self, unchanged: Collection[str]) -> None:
        try:
            with _TURN:
                self._compute(unchanged)
        except Exception as error:
            raise self._failure("ONNX Runtime", reason(error)) from error

    def _compute(self, unchanged: Collection[str]) -> None:
        bound = self._bound
        there = unchanged if bound.sender is self._mark else ()
        bound.sender = None  # until all are sent
        for name, array in self.inputs.items():
            if name not in there:
                bound.buffers[name].update_inplace(array)
        bound.sender = self._mark
        bound.session.run_with_iobinding(bound.binding)
        # Fetching makes an array. Outputs in host memory, which ONNX Runtime would fill by itself,
        # are not written when a graph is replayed.
        for name, array in self.outputs.items():
            np.copyto(array, bound.buffers[name].numpy())

    def _clone(self) -> ONNXRuntimeGPUProgram:
        """Other arrays over the same sessions."""
        return ONNXRuntimeGPUProgram(self.name, self._bundle, self._sessions)

    def _release(self) -> None:
        with _TURN:  # the last of its clones frees memory on the GPU
            self._bound = self._sessions = None


def reason(error: Exception) -> str:
    """One of ONNX Runtime's errors on one line."""
    return " ".join(str(error).split())[:300]
