"""The UNet's OpenVINO IR in int8: weights and activations quantized after training with NNCF.

What stays in bf16 or fp32, as the runtime computes it: the first and the last convolution; the
residual blocks' shortcuts, whose unnormalised sums have the largest ranges; and everything that is
no matrix product.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from ldm_engine.errors import RuntimeUnavailableError
from ldm_engine.runtimes.openvino import shared_core

from ..calibration import Sample
from .openvino import finish_ir

INSTALL = "pip install 'ldm-engine[int8]'"

#: How much of an activation's spread SmoothQuant moves into the weights, 0 to 1. NNCF leaves
#: convolutions alone by default; here their inputs (GroupNorm, SiLU, a sum with the residual
#: stream) have channels of very different size.
SMOOTH_CONVOLUTIONS = 0.5
SMOOTH_MATMULS = 0.95  # NNCF's own


def quantize_unet(source: Path, samples: Sequence[Sample], target: Path) -> None:
    """Write the int8 form of the UNet's IR `source` to `target`, and its weights beside it.

    Its tensors, with their dynamic sizes, stay what they are. The same inputs give the same bytes.

    Args:
        source: the .xml in fp32 (or with fp16 weights).
        samples: the UNet's inputs to measure activations with; all are used.
        target: the .xml to write; its folder exists.

    Raises:
        RuntimeUnavailableError: if NNCF or OpenVINO is not installed.
        OutputError: if the files were not written whole.
    """
    with _quiet_nncf() as nncf:
        import openvino
        from nncf.quantization import advanced_parameters as advanced
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet as ranges  # noqa: N813

        model = shared_core().read_model(source)
        quantized = nncf.quantize(
            model,
            nncf.Dataset(samples, lambda sample: sample.inputs()),
            subset_size=len(samples),
            target_device=nncf.TargetDevice.CPU,
            # Activations asymmetric where they are so: SiLU and GELU have short negative tails.
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            fast_bias_correction=True,
            ignored_scope=nncf.IgnoredScope(names=unquantized_operators(model)),
            advanced_parameters=advanced.AdvancedQuantizationParameters(
                # Half-range weights are for CPUs without VNNI, and for the first layer, which is
                # not quantized here.
                overflow_fix=advanced.OverflowFix.DISABLE,
                # The whole range seen in all samples. NNCF's own mean over samples of their ends
                # cuts off what only some prompts and timesteps reach: 10 dB worse.
                activations_range_estimator_params=ranges.MINMAX,
                smooth_quant_alphas=advanced.AdvancedSmoothQuantParameters(
                    convolution=SMOOTH_CONVOLUTIONS, matmul=SMOOTH_MATMULS
                ),
            ),
        )
        make_symmetric(quantized)
        openvino.save_model(quantized, target, compress_to_fp16=False)
    finish_ir(target, target.with_suffix(".bin"))


def unquantized_operators(model: Any) -> list[str]:
    """The names of the operators of an ``openvino.Model`` that are not to be quantized.

    Found by their place in the graph and their form: names are numbered anew with every change of
    the graph.
    """
    convolutions = [o for o in model.get_ordered_ops() if o.get_type_name() == "Convolution"]
    ends = [o for o in convolutions if _reads_latents(o)] + convolutions[-1:]
    return [o.get_friendly_name() for o in (*ends, *filter(_is_shortcut, convolutions))]


def _reads_latents(convolution: Any) -> bool:
    source = convolution.input_value(0).get_node()
    name: str = source.get_friendly_name()
    return source.get_type_name() == "Parameter" and name == "latents"


def _is_shortcut(convolution: Any) -> bool:
    """Whether it is a residual block's 1x1 convolution, which changes the number of channels."""
    outputs, inputs, *kernel = map(int, convolution.input(1).get_partial_shape().to_shape())
    return kernel == [1, 1] and outputs != inputs


def make_symmetric(model: Any) -> None:
    """Have quantized inputs of transposed convolutions reach as far below 0 as above it.

    With asymmetric ranges OpenVINO computes them in bf16 or fp32. `model` is an ``openvino.Model``.
    """
    from openvino import opset13 as operators

    for convolution in model.get_ordered_ops():
        if convolution.get_type_name() != "ConvolutionBackpropData":
            continue
        quantizer = convolution.input_value(0).get_node()
        if quantizer.get_type_name() != "FakeQuantize":
            continue
        low, high = (quantizer.input_value(i).get_node().data for i in (1, 2))
        most = max(abs(low).max(), abs(high).max())
        ends = [operators.constant(np.full_like(high, end)) for end in (-most * 128 / 127, most)]
        levels = quantizer.get_attributes()["levels"]
        # One of its own: others may read the same.
        own = operators.fake_quantize(quantizer.input_value(0), *ends, *ends, levels)
        convolution.input(0).replace_source_output(own.output(0))


@contextmanager
def _quiet_nncf() -> Iterator[Any]:
    """The module nncf, which for the time being neither prints nor reports its use over the net."""
    # It asks for this variable when it is imported; without it, importing prepares to send usage
    # data to Google Analytics.
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        import nncf
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"NNCF, which int8 needs, cannot be imported: {error}. Install it with: {INSTALL}"
        ) from error
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
    import logging

    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):  # its progress bars
            yield nncf
    finally:
        logger.setLevel(level)
