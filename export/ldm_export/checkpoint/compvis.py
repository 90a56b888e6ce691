"""CompVis training checkpoints: one file with all three components, maybe a yaml beside it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ldm_engine.errors import CheckpointError

from .averages import choose_averages, with_averages
from .checkpoint import COMPONENTS, Checkpoint, StateDict
from .compvis_configs import Buffers, Shapes, TrainingConfig, infer_configs
from .compvis_names import PREFIXES, Geometry, canonical_name
from .file_kinds import mislabelled
from .files import open_tensors
from .names import canonical_state, without_holder
from .tensors import Tensors
from .tokenizer import read_tokenizer
from .tokenizer_files import find_tokenizer

# First parts of the names; the UNet's, `model`, may itself be a name before all of them.
ROOTS = frozenset({"cond_stage_model", "first_stage_model"})

YAML_MAX_BYTES = 1_000_000


def open_compvis(path: Path, vocab: Path | None, ema: bool | None = None) -> Checkpoint:
    """Read the names and shapes of a CompVis checkpoint file and derive its configs from them."""
    tensors = _open(path)
    _check_components(path, tensors)
    geometry = Geometry.of(tensors)
    shapes = {component: _shapes(component, geometry, tensors) for component in COMPONENTS}
    training = _training_config(path)
    averaged, note = choose_averages(path, tensors, training.get("use_ema"), ema)
    stored = ("betas", "scale_factor")
    buffers: Buffers = {name: tensors[name].read() for name in stored if name in tensors}
    return Checkpoint(
        layout="compvis",
        path=path,
        configs=infer_configs(path, shapes, training, buffers),
        tokenizer=read_tokenizer(
            find_tokenizer([path.parent, path.parent / "tokenizer"], vocab), None
        ),
        loaders={c: partial(_load, path, c, geometry, averaged) for c in COMPONENTS},
        notes=tuple(said for said in (mislabelled(path), note) if said),
    )


def holds_components(path: Path) -> bool:
    """Whether `path` can be read and has tensors of all three components."""
    try:
        _check_components(path, _open(path))
    except CheckpointError:
        return False
    return True


def _open(path: Path) -> Tensors:
    return without_holder(open_tensors(path), ROOTS)


def _check_components(path: Path, tensors: Tensors) -> None:
    missing = [
        f"{component} (`{prefix}*`)"
        for component, prefix in PREFIXES.items()
        if not any(name.startswith(prefix) for name in tensors)
    ]
    if missing:
        raise CheckpointError(
            f"`{path}` is not a CompVis text-to-image checkpoint: none of its {len(tensors)} "
            f"tensors belongs to {', '.join(missing)}.\n"
            "  Pass a checkpoint like ldm/text2img-large/model.ckpt; for a file out of a diffusers "
            "or PaddleNLP checkpoint pass the whole folder."
        )


def _shapes(component: str, geometry: Geometry, tensors: Tensors) -> Shapes:
    named = ((canonical_name(component, geometry, name), tensors[name].shape) for name in tensors)
    return {name: shape for name, shape in named if name is not None}


def _load(path: Path, component: str, geometry: Geometry, averaged: bool) -> StateDict:
    tensors = _open(path)
    if averaged and component == "unet":
        tensors = with_averages(tensors)
    return canonical_state(tensors, partial(canonical_name, component, geometry))


def _training_config(path: Path) -> TrainingConfig:
    """The one yaml beside `path` that describes a latent diffusion model; empty if none does."""
    beside = sorted([*path.parent.glob("*.yaml"), *path.parent.glob("*.yml")])
    found = {file: config for file in beside if (config := _read_yaml(file))}
    same_stem = {file: config for file, config in found.items() if file.stem == path.stem}
    found = same_stem or found
    if len(found) > 1:
        names = ", ".join(f"`{file.name}`" for file in found)
        raise CheckpointError(
            f"Several model configs lie beside `{path}`: {names}.\n"
            f"  Keep one of them there, or name the right one `{path.stem}.yaml`."
        )
    return next(iter(found.values()), {})


def _read_yaml(file: Path) -> TrainingConfig:
    """`model.params` of a CompVis config; empty for any other yaml."""
    try:
        if file.stat().st_size > YAML_MAX_BYTES:
            return {}
        text = file.read_text(encoding="utf-8")
        if "unet_config" not in text:
            return {}
        content: Any = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"`{file}` beside the checkpoint cannot be read as yaml ({error}).\n"
            "  Repair it, or move it away: without one the config is inferred from the tensors."
        ) from error
    for key in ("model", "params"):
        content = content.get(key) if isinstance(content, Mapping) else None
    return dict(content) if isinstance(content, Mapping) else {}
