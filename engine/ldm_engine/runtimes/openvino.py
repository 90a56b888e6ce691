"""OpenVINO on CPU: weights mapped from the bundle, one compiled model for each set of shapes.

Inputs and outputs are shared with the library, so that a step copies nothing. The twin in C++,
``cpp/src/runtimes/openvino.cpp``, has the same settings and the same cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..bundle.bundle import Bundle
from ..bundle.formats import INT8_FORMAT
from ..errors import BundleError, LDMEngineError, RuntimeUnavailableError, last_lines
from ..machine import forks
from ..machine.cache import cache_folder, drop_unsealed, seal_files
from ..machine.cpu import supports_bf16
from ..machine.device import Device
from .base import Program, Runtime, RuntimeOptions, program_precision, weight_bytes
from .by_shape import ByShape, Shapes, describe

_BLOBS = "*.blob"  # OpenVINO's names for compiled models in its cache
_FUSED = "-fused"  # not to take what was compiled with every attention unfused: its key is the same
#: Operations of an attention whose first input, queries [B, H, T, D] or scores [B, H, T, S], tells
#: its heads and queries.
_ATTENTIONS = ("ScaledDotProductAttention", "Softmax")


_FORKED = (
    "it was used before this process was forked, and its threads do not exist here; open the first "
    'bundle after the fork, or start processes with multiprocessing\'s "spawn"'
)
_cores: dict[int, Any] = {}  # by the number of the process that made it


def shared_core() -> Any:
    """The one ``openvino.Core`` of this process, which is never freed.

    Its CPU plugin gives the thread that first compiles an alternate stack for signals, and unmaps
    that stack when the core goes: the next signal then ends the process with SIGSEGV.
    """
    from openvino import Core

    if forks.number() not in _cores:
        core = Core()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(core))  # also not when the interpreter ends
        _cores[forks.number()] = core
    return _cores[forks.number()]


def _was_used_before_fork() -> bool:
    """Whether a compilation would wait for the threads of a process that this was forked from."""
    return bool(_cores.keys() - {forks.number()})


class OpenVINOProgram(Program):
    """One inference request; see ``Program`` for how long its outputs live.

    Clones share their compiled models, which run one request at a time.
    """

    def __init__(self, name: str, bundle: Bundle, models: _CompiledModels) -> None:
        super().__init__(name, bundle)
        self._models: Any = models
        self._request: Any = None

    def _bind(self) -> None:
        from openvino import Tensor

        self._request = None  # frees what it holds before the next is made
        compiled = self._models.get({n: a.shape for n, a in self.inputs.items()})
        for name, array in self.outputs.items():
            shape = tuple(compiled.output(name).shape)
            if shape != array.shape:
                raise BundleError(
                    f"`{name}` of program {self.name} has shape {shape}; the inputs lead to "
                    f"{array.shape}. The bundle does not fit its manifest: export it again."
                )
        self._request = compiled.create_infer_request()
        for name, array in (self.inputs | self.outputs).items():
            self._request.set_tensor(name, Tensor(array, shared_memory=True))

    def _run(self, unchanged: Collection[str]) -> None:
        try:
            self._request.infer()
        except RuntimeError as error:
            raise LDMEngineError(
                f"OpenVINO could not run the program {self.name}: {last_lines(error)} "
                "Check the bundle with `ldm-engine verify`."
            ) from error

    def _clone(self) -> OpenVINOProgram:
        """Another request over the same compiled models."""
        return OpenVINOProgram(self.name, self._bundle, self._models)

    def _release(self) -> None:
        self._request = self._models = None


class _CompiledModels(ByShape[Any]):
    """One program compiled for the shapes in use; shared by a program and its clones."""

    def __init__(
        self, find_files: Callable[[], tuple[Path, ...]], size: int, config: Mapping[str, Any]
    ) -> None:
        """`find_files` gives graph and weights, or raises; `size` is of the weights, in bytes."""
        super().__init__(size)
        self._core = shared_core()
        self._find_files = find_files
        self._config = dict(config)

    def _compile(self, shapes: Shapes) -> Any:
        graph, weights = self._find_files()
        try:
            # Fixed shapes compile to faster code.
            model = self._core.read_model(graph, weights)
            model.reshape({name: list(shape) for name, shape in shapes.items()})
            return self._compile_cached(model, _unfused(model, self._config))
        except RuntimeError as error:
            raise LDMEngineError(
                f"OpenVINO cannot compile {graph} for {describe(shapes)}: {last_lines(error)} "
                "Run `ldm-engine verify` on the bundle; if it is whole, choose a smaller height, "
                "width or batch, or export it again with this version of OpenVINO."
            ) from error

    def _compile_cached(self, model: Any, unfused: Mapping[str, str]) -> Any:
        folder = self._config.get("CACHE_DIR")
        if folder is None:
            return self._core.compile_model(model, "CPU", {**self._config, **unfused})
        drop_unsealed(Path(folder), _BLOBS)  # OpenVINO would run a damaged one
        try:
            compiled = self._core.compile_model(model, "CPU", {**self._config, **unfused})
            seal_files(Path(folder), _BLOBS)
            return compiled
        except RuntimeError:
            # The cache may be the reason: without it once more.
            for key in ("CACHE_DIR", "CACHE_MODE", "WEIGHTS_PATH"):
                del self._config[key]
            return self._core.compile_model(model, "CPU", {**self._config, **unfused})


def _unfused(model: Any, config: Mapping[str, Any]) -> dict[str, str]:
    """What keeps attentions of a `model` with fixed shapes from being fused that would go wrong so.

    In bf16 OpenVINO 2026.4.1 puts the outputs [B, H, T, D] of a fused attention into the memory of
    its queries [B, T, H, D] where the shapes are equal, that is where it has as many queries as
    heads: tests/engine/runtimes/test_openvino_attention.py has the fault by itself.
    """
    if config["INFERENCE_PRECISION_HINT"] != "bf16":
        return {}
    attentions = (op for op in model.get_ops() if op.get_type_name() in _ATTENTIONS)
    queries = [op.input(0).get_shape() for op in attentions]  # [B, H, T, D], or scores
    is_wrong = any(len(shape) == 4 and shape[1] == shape[2] for shape in queries)
    return {"SNIPPETS_MODE": "DISABLE"} if is_wrong else {}


class OpenVINORuntime(Runtime):
    """Opens ``openvino_model.xml`` programs."""

    name = "openvino"
    format = "openvino"
    distributions = ("openvino",)
    install = "pip install 'ldm-engine[openvino]'"
    precisions: ClassVar[dict[str, tuple[str, ...]]] = {"cpu": ("fp32", "bf16", "int8")}

    def format_of(self, program: str, precision: str) -> str:
        """The UNet has a graph of its own for int8."""
        return INT8_FORMAT if program_precision(program, precision) == "int8" else self.format

    def missing(self, precision: str, device: Device) -> list[str]:
        """Also that it cannot be used in a process forked from one that used it."""
        return [
            *super().missing(precision, device),
            *([_FORKED] if _was_used_before_fork() else []),
        ]

    def open(self, bundle: Bundle, program: str, options: RuntimeOptions) -> OpenVINOProgram:
        """Prepare one program; its weights are mapped when it is first given shapes."""
        if _was_used_before_fork():
            raise RuntimeUnavailableError(f"OpenVINO cannot be used: {_FORKED}.")
        try:
            import openvino  # noqa: F401
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"OpenVINO cannot be imported: {error}. Install it with: {self.install}"
            ) from error
        format_name = self.format_of(program, options.precision)
        config = _config(program, options)
        if options.cache:
            precision = program_precision(program, options.precision)
            config |= self._cache_config(bundle, program, format_name, precision)
        size = weight_bytes(bundle, self, program, options.precision)
        models = _CompiledModels(lambda: bundle.program_files(program, format_name), size, config)
        return OpenVINOProgram(program, bundle, models)

    def _cache_config(
        self, bundle: Bundle, program: str, format_name: str, precision: str
    ) -> dict[str, Any]:
        """Where compiled models are kept: for this version, exactly these files, one precision.

        OpenVINO itself opens in bf16 what it wrote in fp32, which gives other results.
        """
        names = bundle.programs[program].formats[format_name].files
        if not bundle.files.keys() >= set(names):  # an export that is still checking
            return {}
        digest = bundle.files_digest(names)[:16]
        fused = _FUSED if _computes_in_bf16(precision) else ""
        folder = cache_folder("openvino", f"{self.version()}-{digest}-{precision}{fused}")
        if folder is None:
            return {}
        # The cache then holds the optimised graph with the folded part of the weights (up to 100 MB
        # at full size), and maps the bundle's file for the rest.
        weights = bundle.program_files(program, format_name)[1]
        return {
            "CACHE_DIR": str(folder),
            "CACHE_MODE": "OPTIMIZE_SIZE",
            "WEIGHTS_PATH": str(weights),
        }


def _config(program: str, options: RuntimeOptions) -> dict[str, Any]:
    in_bf16 = _computes_in_bf16(program_precision(program, options.precision))
    return {
        # By default OpenVINO uses bf16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if in_bf16 else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": options.threads,
    }


def _computes_in_bf16(precision: str) -> bool:
    """Whether that is used, for all or for what is not quantized."""
    return precision == "bf16" or (precision == "int8" and supports_bf16())
