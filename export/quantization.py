"""Adding the int8 UNet to a bundle in the making: calibrate, quantize, and pass the gate."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ldm_engine.bundle import INT8_FORMAT, Bundle, FormatInfo, Parity, program_file_names
from ldm_engine.cpu import available_threads
from ldm_engine.errors import InvalidArgumentError, RuntimeUnavailableError
from ldm_engine.runtimes import Choice, RuntimeOptions, choose_runtime

from .calibration import (
    DEFAULT_PROMPTS,
    PROMPTS_FILE,
    Sample,
    gather_samples,
    read_calibration_prompts,
    split_prompts,
)
from .formats.openvino_int8 import INSTALL, quantize_unet
from .int8_gate import MAX_NOISE_PRED_ERROR, check_int8
from .progress import Progress

# Four of 20 steps of 18 prompts are 72 samples. What of a prompt's range they miss, others hold.
STEPS = 20
SAMPLES_PER_PROMPT = 4
HELD_OUT_SAMPLES_PER_PROMPT = 2
GUIDANCE_SCALE = 4.0  # between what the published model (6) and the shapes model (2) are used with

#: The gate's error, under this name in the parity report.
HELD_OUT = "unet_held_out"


def choose_prompts(checkpoint: Path, given: Path | None) -> tuple[str, ...]:
    """The prompts of the file `given`, else of the checkpoint's folder, else the default ones.

    Raises:
        InvalidArgumentError: if the file cannot be read or does not hold prompts.
    """
    own = checkpoint / PROMPTS_FILE
    if given is None and not own.is_file():
        return DEFAULT_PROMPTS
    return read_calibration_prompts(own if given is None else given)


def check_int8_possible(formats: Sequence[str]) -> None:
    """Refuse an int8 export that could not be made, before any work.

    Raises:
        InvalidArgumentError: if the format openvino is not among `formats`.
        RuntimeUnavailableError: if NNCF is not installed.
    """
    if "openvino" not in formats:
        raise InvalidArgumentError(
            f"int8 was asked for with the formats {', '.join(formats)}; it is a form of openvino. "
            "Add openvino to --formats, or leave --int8 out."
        )
    if importlib.util.find_spec("nncf") is None:
        raise RuntimeUnavailableError(
            f"int8 needs NNCF, which is not installed. Install it with: {INSTALL}"
        )


def add_int8(
    draft: Bundle, prompts: Sequence[str], progress: Progress
) -> tuple[Bundle, Mapping[str, Parity]]:
    """Write the int8 UNet into `draft`, and return the bundle with it and what the gate measured.

    Raises:
        VerificationError: if the int8 UNet is too far from the fp32 one.
    """
    choice = choose_runtime(draft, "openvino")
    options = RuntimeOptions(threads=available_threads())
    calibration, held_out = split_prompts(prompts)

    def gather(chosen: Sequence[str], count: int) -> list[Sample]:
        return gather_samples(
            draft,
            choice,
            options,
            chosen,
            samples_per_prompt=count,
            guidance_scale=GUIDANCE_SCALE,
            num_inference_steps=STEPS,
            on_prompt=lambda done: progress(f"calibrating: {done} of {len(chosen)} prompts"),
        )

    progress("calibrating")
    samples = gather(calibration, SAMPLES_PER_PROMPT)
    progress(f"quantizing the UNet with {len(samples)} samples")
    names = program_file_names("unet", INT8_FORMAT)
    quantize_unet(draft.program_files("unet", "openvino")[0], samples, draft.path / names[0])
    del samples
    bundle = _with_int8(draft, names)
    progress("calibrating: held-out prompts")
    unseen = gather(held_out, HELD_OUT_SAMPLES_PER_PROMPT)
    return bundle, _pass_gate(bundle, choice, options, unseen, held_out, progress)


def _with_int8(draft: Bundle, names: tuple[str, ...]) -> Bundle:
    unet = draft.programs["unet"]
    formats = {**unet.formats, INT8_FORMAT: FormatInfo(names, "int8")}
    return replace(draft, programs={**draft.programs, "unet": replace(unet, formats=formats)})


def _pass_gate(
    bundle: Bundle,
    choice: Choice,
    options: RuntimeOptions,
    samples: Sequence[Sample],
    prompts: Sequence[str],
    progress: Progress,
) -> Mapping[str, Parity]:
    progress("comparing int8 with fp32")
    report = check_int8(
        bundle,
        choice,
        options,
        replace(options, precision="int8"),
        samples,
        prompts,
        guidance_scale=GUIDANCE_SCALE,
    )
    return {HELD_OUT: Parity(report.noise_pred_error, MAX_NOISE_PRED_ERROR)}
