"""Paddle Inference: on the CPU with oneDNN, on GPUs through ``gpu/paddle.py``.

On the CPU input arrays are shared with the predictor through DLPack, and its outputs are read
through DLPack views, so that a step makes no array.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np

from ..bundle.bundle import Bundle
from ..machine.allocation import keep_freed_memory
from ..machine.device import Device
from .base import Array, RuntimeOptions, program_precision
from .gpu.paddle import PaddleGPUProgram, open_on_gpu
from .paddle_predictor import (
    PaddleLibrary,
    PredictorProgram,
    dynamic_mode,
    import_inference,
    open_predictor,
)


class PaddleProgram(PredictorProgram):
    """One predictor on the CPU."""

    def __init__(self, name: str, bundle: Bundle, predictor: Any) -> None:
        super().__init__(name, bundle, predictor)
        self._output_order: list[str] = predictor.get_output_names()
        self._tensors: list[Any] = []

    def _bind(self) -> None:
        from paddle.utils.dlpack import from_dlpack

        self._tensors = []
        with dynamic_mode():
            for name, array in self.inputs.items():
                tensor = from_dlpack(array)  # shares the array's memory
                tensor.name = name  # the predictor feeds by name
                self._tensors.append(tensor)

    def _release(self) -> None:
        super()._release()
        self._tensors = []

    def _compute(self, unchanged: Collection[str]) -> Mapping[str, Array]:
        # Output handles can be given memory too, but then some programs leave it untouched.
        results = self._predictor.run(self._tensors)
        return {
            name: np.from_dlpack(tensor)
            for name, tensor in zip(self._output_order, results, strict=True)
        }


class PaddleRuntime(PaddleLibrary):
    """Opens ``inference.json`` programs."""

    name = "paddle"
    format = "paddle"
    precisions: ClassVar[dict[str, tuple[str, ...]]] = {
        "cpu": ("fp32", "bf16"),
        "gpu": ("fp32", "fp16", "bf16"),
    }

    def rounds_alike(self, device: str) -> bool:
        """No: oneDNN orders its sums by the batch size (2e-6 on a tiny model)."""
        return False

    def open(self, bundle: Bundle, program: str, options: RuntimeOptions) -> PredictorProgram:
        """Load one program; the weights are in memory afterwards."""
        graph, weights = bundle.program_files(program, self.format)
        precision = program_precision(program, options.precision)
        if Device.parse(options.device).kind == "gpu":
            files = (graph, weights)
            return open_on_gpu(PaddleGPUProgram, bundle, program, files, precision, options)
        inference = import_inference(self.install)
        keep_freed_memory()
        config = inference.Config(str(graph), str(weights))
        _configure(config, options)
        if precision == "bf16":
            _use_bf16(config)
        return PaddleProgram(program, bundle, open_predictor(inference, config, graph))


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
