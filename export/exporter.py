"""A checkpoint in, a verified bundle out: the order of the steps and where the files go."""

from __future__ import annotations

import gc
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ldm_engine import __version__
from ldm_engine.bundle import (
    FORMAT_FILES,
    MANIFEST,
    PROGRAMS,
    REFERENCE,
    SCHEDULER_CONFIG,
    VOCABULARY,
    Bundle,
    FileInfo,
    ModelInfo,
    ProgramInfo,
    hash_file,
)
from ldm_engine.errors import ConfigError, InvalidArgumentError, OutputError
from ldm_engine.files import make_folder
from ldm_engine.scheduler import DDIMScheduler
from ldm_engine.tokenizer import Tokenizer
from ldm_engine.verification import References, save_references

from .checkpoint import Checkpoint, check_tensors
from .formats.paddle import write_paddle
from .models import (
    AutoencoderConfig,
    AutoencoderDecoder,
    LDMBert,
    TextEncoderConfig,
    UNet,
    UNetConfig,
    load_tensors,
    tensor_shapes,
)
from .programs import Models, ProgramSpec, build_programs
from .progress import Progress, silent
from .verify import compute_references, gate, parity_report

WRITERS = {"paddle": write_paddle}


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    formats: Sequence[str] = ("paddle",),
    force: bool = False,
    source: str | None = None,
    progress: Progress = silent,
) -> Bundle:
    """Export `checkpoint` into the folder `out`, verified.

    Args:
        checkpoint: from ``open_checkpoint``.
        out: the bundle folder; must not exist, or be empty, or be a bundle and `force` given.
        formats: of ``FORMAT_FILES``.
        force: replace a bundle that is there; it stays until the new one is complete.
        source: what to call the checkpoint in the manifest; by default its folder's name.
        progress: told of each stage.

    Raises:
        CheckpointError, ConfigError: if the checkpoint is damaged or of another family.
        VerificationError: if an exported program is wrong; no bundle is left behind.
        OutputError: if `out` is in the way or cannot be written.
    """
    for name in formats:
        if name not in WRITERS:
            raise InvalidArgumentError(
                f"`formats` names {name!r}; {', '.join(WRITERS)} is accepted by this version."
            )
    check_target(out, force)
    make_folder(out.parent)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        staging.chmod(0o755)
        # Fresh names, so that the same checkpoint gives the same files wherever it is exported.
        with paddle.utils.unique_name.guard():
            bundle = _export_into(staging, checkpoint, formats, source, progress)
        bundle.save_manifest()
        _move_into_place(staging, out)
    except OSError as error:
        raise OutputError(
            f"The bundle could not be written to {out}: {error.strerror or error}. "
            "Nothing was left behind; make room or choose another folder, and export again."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Bundle(out, bundle.model, bundle.programs, bundle.files, bundle.parity, bundle.versions)


def count_stages(formats: Sequence[str]) -> int:
    """How often an export calls its `progress`."""
    loads, references, runtime_checks, hashing = 3, len(PROGRAMS) + 1, len(PROGRAMS) + 1, 1
    return loads + references + (len(PROGRAMS) + runtime_checks) * len(formats) + hashing


def _export_into(
    folder: Path,
    checkpoint: Checkpoint,
    formats: Sequence[str],
    source: str | None,
    progress: Progress,
) -> Bundle:
    configs = _read_configs(checkpoint)
    models = _load_models(checkpoint, configs, progress)
    scheduler_text = json.dumps(checkpoint.configs["scheduler"], indent=2) + "\n"
    (folder / SCHEDULER_CONFIG).write_text(scheduler_text)
    shutil.copyfile(checkpoint.vocab_path, folder / VOCABULARY)
    model = _model_info(checkpoint, models, source)
    _check_vocabulary(folder / VOCABULARY, model)
    programs = build_programs(models)
    infos = {
        p.name: ProgramInfo(
            p.inputs,
            p.outputs,
            {f: tuple(f"{p.name}/{name}" for name in FORMAT_FILES[f]) for f in formats},
        )
        for p in programs
    }
    draft = Bundle(folder, model, infos, files={})
    references = compute_references(draft, models, programs, progress)
    save_references(draft, references)
    for program in programs:
        _write_program(program, folder, formats, progress)
    del models, programs  # the runtimes need the memory
    gc.collect()
    return _verified(draft, references, progress)


def _verified(draft: Bundle, references: References, progress: Progress) -> Bundle:
    """`draft` with hashes, parity report and versions."""
    findings = gate(draft, references, progress)
    progress("hashing")
    names = [SCHEDULER_CONFIG, VOCABULARY, REFERENCE]
    names += [n for p in draft.programs.values() for f in p.formats.values() for n in f]
    files = {n: _file_info(draft.path / n) for n in names}
    return Bundle(
        draft.path, draft.model, draft.programs, files, parity_report(findings), _versions()
    )


def _file_info(path: Path) -> FileInfo:
    return FileInfo(hash_file(path), path.stat().st_size)


def _read_configs(
    checkpoint: Checkpoint,
) -> tuple[TextEncoderConfig, UNetConfig, AutoencoderConfig]:
    raw = checkpoint.configs
    text = TextEncoderConfig.from_dict(raw["text_encoder"])
    unet = UNetConfig.from_dict(raw["unet"])
    autoencoder = AutoencoderConfig.from_dict(raw["autoencoder"])
    DDIMScheduler.from_config(raw["scheduler"])
    violations = []
    if unet.cross_attention_dim != text.d_model:
        violations.append(
            f"the UNet attends to vectors of {unet.cross_attention_dim} (`cross_attention_dim`), "
            f"the text encoder makes vectors of {text.d_model} (`d_model`)"
        )
    channels = (unet.in_channels, unet.out_channels, autoencoder.latent_channels)
    if len(set(channels)) != 1:
        violations.append(
            "the UNet's `in_channels` and `out_channels` and the autoencoder's `latent_channels` "
            f"are {channels}, and must be equal"
        )
    if violations:
        raise ConfigError(
            f"The configs of {checkpoint.path} do not belong together: {'; '.join(violations)}. "
            "Check that all components come from one model."
        )
    return text, unet, autoencoder


def _load_models(
    checkpoint: Checkpoint,
    configs: tuple[TextEncoderConfig, UNetConfig, AutoencoderConfig],
    progress: Progress,
) -> Models:
    text, unet, autoencoder = configs
    return Models(
        _load("text_encoder", LDMBert(text), checkpoint, progress),
        _load("unet", UNet(unet), checkpoint, progress),
        _load("autoencoder", AutoencoderDecoder(autoencoder), checkpoint, progress),
    )


def _load(component: str, layer: Any, checkpoint: Checkpoint, progress: Progress) -> Any:
    progress(f"loading {component}")
    state: Mapping[str, np.ndarray[Any, Any]] = checkpoint.load(component)
    check_tensors(component, state, tensor_shapes(layer))
    load_tensors(layer, state)
    layer.eval()
    return layer


def _write_program(
    program: ProgramSpec, folder: Path, formats: Sequence[str], progress: Progress
) -> None:
    (folder / program.name).mkdir()
    for name in formats:
        progress(f"writing {program.name} ({name})")
        WRITERS[name](program, folder / program.name)


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
        lowercase=bool(checkpoint.configs["tokenizer"].get("do_lower_case", True)),
        time_shift_width=unet.time_shift_width,
        text_kv_width=unet.text_kv_width,
    )


def _check_vocabulary(path: Path, model: ModelInfo) -> None:
    Tokenizer(path, model.token_length, model.lowercase)
    with path.open(encoding="utf-8") as file:
        tokens = sum(1 for _ in file)
    if tokens > model.vocab_size:
        raise ConfigError(
            f"{path.name} holds {tokens} tokens, the text encoder embeds {model.vocab_size}. "
            "Use the vocabulary published with the checkpoint."
        )


def _versions() -> dict[str, str]:
    return {
        "ldm-engine": __version__,
        "paddlepaddle": paddle.__version__,
        "numpy": metadata.version("numpy"),
        "python": platform.python_version(),
    }


def check_target(out: Path, force: bool) -> None:
    """Raise ``OutputError`` if a bundle may not be written to `out`."""
    if not out.exists():
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    is_bundle = (out / MANIFEST).is_file()
    if not is_bundle:
        raise OutputError(
            f"{out} exists and is not a bundle; it is left alone. Choose a folder that does not "
            "exist yet."
        )
    if not force:
        raise OutputError(
            f"{out} already holds a bundle. Choose another folder, or pass --force to replace it."
        )


def _move_into_place(staging: Path, out: Path) -> None:
    old = None
    if out.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
        out.replace(old / out.name)
    try:
        staging.replace(out)
    except OSError:
        if old is not None:
            with suppress(OSError):
                (old / out.name).replace(out)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
