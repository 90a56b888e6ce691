"""Paddle's programs on a GPU: weights, and keys and values of the text, stay in its memory.

What a step sends and fetches is small (with the full-size UNet, a batch of one and guidance: 16 kB
of latents and 80 kB of time shift go there, 32 kB of noise prediction come back), so guidance, DDIM
update and noise are the loop's own on the host, as everywhere. Whether an update on the device
would be faster was not measured: this file has not yet run on hardware.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ...bundle.bundle import Bundle
from ...errors import RuntimeUnavailableError
from ...machine.device import Device
from ..base import Array, RuntimeOptions
from ..paddle_predictor import PaddleLibrary, PredictorProgram, import_inference, open_predictor

#: Operators that compute in fp32 in every precision: sums of squares and of exponentials.
FP32_OPERATORS = ("pd_op.group_norm", "pd_op.softmax")
#: The memory pool at first. Paddle's default allocator (``FLAGS_allocator_strategy=auto_growth``)
#: most likely ignores it, and takes what is needed.
_POOL_MB = 256
_PRECISIONS = {"fp32": "Float32", "fp16": "Half", "bf16": "Bfloat16"}  # in ``PrecisionType``


class PaddleGPUProgram(PredictorProgram):
    """One predictor whose inputs and outputs are in the memory of its device."""

    def __init__(self, name: str, bundle: Bundle, predictor: Any) -> None:
        super().__init__(name, bundle, predictor)
        names = predictor.get_input_names(), predictor.get_output_names()
        self._inputs = {name: predictor.get_input_handle(name) for name in names[0]}
        self._outputs = {name: predictor.get_output_handle(name) for name in names[1]}

    def _bind(self) -> None:
        """Nothing to do: a handle takes the shape of each array that is sent."""

    def _release(self) -> None:
        super()._release()
        self._inputs, self._outputs = {}, {}

    def _compute(self, unchanged: Collection[str]) -> Mapping[str, Array]:
        for name, array in self.inputs.items():
            if name not in unchanged:
                self._inputs[name].copy_from_cpu(array)
        self._predictor.run()
        # Paddle cannot fetch into an array that is there; this one is as large as the output.
        return {name: handle.copy_to_cpu() for name, handle in self._outputs.items()}


GPUProgram = TypeVar("GPUProgram", bound=PaddleGPUProgram)


def open_on_gpu(
    kind: type[GPUProgram],
    bundle: Bundle,
    program: str,
    files: tuple[Path, Path],
    precision: str,
    options: RuntimeOptions,
) -> GPUProgram:
    """Load one program's graph and weights, the `files`, into the memory of ``options.device``.

    Raises:
        RuntimeUnavailableError: if the installed Paddle is not one for GPUs.
        LDMEngineError: if it cannot load the program.
    """
    inference = import_inference(PaddleLibrary.install)
    forbid_tf32()
    config = inference.Config(*map(str, files))
    index = Device.parse(options.device).index
    configure_gpu(config, inference.PrecisionType, index, precision)
    return kind(program, bundle, open_predictor(inference, config, files[0]))


def configure_gpu(config: Any, precisions: Any, index: int, precision: str) -> None:
    """Set a predictor's `config` to compute on the GPU `index` in `precision`.

    Args:
        config: a ``paddle.inference.Config``.
        precisions: its ``PrecisionType``.
        index: of the GPU.
        precision: "fp32", "fp16" or "bf16"; inputs and outputs are float32 all the same.
    """
    config.enable_use_gpu(_POOL_MB, index, getattr(precisions, _PRECISIONS[precision]))
    config.disable_glog_info()  # or every pass prints
    config.enable_new_ir(True)
    config.enable_new_executor(True)  # enable_memory_optim needs it for .json programs
    if precision != "fp32":
        config.exp_disable_mixed_precision_ops(set(FP32_OPERATORS))
        config.enable_low_precision_io(False)
    # Wrong on the CPU, where it overwrites tensors that are still to be read.
    config.delete_pass("inplace_pass")
    config.enable_memory_optim(True)


def forbid_tf32() -> None:
    """Have fp32 computed in fp32, in the whole process: Paddle rounds it to 10 bits by default.

    Raises:
        RuntimeUnavailableError: if the installed Paddle is not one for GPUs.
    """
    import paddle
    from paddle.base import core

    if not paddle.is_compiled_with_cuda():
        raise RuntimeUnavailableError(
            f"Paddle {paddle.__version__} was built without CUDA; {PaddleLibrary.gpu_install}."
        )
    core.set_cublas_switch(False)
    core.set_cudnn_switch(False)
