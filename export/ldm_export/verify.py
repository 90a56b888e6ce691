"""The gate: exported programs against the dygraph model, before a bundle may exist.

The end-to-end reference is the undivided model with a doubled batch and the DDIM update written out
as in the paper, so that neither the cutting into programs nor the loop can be wrong unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor, nn

from ldm_engine.bundle.bundle import NO_FIGURE, Bundle, Parity
from ldm_engine.checks.cases import (
    END_TO_END,
    END_TO_END_KEY,
    END_TO_END_PROMPTS,
    Arrays,
    reference_cases,
)
from ldm_engine.checks.references import Key, References
from ldm_engine.checks.tolerances import relative_error
from ldm_engine.checks.verification import Finding, check_runtime, require_passed
from ldm_engine.machine.cpu import available_threads
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.choice import PREFERENCE, RUNTIMES, choose_runtime, usable_runtimes
from ldm_engine.runtimes.gpu.tensorrt_build import FORMAT as TENSORRT
from ldm_engine.runtimes.gpu.tensorrt_build import read_build
from ldm_engine.sampling.noise import NoiseStream
from ldm_engine.sampling.schedule import NoiseSchedule
from ldm_engine.sampling.tokenizer import Tokenizer

from .models import LDMBert, norms_in_two_passes
from .programs import Models, ProgramSpec
from .progress import Progress
from .tensorrt_programs import DEVICE


def add_references(references: References, bundle: Bundle, program: ProgramSpec) -> None:
    """Add the dygraph outputs of every case of `program`."""
    for case in reference_cases(program.name, bundle.model):
        key = case.program, case.label
        _add(references, key, partial(program.run, case.inputs()), program.layer)


def encode_end_to_end(bundle: Bundle, text_encoder: LDMBert) -> Tensor:
    """What the undivided UNet attends to in the short loop: [2B, T, .], B empty texts first."""
    texts = [""] * len(END_TO_END_PROMPTS) + list(END_TO_END_PROMPTS)
    with paddle.no_grad():
        return text_encoder(paddle.to_tensor(Tokenizer.of(bundle)(texts)))


def add_end_to_end(references: References, bundle: Bundle, models: Models, context: Tensor) -> None:
    """Add the images of the short loop; `context` is that of ``encode_end_to_end``."""
    _add(
        references,
        END_TO_END_KEY,
        lambda: {"image": _render_undivided(bundle, models, context)},
        models.unet,
        models.autoencoder,
    )


def _add(references: References, key: Key, run: Callable[[], Arrays], *layers: nn.Layer) -> None:
    """Add what `run` returns, and how far it lies from what another way to compute it gives.

    That is what fp32 leaves open.
    """
    references[key] = run()
    with norms_in_two_passes(*layers):
        again = run()
    apart = [relative_error(again[name], v) for name, v in references[key].items()]
    references.rounding[key] = min(max(apart), 1.0)


def gate(
    bundle: Bundle, references: References, required: Collection[str], progress: Progress
) -> list[Finding]:
    """Check every format of `bundle` in every installed runtime and every precision.

    Raises:
        VerificationError: naming each program outside its tolerance in a precision of `required`,
            or in one that programs were built for.
        RuntimeUnavailableError: if a runtime that reads one of the formats cannot be used here.
    """
    for name in PREFERENCE["cpu"]:
        if RUNTIMES[name].format in bundle.formats:
            choose_runtime(bundle, name)  # what cannot be checked is not to be shipped
    checks = [
        (choice, RuntimeOptions(precision=precision))
        for choice, precision in usable_runtimes(bundle)
    ]
    if TENSORRT in bundle.formats:
        options = RuntimeOptions(str(DEVICE), read_build(bundle).precision)
        choice = choose_runtime(bundle, "tensorrt", options.precision, options.device)
        checks.append((choice, options))
    findings: list[Finding] = []
    for choice, options in checks:
        options = replace(options, threads=available_threads())
        findings += check_runtime(bundle, choice, options, references, on_check=progress)
    binding = [f for f in findings if f.precision in required or f.runtime == TENSORRT]
    require_passed(binding, "The exported bundle")
    return findings


def parity_report(findings: list[Finding]) -> dict[str, dict[str, dict[str, Parity]]]:
    """The findings as ``bundle.json`` keeps them: the worst case of each program."""
    report: dict[str, dict[str, dict[str, Parity]]] = {}
    for finding in findings:
        programs = report.setdefault(finding.runtime, {}).setdefault(finding.precision, {})
        before = programs.get(finding.program)
        error = min(finding.error, NO_FIGURE)
        given = Parity(error, finding.tolerance, finding.label, finding.note)
        if before is None or _excess(given) > _excess(before):
            programs[finding.program] = given
    return report


def _excess(parity: Parity) -> float:
    """The error in tolerances: cases of one program need not have the same."""
    return parity.relative_l2_error / parity.tolerance


def _render_undivided(bundle: Bundle, models: Models, context: Tensor) -> NDArray[np.float32]:
    model = bundle.model
    schedule = NoiseSchedule.from_config(bundle.scheduler_config)
    count = len(END_TO_END_PROMPTS)
    noise = NoiseStream(range(END_TO_END["seed"], END_TO_END["seed"] + count))
    x = np.empty((count, model.latent_channels, model.sample_size, model.sample_size), np.float32)
    noise.fill(x)
    with paddle.no_grad():
        for timestep, a, a_prev in _alphas(schedule, END_TO_END["num_inference_steps"]):
            eps = models.unet(
                paddle.to_tensor(np.concatenate([x, x])),
                paddle.to_tensor([float(timestep)]),
                context,
            ).numpy()
            eps = eps[:count] + END_TO_END["guidance_scale"] * (eps[count:] - eps[:count])
            x0 = (x - np.sqrt(1 - a) * eps) / np.sqrt(a)
            sigma = END_TO_END["eta"] * np.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
            x = np.sqrt(a_prev) * x0 + np.sqrt(1 - a_prev - sigma**2) * eps
            if sigma > 0:
                fresh = np.empty_like(x, dtype=np.float32)
                noise.fill(fresh)
                x = x + sigma * fresh
            x = x.astype(np.float32)
        scaled = x / models.autoencoder.config.scaling_factor
        pixels = models.autoencoder(paddle.to_tensor(scaled.astype(np.float32))).numpy()
    return np.asarray(np.clip(pixels / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1), dtype=np.float32)


def _alphas(schedule: NoiseSchedule, count: int) -> list[tuple[int, float, float]]:
    """(timestep, its alphas_cumprod, the previous one's)."""
    alphas = schedule.alphas_cumprod()
    stride = schedule.num_train_timesteps // count
    if schedule.timestep_spacing == "linspace":
        timesteps = (
            np.linspace(0, schedule.num_train_timesteps - 1, count).round()[::-1].astype(int)
        )
    else:
        timesteps = (np.arange(count) * stride)[::-1] + schedule.steps_offset
    final = 1.0 if schedule.set_alpha_to_one else alphas[0]
    return [
        (int(t), float(alphas[t]), float(alphas[t - stride] if t >= stride else final))
        for t in timesteps
    ]
