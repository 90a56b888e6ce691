"""A checkpoint in, a verified bundle out: the order of the steps and where the files go."""

from __future__ import annotations

import gc
import json
import platform
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import paddle

from ldm_engine import __version__
from ldm_engine.bundle.bundle import (
    PROMPTS,
    REFERENCE,
    SCHEDULER_CONFIG,
    SOLVERS,
    VOCABULARY,
    Bundle,
    FileInfo,
    FormatInfo,
    ProgramInfo,
)
from ldm_engine.bundle.formats import INT8_FORMAT, program_file_names
from ldm_engine.bundle.manifest import save_manifest
from ldm_engine.bundle.model import ModelInfo, TokenizerInfo
from ldm_engine.checks.references import References, save_references
from ldm_engine.errors import BundleError, CheckpointError
from ldm_engine.machine.files import hash_file
from ldm_engine.machine.signals import current_handlers, install
from ldm_engine.runtimes.gpu.tensorrt_build import FORMAT as TENSORRT
from ldm_engine.runtimes.gpu.tensorrt_build import TensorRTBuild
from ldm_engine.sampling.schedule import NoiseSchedule
from ldm_engine.sampling.solvers_file import load_tables, save_tables
from ldm_engine.sampling.tokenizer import Tokenizer

from .checkpoint import Checkpoint
from .formats.writing import NEEDS, check_formats, convert_program, default_formats, write_program
from .loading import load_models, read_configs
from .models import TextEncoderConfig
from .precisions import required_precisions
from .programs import Models, ProgramSpec, build_programs
from .progress import Progress, silent
from .quantization import add_int8, check_int8, choose_prompts, find_prompts
from .target import check_target, staging_folder
from .tensorrt_programs import BuildOptions, add_tensorrt, check_tensorrt, plan_build
from .verify import (
    add_end_to_end,
    add_references,
    encode_end_to_end,
    gate,
    parity_report,
)


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    formats: Sequence[str] | None = None,
    weights: str = "fp32",
    int8: bool = False,
    calibration_prompts: Path | None = None,
    tensorrt: BuildOptions | None = None,
    encoder: bool | None = None,
    require: Sequence[str] = (),
    force: bool = False,
    source: str | None = None,
    progress: Progress = silent,
) -> Bundle:
    """Export `checkpoint` into the folder `out`, verified.

    Args:
        checkpoint: from ``open_checkpoint``.
        out: the bundle folder; must not exist, or be empty, or be a bundle and `force` given.
        formats: of "paddle", "onnx", "openvino", "tensorrt"; by default Paddle, and OpenVINO where
            it is installed.
        weights: "fp32", or "fp16" to store them in half precision; computing stays in fp32.
        int8: add a quantized UNet to the format openvino.
        calibration_prompts: a text file with a prompt a line to calibrate it with; by default the
            checkpoint's own calibration_prompts.txt, or else general ones.
        tensorrt: the precision and shapes to build the format tensorrt for; see ``BuildOptions``.
        encoder: whether the bundle has the optional program ``vae_encoder``, which pictures as
            input need; by default if the checkpoint has the weights of it.
        require: precisions that must be within their tolerances beside fp32, and int8 where it is
            added; another one that is outside is recorded in the bundle, which then refuses it.
        force: replace a bundle that is there; it stays until the new one is complete.
        source: the checkpoint's name in the manifest; by default its folder's.
        progress: called with the name of each stage.

    Raises:
        InvalidArgumentError: if there is no such format or precision.
        RuntimeUnavailableError: if what a format needs is not installed, or a required precision
            cannot be measured here.
        CheckpointError, ConfigError: if the checkpoint is damaged or of another family.
        VerificationError: if an exported program is wrong, or int8 makes the images worse; no
            bundle is left behind.
        OutputError: if `out` is in the way or cannot be written.
    """
    formats = default_formats() if formats is None else tuple(formats)
    check_formats(formats, weights)
    check_int8(formats, int8, calibration_prompts)
    build_options = tensorrt or BuildOptions()
    check_tensorrt(formats, build_options)
    required = required_precisions(require, formats, int8, build_options)
    prompts = choose_prompts(checkpoint.path, calibration_prompts) if int8 else None
    known = find_prompts(checkpoint.path, calibration_prompts)
    out = check_target(out, force)
    install(current_handlers())  # importing Paddle has taken SIGTERM without Python's knowledge
    with staging_folder(out) as staging, _on_cpu():
        if known:
            (staging / PROMPTS).write_text("".join(f"{p}\n" for p in known), encoding="utf-8")
        # Fresh names, so that the same checkpoint gives the same files wherever it is exported.
        with paddle.utils.unique_name.guard():
            draft, references = _export_into(
                staging, checkpoint, formats, weights, build_options, encoder, source, progress
            )
        gc.collect()  # what follows needs the models' memory
        for name in draft.programs if "openvino" in formats else ():
            progress(f"converting {name}")
            convert_program(staging / name, formats, weights)
        if prompts is not None:
            draft = add_int8(draft, prompts, progress)
        if TENSORRT in draft.format_facts:
            build = TensorRTBuild.parse(draft.format_facts[TENSORRT])
            draft = add_tensorrt(draft, build, progress)
        bundle = _verified(draft, references, required, progress)
        _keep_solvers(out, bundle)
        save_manifest(bundle)
    return replace(bundle, path=out)


def _export_into(
    folder: Path,
    checkpoint: Checkpoint,
    formats: Sequence[str],
    weights: str,
    build_options: BuildOptions,
    encoder: bool | None,
    source: str | None,
    progress: Progress,
) -> tuple[Bundle, References]:
    """Write all that is traced, and what surrounds it; nothing is checked yet."""
    configs = read_configs(checkpoint, with_encoder=encoder is not False)
    tokenizer = _write_vocabulary(folder, checkpoint, configs[0])
    models = load_models(checkpoint, configs, progress)
    if encoder and models.encoder is None:
        raise CheckpointError(
            f"`{checkpoint.path}` has no encoder of its autoencoder (`encoder.*`), and `encoder` "
            "asks for it.\n  Leave out `encoder` (--encoder), or pass a complete checkpoint."
        )
    scheduler_text = json.dumps(checkpoint.configs["scheduler"], indent=2) + "\n"
    (folder / SCHEDULER_CONFIG).write_text(scheduler_text)
    model = _model_info(checkpoint, models, source)
    facts = {TENSORRT: plan_build(build_options, model).facts()} if TENSORRT in formats else {}
    programs = {program.name: program for program in build_programs(models, model)}
    traced = [f for f in formats if f != TENSORRT]
    infos = {
        p.name: ProgramInfo(
            p.inputs,
            p.outputs,
            {f: FormatInfo(program_file_names(p.name, f), weights) for f in traced},
        )
        for p in programs.values()
    }
    draft = Bundle(folder, model, tokenizer, infos, files={}, format_facts=facts)
    return draft, _write_programs(draft, models, programs, traced, weights, progress)


def _write_programs(
    draft: Bundle,
    models: Models,
    programs: dict[str, ProgramSpec],
    formats: Sequence[str],
    weights: str,
    progress: Progress,
) -> References:
    """Write each of `programs` and what it should give; neither they nor all models are left."""
    references = References()

    def finish(program: ProgramSpec) -> None:
        progress(f"reference: {program.name}")
        add_references(references, draft, program)
        progress(f"writing {program.name}")
        (draft.path / program.name).mkdir()
        write_program(program, draft.path / program.name, formats, weights)

    finish(programs.pop("text_encoder"))
    context = encode_end_to_end(draft, models.text_encoder)
    del models.text_encoder  # nothing else needs it, and it is two fifths of the memory
    gc.collect()
    for name in list(programs):
        finish(programs.pop(name))
    progress("reference: end to end")
    add_end_to_end(references, draft, models, context)
    save_references(draft, references)
    return references


@contextmanager
def _on_cpu() -> Iterator[None]:
    """Have dygraph compute on the CPU, also with a Paddle for GPUs: there fp32 is TF32."""
    before = paddle.get_device()
    paddle.set_device("cpu")
    try:
        yield
    finally:
        paddle.set_device(before)


def _verified(
    draft: Bundle, references: References, required: Collection[str], progress: Progress
) -> Bundle:
    """`draft` with hashes, versions, and the gate's report beside what its parity held before."""
    findings = gate(draft, references, required, progress)
    progress("hashing")
    names = [SCHEDULER_CONFIG, VOCABULARY, REFERENCE, *draft.program_files_listed]
    if (draft.path / PROMPTS).is_file():
        names.append(PROMPTS)
    files = {n: _file_info(draft.path / n) for n in names}
    parity = parity_report(findings)
    for runtime, precisions in draft.parity.items():
        for precision, measured in precisions.items():
            parity[runtime][precision].update(measured)
    return replace(draft, files=files, parity=parity, versions=_versions(draft))


def _keep_solvers(old: Path, bundle: Bundle) -> None:
    """Keep what was fitted to the bundle that is replaced, if it makes the same pixels."""
    if (old / SOLVERS).is_file():
        schedule = NoiseSchedule.from_config(bundle.scheduler_config)
        tables = load_tables(replace(bundle, path=old), schedule)
        if not tables.fault:
            save_tables(bundle, tables, schedule)


def _file_info(path: Path) -> FileInfo:
    return FileInfo(hash_file(path), path.stat().st_size)


def _model_info(checkpoint: Checkpoint, models: Models, source: str | None) -> ModelInfo:
    unet, text = models.unet, models.text_encoder.config
    return ModelInfo(
        source=source or checkpoint.path.resolve().name,
        latent_channels=unet.config.in_channels,
        scale_factor=models.autoencoder.config.scale_factor,
        size_multiple=unet.config.size_multiple,
        sample_size=unet.config.sample_size,
        token_length=text.max_position_embeddings,
        vocab_size=text.vocab_size,
        time_shift_width=unet.time_shift_width,
        text_kv_width=unet.text_kv_width,
    )


def _write_vocabulary(
    folder: Path, checkpoint: Checkpoint, text: TextEncoderConfig
) -> TokenizerInfo:
    """Write it and open the tokenizer: one that does not fit is to be found before the work."""
    tokenizer = checkpoint.tokenizer.fitting(text.vocab_size)
    path = folder / VOCABULARY
    path.write_bytes(tokenizer.vocabulary)
    try:
        Tokenizer(path, text.max_position_embeddings, tokenizer.info, text.vocab_size)
    except BundleError as error:
        raise BundleError(str(error).replace(str(path), str(tokenizer.path))) from error
    return tokenizer.info


def _versions(bundle: Bundle) -> dict[str, str]:
    used = {name for f in bundle.formats for name in NEEDS[f]} - {"paddle"}
    used |= {"nncf"} if INT8_FORMAT in bundle.programs["unet"].formats else set()
    return {
        "ldm-engine": __version__,
        "paddlepaddle": paddle.__version__,
        **{name: metadata.version(name) for name in sorted(used)},
        "numpy": metadata.version("numpy"),
        "python": platform.python_version(),
    }
