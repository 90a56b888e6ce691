"""Paddle Inference on CPU with oneDNN.

Input arrays are shared with the predictor through DLPack, and its outputs are read through DLPack
views, so that a step makes no array.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import warnings
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..errors import BundleError, LDMEngineError, RuntimeUnavailableError, last_lines
from .base import Program, Runtime, RuntimeOptions, program_precision

# glibc's malloc.h has these; there is no header here to read them from.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_MAX_INT = 2**31 - 1


class PaddleProgram(Program):
    """One predictor; see ``Program`` for how long its outputs live."""

    def __init__(self, name: str, bundle: Bundle, predictor: Any) -> None:
        super().__init__(name, bundle)
        self._predictor = predictor
        self._output_order: list[str] = predictor.get_output_names()
        self._tensors: list[Any] = []

    def _bind(self) -> None:
        from paddle.utils.dlpack import from_dlpack

        self._tensors = []
        for name, array in self.inputs.items():
            tensor = from_dlpack(array)  # shares the array's memory
            tensor.name = name  # the predictor feeds by name
            self._tensors.append(tensor)

    def run(self) -> None:
        """Compute ``outputs`` from ``inputs``."""
        # Output handles can be given memory too, but then some programs leave it untouched.
        try:
            results = self._predictor.run(self._tensors)
        except Exception as error:
            shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in self.inputs.items())
            raise LDMEngineError(
                f"Paddle could not run the program {self.name} on {shapes}: {last_lines(error, 2)} "
                "If these are large for this machine, ask for a smaller height, width or batch; "
                "else check the bundle with `ldm-engine verify`."
            ) from error
        for name, tensor in zip(self._output_order, results, strict=True):
            result, array = np.from_dlpack(tensor), self.outputs[name]
            if result.shape != array.shape:
                raise BundleError(
                    f"`{name}` of program {self.name} came out with shape {result.shape}; the "
                    f"inputs lead to {array.shape}. The bundle does not fit its manifest: export "
                    "it again."
                )
            np.copyto(array, result)

    def clone(self) -> PaddleProgram:
        """Another predictor over the same weights; call this in the thread that opened it."""
        return PaddleProgram(self.name, self._bundle, self._predictor.clone())


class PaddleRuntime(Runtime):
    """Opens ``inference.json`` programs."""

    name = "paddle"
    format = "paddle"
    distributions = ("paddlepaddle", "paddlepaddle-gpu")
    install = "pip install 'ldm-engine[paddle]'"
    rounds_alike = False  # oneDNN orders its sums by the batch size: 2e-6 on a tiny model
    devices = ("cpu",)
    precisions = ("fp32", "bf16")

    def open(self, bundle: Bundle, program: str, options: RuntimeOptions) -> PaddleProgram:
        """Load one program; the weights are in memory afterwards."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Paddle warns about ccache and the like on import
            try:
                from paddle.inference import Config, create_predictor
            except ImportError as error:
                raise RuntimeUnavailableError(
                    f"Paddle cannot be imported: {error}. {import_remedy(error, self.install)}"
                ) from error
        restore_termination_handler()
        keep_freed_memory()
        graph, weights = bundle.program_files(program, self.format)
        config = Config(str(graph), str(weights))
        _configure(config, options)
        if program_precision(program, options.precision) == "bf16":
            _use_bf16(config)
        try:
            predictor = create_predictor(config)
        except Exception as error:
            raise LDMEngineError(
                f"Paddle {self.version()} cannot load {graph}: {last_lines(error, 2)} "
                "Run `ldm-engine verify` on the bundle; if it is whole, export it again with this "
                "version of Paddle."
            ) from error
        return PaddleProgram(program, bundle, predictor)


def import_remedy(error: ImportError, install: str) -> str:
    """What to do about an `error` of importing Paddle, or what `install` installs with it."""
    if "libgomp" in str(error):
        return "It needs a library of the system. Install it with: apt-get install libgomp1"
    return f"Install it with: {install}"


def restore_termination_handler() -> None:
    """Give SIGTERM back to the application: Paddle takes it for itself when it is imported."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def keep_freed_memory() -> None:
    """Let this process's malloc reuse large blocks instead of returning them to the system.

    Paddle allocates each large tensor anew in every run. By default glibc maps such a block and
    unmaps it when it is freed, so every page of it is faulted in and cleared again: 140,000 faults
    in each step of the full-size UNet, an eighth of its time. Up to 2 GB are kept at the end of
    the heap, and what lies between blocks in use; an application can return it with glibc's
    ``malloc_trim(0)``. Without glibc this does nothing, and in threads other than the main one
    glibc goes on mapping blocks above 64 MB.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _MAX_INT)


def _use_bf16(config: Any) -> None:
    config.enable_mkldnn_bfloat16()
    # Paddle puts an operator into bf16 only where a neighbour is. With the residual add fused into
    # it, a convolution has none: it reads the float32 skip and feeds a float32 GroupNorm.
    config.delete_pass("conv_elementwise_add_onednn_fuse_pass")


def _configure(config: Any, options: RuntimeOptions) -> None:
    config.disable_gpu()
    config.disable_glog_info()  # or every pass prints
    config.enable_new_ir(True)
    config.enable_new_executor(True)  # enable_memory_optim needs it for .json programs
    config.enable_mkldnn()
    # oneDNN keeps a copy of all weights for each input shape it has seen: keep that of one shape.
    config.set_mkldnn_cache_capacity(1)
    config.set_cpu_math_library_num_threads(options.threads)
    # Silently wrong with oneDNN in 3.2.2 and 3.3.1: it overwrites tensors that other operators
    # still read (cos(a) and sin(a) of one `a` become cos(a) and sin(cos(a))).
    config.delete_pass("inplace_pass")
    config.enable_memory_optim(True)
