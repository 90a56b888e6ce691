"""ONNX Runtime: on the CPU inputs and outputs are bound by address, on GPUs in device memory."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection
from typing import Any, ClassVar

from ..bundle.bundle import Bundle
from ..errors import BundleError, RuntimeUnavailableError
from ..machine.allocation import return_freed_memory
from ..machine.cpu import available_threads
from ..machine.device import Device
from ..machine.gpu import find_gpu
from .base import Program, Runtime, RuntimeOptions, installed_version, weight_bytes
from .gpu.onnx_half import MISSING
from .gpu.onnxruntime import (
    CPU,
    FATAL_ONLY,
    TENSORRT,
    ONNXRuntimeGPUProgram,
    Plan,
    Sessions,
    cuda_plan,
    reach_gpu,
    reason,
    tensorrt_plan,
)
from .gpu.tensorrt import import_tensorrt, missing_tensorrt

_REPAIR = (
    "onnxruntime-gpu is installed, and its files are not: onnxruntime, which has files of the same "
    "names, was installed over it or uninstalled after it. Put them back with `pip uninstall "
    "onnxruntime`, then `pip install --force-reinstall --no-deps onnxruntime-gpu`."
)


class ONNXRuntimeProgram(Program):
    """One binding on the CPU; see ``Program`` for how long its outputs live."""

    def __init__(self, name: str, bundle: Bundle, session: Any) -> None:
        super().__init__(name, bundle)
        self._session = session
        self._binding: Any = None

    def _bind(self) -> None:
        self._binding = self._session.io_binding()
        for arrays, bind in (
            (self.inputs, self._binding.bind_input),
            (self.outputs, self._binding.bind_output),
        ):
            for name, array in arrays.items():
                bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def _run(self, unchanged: Collection[str]) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise self._failure("ONNX Runtime", reason(error)) from error

    def _clone(self) -> ONNXRuntimeProgram:
        """Another binding over the same session."""
        return ONNXRuntimeProgram(self.name, self._bundle, self._session)

    def _release(self) -> None:
        self._binding = self._session = None


class _ONNXRuntimeLibrary(Runtime):
    """The common part of the runtimes that use ONNX Runtime."""

    format = "onnx"
    distributions = ("onnxruntime", "onnxruntime-gpu")
    install = "pip install 'ldm-engine[onnxruntime]'"
    gpu_distribution = "onnxruntime-gpu"
    gpu_oldest = "1.23"
    gpu_install = (
        "install it with `pip uninstall onnxruntime`, whose files it shares, then `pip install "
        "'ldm-engine[onnxruntime-gpu]'`"
    )

    def _import(self, provider: str) -> Any:
        """The library, with what `provider` needs loaded.

        Raises:
            RuntimeUnavailableError: if it cannot be imported, or is without that provider.
        """
        remedy = f"Install it with: {self.install}"
        if provider != CPU:
            remedy = f"{self.gpu_distribution} is needed; {self.gpu_install}."
            if installed_version(self.gpu_distribution):
                remedy = _REPAIR
        # Its telemetry writes an identifier into the home folder, sends over the network, and has a
        # thread for which a forked child waits without end when it exits.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            import onnxruntime

            found, version = onnxruntime.get_available_providers(), onnxruntime.__version__
        except (ImportError, AttributeError) as error:
            raise RuntimeUnavailableError(
                f"ONNX Runtime cannot be imported: {error}. {remedy}"
            ) from error
        if provider not in found:
            raise RuntimeUnavailableError(
                f"The installed ONNX Runtime {version} has no {provider}: {remedy}"
            )
        return onnxruntime

    def _open_on_gpu(
        self, bundle: Bundle, program: str, options: RuntimeOptions, plan: Plan
    ) -> ONNXRuntimeGPUProgram:
        reach_gpu(self._import(plan.providers[0][0]), plan.device)
        size = weight_bytes(bundle, self, program, options.precision)
        return ONNXRuntimeGPUProgram(program, bundle, Sessions(bundle, program, plan, size))


class ONNXRuntimeRuntime(_ONNXRuntimeLibrary):
    """Opens ``model.onnx`` programs."""

    name = "onnxruntime"
    precisions: ClassVar[dict[str, tuple[str, ...]]] = {"cpu": ("fp32",), "gpu": ("fp32", "fp16")}
    _not_applied: tuple[str, ...] = ()  #: of the library's optimisations

    def _missing_for_gpu(self, precision: str, device: Device) -> list[str]:
        lacks = super()._missing_for_gpu(precision, device)
        without = precision == "fp16" and importlib.util.find_spec("onnx") is None
        return [*lacks, MISSING] if without else lacks

    def open(self, bundle: Bundle, program: str, options: RuntimeOptions) -> Program:
        """Load one program; on the CPU the weights are in memory afterwards."""
        device = Device.parse(options.device)
        if device.kind == "gpu":
            kind = self.computes_in(bundle, program, options.precision)
            plan = cuda_plan(program, device.index, kind)
            return self._open_on_gpu(bundle, program, options, plan)
        onnxruntime = self._import(CPU)
        graph = bundle.program_files(program, self.format)[0]
        settings = self._settings(onnxruntime, options)
        try:
            session = onnxruntime.InferenceSession(
                str(graph), settings, providers=[CPU], disabled_optimizers=self._not_applied
            )
        except Exception as error:
            raise BundleError(
                f"ONNX Runtime {self.version()} cannot load {graph}: {reason(error)} "
                "Run `ldm-engine verify` on the bundle; if it is whole, export it again."
            ) from error
        return ONNXRuntimeProgram(program, bundle, session)

    def _settings(self, onnxruntime: Any, options: RuntimeOptions) -> Any:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        if options.threads > available_threads():  # threads that spin would starve the others
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.inter_op_num_threads = 1
        settings.log_severity_level = FATAL_ONLY
        return settings


class ONNXRuntimeMappedRuntime(ONNXRuntimeRuntime):
    """Opens ``model.onnx`` programs without reading them: weights are used where they are mapped.

    Nothing is packed for faster steps, and no memory is kept between them.
    """

    name = "onnxruntime-mapped"
    precisions: ClassVar[dict[str, tuple[str, ...]]] = {"cpu": ("fp32",)}
    _not_applied = ("ConstantFolding",)  # it would widen all weights that are stored in fp16

    def rounds_alike(self, device: str) -> bool:
        """No: without packed weights sums are ordered by the batch size (1e-5 on a small model)."""
        return False

    def mismatch(self, bundle: Bundle, precision: str, device: Device) -> str | None:
        """A bundle of before there was this runtime, whose graphs compute much from weights."""
        if not bundle.files or self.name in bundle.parity:  # none: an export still checking
            return None
        return "the bundle was exported before this could be done with it; export it again"

    def _settings(self, onnxruntime: Any, options: RuntimeOptions) -> Any:
        return_freed_memory()
        settings = super()._settings(onnxruntime, options)
        settings.add_session_config_entry("session.disable_prepacking", "1")
        settings.enable_cpu_mem_arena = False
        # The next level would write weights in layouts of its own.
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        return settings


class ONNXRuntimeTensorRTRuntime(_ONNXRuntimeLibrary):
    """Opens ``model.onnx`` programs with TensorRT engines that are built when they are first used.

    Programs that stay in fp32 under fp16 run with CUDA: TensorRT would round them to TF32.
    """

    name = "onnxruntime-tensorrt"
    fp32_runtime = "onnxruntime"
    precisions: ClassVar[dict[str, tuple[str, ...]]] = {"gpu": ("fp16",)}

    def _missing_for_gpu(self, precision: str, device: Device) -> list[str]:
        return [*super()._missing_for_gpu(precision, device), *missing_tensorrt()]

    def open(self, bundle: Bundle, program: str, options: RuntimeOptions) -> Program:
        """Prepare one program; its engine is built, or read, when it first gets shapes."""
        index = Device.parse(options.device).index
        if self.computes_in(bundle, program, options.precision) == "fp32":
            plan = cuda_plan(program, index, "fp32")
        else:
            self._import(TENSORRT)
            import_tensorrt()
            cache = self._cache(bundle, program, index) if options.cache else None
            plan = tensorrt_plan(program, index, cache)
        return self._open_on_gpu(bundle, program, options, plan)

    def _cache(self, bundle: Bundle, program: str, index: int) -> str | None:
        """The name of the folder of engines for this version, exactly these files and one GPU."""
        names = bundle.programs[program].formats[self.format].files
        if not bundle.files.keys() >= set(names):  # an export that is still checking
            return None
        gpu = find_gpu(index).name.replace(" ", "-").replace("/", "-")
        digest = bundle.files_digest(names)[:16]
        return f"{installed_version(self.gpu_distribution)}-{digest}-{gpu}"
