"""Adding the int8 UNet to a bundle in the making: calibrate, quantize, and pass the gate."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ldm_engine.bundle.bundle import Bundle, FormatInfo, Parity
from ldm_engine.bundle.formats import INT8_FORMAT, program_file_names
from ldm_engine.errors import InvalidArgumentError, RuntimeUnavailableError
from ldm_engine.machine.cpu import available_threads
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.choice import Choice, choose_runtime

from .calibration import (
    DEFAULT_PROMPTS,
    PROMPTS_FILE,
    Sample,
    gather_samples,
    read_calibration_prompts,
    split_prompts,
)
from .formats.openvino_int8 import INSTALL, quantize_unet
from .int8_gate import MAX_NOISE_PRED_ERROR, compare_int8
from .progress import Progress

# Four of 20 steps of 18 prompts are 72 samples. What of a prompt's range they miss, others hold.
STEPS = 20
SAMPLES_PER_PROMPT = 4
HELD_OUT_SAMPLES_PER_PROMPT = 2
GUIDANCE_SCALE = 4.0  # between what the published model (6) and the shapes model (2) are used with

#: The gate's error, under this name in the parity report.
HELD_OUT = "unet_held_out"


@dataclass(frozen=True)
class Prompts:
    """The prompts to calibrate with, and the held-out ones that the gate renders."""

    calibration: tuple[str, ...]
    held_out: tuple[str, ...]


def choose_prompts(checkpoint: Path, given: Path | None) -> Prompts:
    """The prompts of the file `given`, else of the checkpoint's folder, else the default ones.

    Where the checkpoint has its own, int8 is always judged on them: a calibration with prompts that
    the model does not know would pass on their like.

    Raises:
        InvalidArgumentError: if a file cannot be read or does not hold prompts.

    Warns:
        UserWarning: if the default prompts are used.
    """
    file = checkpoint / PROMPTS_FILE
    own = split_prompts(read_calibration_prompts(file)) if file.is_file() else None
    if given is not None:
        calibration, held_out = split_prompts(read_calibration_prompts(given))
        return Prompts(calibration, own[1] if own else held_out)
    if own:
        return Prompts(*own)
    warnings.warn(
        "int8 is calibrated with general prompts. If the model was trained on other subjects, give "
        f"prompts of their kind with --calibration-prompts, or as {PROMPTS_FILE} in its folder.",
        stacklevel=2,
    )
    return Prompts(*split_prompts(DEFAULT_PROMPTS))


def find_prompts(checkpoint: Path, given: Path | None) -> tuple[str, ...]:
    """All prompts of the file `given`, else of the checkpoint's folder, else the general ones.

    Raises:
        InvalidArgumentError: if the file `given` cannot be read or does not hold prompts.

    Warns:
        UserWarning: if the checkpoint's file does not; there are none then.
    """
    if given is not None:
        return read_calibration_prompts(given)
    if not (checkpoint / PROMPTS_FILE).is_file():
        return DEFAULT_PROMPTS
    try:
        return read_calibration_prompts(checkpoint / PROMPTS_FILE)
    except InvalidArgumentError as error:
        warnings.warn(f"The bundle goes without prompts to fit solvers to. {error}", stacklevel=2)
        return ()


def check_int8(formats: Sequence[str], int8: bool, given: Path | None) -> None:
    """Refuse an int8 export that could not be made, before any work.

    Raises:
        InvalidArgumentError: if the format openvino is not among `formats`, or the prompts `given`
            cannot be read.
        RuntimeUnavailableError: if NNCF is not installed.
    """
    if given is not None:
        read_calibration_prompts(given)
    if not int8:
        return
    if "openvino" not in formats:
        raise InvalidArgumentError(
            f"int8 was given with the formats {', '.join(formats)}; it is a form of openvino. "
            "Add openvino to --formats, or leave --int8 out."
        )
    if importlib.util.find_spec("nncf") is None:
        raise RuntimeUnavailableError(
            f"int8 needs NNCF, which is not installed. Install it with: {INSTALL}"
        )


def add_int8(draft: Bundle, prompts: Prompts, progress: Progress) -> Bundle:
    """Write the int8 UNet into `draft`, and return the bundle with it and what its gate measured.

    Raises:
        VerificationError: if the int8 UNet is too far from the fp32 one.
    """
    choice = choose_runtime(draft, "openvino")
    options = RuntimeOptions(threads=available_threads())

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
    samples = gather(prompts.calibration, SAMPLES_PER_PROMPT)
    progress(f"quantizing the UNet with {len(samples)} samples")
    names = program_file_names("unet", INT8_FORMAT)
    quantize_unet(draft.program_files("unet", "openvino")[0], samples, draft.path / names[0])
    del samples
    bundle = _with_int8(draft, names)
    progress("calibrating: held-out prompts")
    unseen = gather(prompts.held_out, HELD_OUT_SAMPLES_PER_PROMPT)
    measured = _pass_gate(bundle, choice, options, unseen, prompts.held_out, progress)
    return replace(bundle, parity={choice.runtime.name: {"int8": {HELD_OUT: measured}}})


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
) -> Parity:
    progress("comparing int8 with fp32")
    report = compare_int8(
        bundle,
        choice,
        options,
        replace(options, precision="int8"),
        samples,
        prompts,
        guidance_scales=(GUIDANCE_SCALE, 1.0),  # 1.0 is off, which is Python's default
    )
    return Parity(report.noise_pred_error, MAX_NOISE_PRED_ERROR)
