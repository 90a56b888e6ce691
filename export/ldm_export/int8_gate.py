"""The gate that an int8 UNet must pass before a bundle with it is written.

It is drawn with, beside the fp32 UNet, on prompts that it was not calibrated with. Two things are
measured: how far its noise predictions lie from the fp32 ones on the same inputs, which also
means something where weights are random, and how far its images lie from the fp32 images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldm_engine.bundle.bundle import Bundle
from ldm_engine.checks.tolerances import relative_error
from ldm_engine.errors import LDMEngineError, VerificationError
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.choice import Choice
from ldm_engine.sampling.opening import prepare
from ldm_engine.sampling.pipeline import LDMTextToImagePipeline

from .calibration import Sample

#: The median over held-out samples of the relative L2 error of ``noise_pred``. Seen: 0.006 on the
#: trained shapes model and 0.02 on random weights of full size; calibrated with noise, 0.05 and
#: 0.4; with the first and last convolution and the shortcuts in int8 as well, 0.03 on shapes.
MAX_NOISE_PRED_ERROR = 0.05
#: Of the images of the held-out prompts, in dB; 10 steps, so that small differences do not yet
#: grow into another image that is as good. Seen on shapes (median, lowest of 40): 52 and 43, with
#: every picture still right at 50 steps; calibrated with prompts that it was not trained on, 38
#: and 11, and 7 % of pictures wrong; everything in int8, 36 and 17, and 10 % wrong; calibrated
#: with noise, 27 and 11, and half of them wrong. On random weights of full size, calibrated with
#: three prompts only, 31.5, and 24 when calibrated with noise.
MIN_PSNR = 30.0
MIN_WORST_PSNR = 25.0
GATE_STEPS = 10
BATCH = 4  # images drawn at once: full-size activations take their memory
#: Equal 8-bit images have no PSNR; the rounding error of their pixels stands in for the difference.
_MIN_SQUARED_ERROR = 1 / (12 * 255**2)


@dataclass(frozen=True)
class Int8Report:
    """What the gate measured, over the held-out prompts."""

    noise_pred_error: float  #: median
    worst_noise_pred_error: float
    psnr: float  #: median, dB
    worst_psnr: float


def compare_int8(
    bundle: Bundle,
    choice: Choice,
    fp32: RuntimeOptions,
    int8: RuntimeOptions,
    samples: Sequence[Sample],
    prompts: Sequence[str],
    *,
    num_inference_steps: int = GATE_STEPS,
    guidance_scales: Sequence[float] = (2.0,),
    seed: int = 0,
) -> Int8Report:
    """Compare the int8 UNet of `bundle` with its fp32 one.

    Args:
        bundle: to run; it holds both.
        choice: the runtime to run it with.
        fp32: the options that the int8 UNet is measured against, fp32.
        int8: the same with the precision int8.
        samples: from ``gather_samples`` on held-out prompts.
        prompts: held-out prompts to draw.
        num_inference_steps: of those images.
        guidance_scales: of those images; each prompt is drawn with each.
        seed: of the first image; the next ones' follow.

    Raises:
        VerificationError: if the int8 UNet is too far off.
    """
    try:
        errors = _noise_pred_errors(bundle, choice, fp32, int8, samples)
        images = []
        for options in (fp32, int8):
            # Sequential, so that the gate needs no more memory than the UNet alone does.
            opened = prepare(bundle, choice, options)
            with LDMTextToImagePipeline.from_opened(opened, memory="sequential") as pipe:
                images.append(_draw(pipe, prompts, guidance_scales, num_inference_steps, seed))
    except LDMEngineError as error:
        raise VerificationError(f"The UNet cannot be run in fp32 and int8: {error}") from error
    psnrs = [psnr(given, reference) for reference, given in zip(*images, strict=True)]
    report = Int8Report(
        noise_pred_error=float(np.median(errors)),
        worst_noise_pred_error=max(errors),
        psnr=float(np.median(psnrs)),
        worst_psnr=min(psnrs),
    )
    _require(report)
    return report


def _draw(
    pipe: LDMTextToImagePipeline,
    prompts: Sequence[str],
    guidance_scales: Sequence[float],
    steps: int,
    seed: int,
) -> NDArray[np.float32]:
    """The images [n, H, W, 3] of each prompt with each guidance, a few at a time."""
    jobs = [(p, g, seed + i) for g in guidance_scales for i, p in enumerate(prompts)]
    images = []
    for start in range(0, len(jobs), BATCH):
        texts, scales, seeds = zip(*jobs[start : start + BATCH], strict=True)
        output = pipe(
            list(texts),
            num_inference_steps=steps,
            guidance_scale=list(scales),
            seed=list(seeds),
            output_type="np",
        )
        images.append(np.asarray(output.images))
    return np.concatenate(images)


def psnr(given: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """The peak signal-to-noise ratio in dB of an image with values in [0, 1]; NaN is -infinity."""
    error = float(np.mean(np.square(given.astype(np.float64) - reference)))
    return -10 * float(np.log10(max(error, _MIN_SQUARED_ERROR))) if error == error else -np.inf


def _noise_pred_errors(
    bundle: Bundle,
    choice: Choice,
    fp32: RuntimeOptions,
    int8: RuntimeOptions,
    samples: Sequence[Sample],
) -> list[float]:
    """The relative error of each sample; one of the two UNets is in memory at a time."""
    predictions: list[list[NDArray[np.float32]]] = []
    for options in (fp32, int8):
        rows: list[NDArray[np.float32]] = []
        with choice.runtime.open(bundle, "unet", options) as unet:
            for sample in samples:
                inputs = sample.inputs()
                shapes = {name: array.shape for name, array in inputs.items()}
                unet.allocate({**shapes, "noise_pred": (2, *sample.latents.shape[1:])})
                for name, array in inputs.items():
                    np.copyto(unet.inputs[name], array)
                unet.run()
                rows.append(unet.outputs["noise_pred"].copy())
        predictions.append(rows)
    return [relative_error(g, r) for r, g in zip(*predictions, strict=True)]


def _require(report: Int8Report) -> None:
    failures = []
    if not report.noise_pred_error <= MAX_NOISE_PRED_ERROR:
        failures.append(
            f"  - its noise predictions have a median relative error of "
            f"{report.noise_pred_error:.3g}; {MAX_NOISE_PRED_ERROR} is accepted"
        )
    if not report.psnr >= MIN_PSNR:
        failures.append(
            f"  - its images have a median PSNR of {report.psnr:.1f} dB to those of fp32; "
            f"{MIN_PSNR:g} dB is accepted"
        )
    if not report.worst_psnr >= MIN_WORST_PSNR:
        failures.append(
            f"  - its worst image has a PSNR of {report.worst_psnr:.1f} dB to that of fp32; "
            f"{MIN_WORST_PSNR:g} dB is accepted"
        )
    if failures:
        raise VerificationError(
            "The int8 UNet is too far from the fp32 one, on prompts that it was not calibrated "
            "with:\n" + "\n".join(failures) + "\nIts images would be worse. Calibrate it with "
            "prompts of the kind that the model was trained on, or export without int8."
        )
