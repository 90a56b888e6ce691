"""The reference cases: fixed inputs for every program, and how far outputs may lie from them.

An export keeps samples of the dygraph model's outputs for these cases in ``reference.json``, so
that a bundle can be checked on any machine, with any runtime, without its checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import PROGRAMS, REFERENCE, Bundle, ModelInfo, read_json_object
from ..errors import (
    BundleError,
    LDMEngineError,
    RuntimeUnavailableError,
    VerificationError,
)
from ..machine.files import write_atomically
from ..runtimes.base import Program, Runtime, RuntimeOptions
from ..runtimes.choice import Choice
from ..sampling import opening
from ..sampling.pipeline import LDMTextToImagePipeline

Arrays = dict[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]
Measure = Callable[[NDArray[Any], NDArray[Any]], float]  #: of what is given, to its reference

#: Relative L2 error of one program. Seen in fp32: below 2e-5 for oneDNN's reordered sums; the
#: faults that exporters make are larger by orders of magnitude. In int8 the cases, whose inputs are
#: random, only tell that the graph is whole; ldm_export/int8_gate.py judges it on real ones.
PROGRAM_TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 3e-2, "int8": 0.35}
#: The same for the images of the short loop; three guided steps amplify a program's error.
END_TO_END_TOLERANCES = {"fp32": 1e-3, "bf16": 3e-2, "int8": 0.1}
#: In fp16 each of those images is held by its peak signal-to-noise ratio to the original model's,
#: in dB, which is a root mean square error: values are in [0, 1].
MIN_PSNR = {"fp16": 35.0}
#: Least tolerances where weights are stored in fp16, which rounds each by up to 5e-4.
HALVED_TOLERANCE, HALVED_END_TO_END_TOLERANCE = 3e-3, 3e-2
#: Values of each output kept in ``reference.json``, evenly spread over the flattened array.
SAMPLES = 256

#: The short end-to-end loop; eta above 0 so that the noise stream takes part.
END_TO_END: dict[str, Any] = {
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
    "eta": 0.5,
    "seed": 0,
}
END_TO_END_PROMPTS = ("a small red circle on the left", "A painting of a squirrel eating a burger")


@dataclass(frozen=True)
class Case:
    """Seeded inputs of one program at one batch size and one image size."""

    program: str
    label: str
    input_shapes: Shapes
    output_shapes: Shapes
    vocab_size: int

    def inputs(self) -> Arrays:
        """The same arrays on every machine."""
        stream = np.random.RandomState(0)
        arrays: Arrays = {}
        for name, shape in self.input_shapes.items():
            if name == "input_ids":
                arrays[name] = stream.randint(0, self.vocab_size, shape).astype(np.int64)
            elif name == "timesteps":
                arrays[name] = stream.randint(0, 1000, shape).astype(np.float32)
            else:
                arrays[name] = stream.standard_normal(shape).astype(np.float32)
        return arrays


def reference_cases(model: ModelInfo) -> Iterator[Case]:
    """Every program at two batch sizes and, where it has one, two image sizes."""
    tokens, kv, shift = model.token_length, model.text_kv_width, model.time_shift_width

    def case(program: str, label: str, inputs: Shapes, outputs: Shapes) -> Case:
        return Case(program, label, inputs, outputs, model.vocab_size)

    for count in (1, 2):
        text_kv: Shapes = {"text_kv": (count, tokens, kv)}
        yield case("text_encoder", f"{count} texts", {"input_ids": (count, tokens)}, text_kv)
    for count in (1, 50):
        time_shift: Shapes = {"time_shift": (count, shift)}
        yield case("time_encoder", f"{count} timesteps", {"timesteps": (count,)}, time_shift)
    small, step, pixels = model.sample_size, model.size_multiple, model.scale_factor
    for count, rows, h, w in (
        (1, 2, small, small),
        (2, 2, small, small + step),
        (2, 4, small + step, small),
    ):
        latents = (count, model.latent_channels, h, w)
        size = f"batch {count}, {w * pixels}x{h * pixels}"
        label = f"{size}, {'guided' if rows > count else 'unguided'}"
        inputs: Shapes = {
            "latents": latents,
            "time_shift": (1, shift),
            "text_kv": (rows, tokens, kv),
        }
        yield case("unet", label, inputs, {"noise_pred": (rows, *latents[1:])})
    for count, h, w in ((1, small, small), (2, small, small + step)):
        inputs = {"latents": (count, model.latent_channels, h, w)}
        outputs: Shapes = {"image": (count, h * pixels, w * pixels, 3)}
        label = f"batch {count}, {w * pixels}x{h * pixels}"
        yield case("vae_decoder", label, inputs, outputs)


def run_case(program: Program, case: Case) -> Arrays:
    """The outputs of an opened program, copied."""
    program.allocate({**case.input_shapes, **case.output_shapes})
    for name, array in case.inputs().items():
        np.copyto(program.inputs[name], array)
    program.run()
    return {name: array.copy() for name, array in program.outputs.items()}


def relative_error(given: NDArray[Any], reference: NDArray[Any]) -> float:
    """L2 norm of the difference over that of the reference; NaN counts as infinitely far."""
    norm = float(np.linalg.norm(reference.astype(np.float64)))
    error = float(np.linalg.norm(given.astype(np.float64) - reference)) / max(norm, 1e-30)
    return error if np.isfinite(error) else float("inf")


def worst_image_error(given: NDArray[Any], reference: NDArray[Any]) -> float:
    """The root mean square error of the worse of the short loop's images; NaN is infinitely far.

    Both hold the same values of each image, in order: all of them, or those of ``sample``.
    """
    difference = given.astype(np.float64) - reference
    powers = np.square(difference).reshape(len(END_TO_END_PROMPTS), -1).mean(axis=1)
    error = float(powers.max() ** 0.5)
    return error if np.isfinite(error) else float("inf")


def sample(values: NDArray[Any]) -> NDArray[np.float32]:
    """`SAMPLES` values evenly spread over the flattened array."""
    index = np.linspace(0, values.size - 1, min(SAMPLES, values.size)).astype(np.int64)
    return values.reshape(-1)[index].astype(np.float32)


def render_end_to_end(pipe: LDMTextToImagePipeline) -> NDArray[np.float32]:
    """The images of the short loop, [2, H, W, 3] in [0, 1]."""
    return np.asarray(pipe(list(END_TO_END_PROMPTS), output_type="np", **END_TO_END).images)


@dataclass(frozen=True)
class Finding:
    """How far one output of one runtime lies from its reference.

    Errors are relative L2; that of the short loop's images in fp16 is relative to full scale.
    """

    runtime: str
    precision: str
    program: str
    label: str
    error: float
    tolerance: float
    note: str = ""  #: why there is no finite error

    @property
    def passed(self) -> bool:
        """Whether the error is within its tolerance."""
        return self.error <= self.tolerance


#: Program, case label to the reference's outputs by name, whole or sampled.
References = dict[tuple[str, str], Arrays]
END_TO_END_KEY = ("end_to_end", "3 guided steps, 2 images")


def check_runtime(
    bundle: Bundle,
    choice: Choice,
    options: RuntimeOptions,
    references: References,
    prepare: Callable[[NDArray[Any]], NDArray[Any]] = lambda values: values,
    on_check: Callable[[str], None] = lambda label: None,
) -> list[Finding]:
    """Run every case and the short loop with one runtime.

    `prepare` maps an output to what `references` holds of it: itself, or ``sample`` of it.

    Raises:
        RuntimeUnavailableError: if this machine turns out to lack what the runtime needs.
    """
    findings: list[Finding] = []
    options = replace(options, cache=False)  # the bundle is to be judged, not what was made of it
    runtime, precision = choice.runtime, options.precision
    told = runtime.name if precision == "fp32" else f"{runtime.name} {precision}"
    told += "" if options.device == "cpu" else f" on {options.device}"

    def compare(
        key: tuple[str, str], run: Callable[[], Arrays], tolerance: float, measure: Measure
    ) -> None:
        error, note = float("inf"), ""
        try:
            outputs = run()
        except RuntimeUnavailableError:  # the machine's fault, and not the bundle's
            raise
        except LDMEngineError as failure:
            note = str(failure)
        else:
            error = max(measure(prepare(v), references[key][n]) for n, v in outputs.items())
        findings.append(Finding(runtime.name, precision, *key, error, tolerance, note))

    for name in PROGRAMS:
        on_check(f"{told}: {name}")
        tolerance = program_tolerance(bundle, runtime, name, precision)
        try:
            program = runtime.open(bundle, name, options)
        except RuntimeUnavailableError:
            raise
        except LDMEngineError as failure:
            found = Finding(runtime.name, precision, name, "opening", float("inf"), tolerance)
            findings.append(replace(found, note=str(failure)))
            continue
        for case in reference_cases(bundle.model):
            if case.program != name or not runtime.covers(bundle, name, case.input_shapes):
                continue
            run = partial(run_case, program, case)
            compare((name, case.label), run, tolerance, relative_error)
        del program
    on_check(f"{told}: end to end")
    if all(finding.passed for finding in findings):  # else it would only blur which program it is
        # Sequential, so that checking needs no more memory than the largest program does.
        pipe = LDMTextToImagePipeline.from_opened(
            opening.prepare(bundle, choice, options), memory="sequential"
        )
        render = partial(render_end_to_end, pipe)
        tolerance = end_to_end_tolerance(bundle, runtime, precision)
        measure = worst_image_error if precision in MIN_PSNR else relative_error
        compare(END_TO_END_KEY, lambda: {"image": render()}, tolerance, measure)
    return findings


def program_tolerance(bundle: Bundle, runtime: Runtime, program: str, precision: str) -> float:
    """How far one program's outputs may lie from the original model's, relative L2."""
    stored = runtime.stored_weights(bundle, program, precision)
    tolerance = PROGRAM_TOLERANCES[runtime.computes_in(bundle, program, precision)]
    return max(tolerance, HALVED_TOLERANCE) if stored == "fp16" else tolerance


def end_to_end_tolerance(bundle: Bundle, runtime: Runtime, precision: str) -> float:
    """The same for the images of the short loop; in fp16 each one's root mean square error."""
    if precision in MIN_PSNR:
        return float(10 ** (-MIN_PSNR[precision] / 20))
    stored = runtime.stored_weights(bundle, "unet", precision)
    tolerance = END_TO_END_TOLERANCES[precision]
    return max(tolerance, HALVED_END_TO_END_TOLERANCE) if stored == "fp16" else tolerance


def require_passed(findings: list[Finding], what: str) -> None:
    """Raise ``VerificationError`` naming every finding outside its tolerance."""
    failed = [f for f in findings if not f.passed]
    if failed:
        listing = "\n".join(
            f"  - {f.program} in {f.runtime} {f.precision} ({f.label}): "
            f"relative error {f.error:.3g}, "
            f"tolerance {f.tolerance:.0e}" + (f": {f.note}" if f.note else "")
            for f in failed
        )
        raise VerificationError(
            f"{what} does not agree with the model it was exported from:\n{listing}\n"
            "Its images would be wrong. Try another version of the runtime, and report this."
        )


def save_references(bundle: Bundle, references: References) -> None:
    """Write ``reference.json``: samples of every output."""
    content = [
        {"program": p, "case": c, "outputs": {n: sample(v).tolist() for n, v in outputs.items()}}
        for (p, c), outputs in references.items()
    ]
    text = json.dumps({"samples": SAMPLES, "references": content}, indent=1)
    write_atomically(bundle.path / REFERENCE, (text + "\n").encode())


def load_references(bundle: Bundle) -> References:
    """Read ``reference.json``.

    Raises:
        BundleError: if it is missing or does not cover every case.
    """
    raw = read_json_object(bundle.path / REFERENCE)
    try:
        references: References = {
            (entry["program"], entry["case"]): {
                n: np.asarray(v, dtype=np.float32) for n, v in entry["outputs"].items()
            }
            for entry in raw["references"]
        }
        for case in reference_cases(bundle.model):
            for name, shape in case.output_shapes.items():
                _require_samples(references[case.program, case.label][name], math.prod(shape))
        _require_samples(references[END_TO_END_KEY]["image"], SAMPLES)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"{bundle.path / REFERENCE} does not hold the reference outputs: {error!r}. "
            "Export the bundle again."
        ) from error
    return references


def _require_samples(values: NDArray[np.float32], size: int) -> None:
    if values.shape != (min(SAMPLES, size),):
        raise ValueError(f"an output has samples of shape {values.shape}")
