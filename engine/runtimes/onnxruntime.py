"""ONNX Runtime on CPU: one session a program, inputs and outputs bound by address."""

from __future__ import annotations

from typing import Any, ClassVar

from ..bundle import Bundle
from ..cpu import available_threads
from ..errors import BundleError, LDMEngineError, RuntimeUnavailableError
from .base import Program, Runtime, RuntimeOptions

_FATAL_ONLY = 4  # of its log severities; what fails is raised as well


class ONNXRuntimeProgram(Program):
    """One binding; see ``Program`` for how long its outputs live."""

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

    def run(self) -> None:
        """Compute ``outputs`` from ``inputs``."""
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in self.inputs.items())
            raise LDMEngineError(
                f"ONNX Runtime could not run the program {self.name} on {shapes}: "
                f"{_reason(error)} If these are large for this machine, ask for a smaller height, "
                "width or batch; else check the bundle with `ldm-engine verify`."
            ) from error

    def clone(self) -> ONNXRuntimeProgram:
        """Another binding over the same session."""
        return ONNXRuntimeProgram(self.name, self._bundle, self._session)


class ONNXRuntimeRuntime(Runtime):
    """Opens ``model.onnx`` programs."""

    name = "onnxruntime"
    format = "onnx"
    distributions = ("onnxruntime",)
    install = "pip install 'ldm-engine[onnxruntime]'"
    devices = ("cpu",)
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)

    def open(self, bundle: Bundle, program: str, options: RuntimeOptions) -> ONNXRuntimeProgram:
        """Load one program; the weights are in memory afterwards."""
        try:
            from onnxruntime import InferenceSession, SessionOptions
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"ONNX Runtime cannot be imported: {error}. Install it with: {self.install}"
            ) from error
        graph = bundle.program_files(program, self.format)[0]
        settings = SessionOptions()
        settings.intra_op_num_threads = options.threads
        if options.threads > available_threads():  # threads that spin would starve the others
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.inter_op_num_threads = 1
        settings.log_severity_level = _FATAL_ONLY
        try:
            session = InferenceSession(str(graph), settings, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BundleError(
                f"ONNX Runtime {self.version()} cannot load {graph}: {_reason(error)} "
                "Run `ldm-engine verify` on the bundle; if it is whole, export it again."
            ) from error
        return ONNXRuntimeProgram(program, bundle, session)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
