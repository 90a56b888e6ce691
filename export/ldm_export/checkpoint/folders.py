"""Checkpoints with a folder per component: the diffusers layout and its PaddleNLP twin."""

from __future__ import annotations

import re
import reprlib
from functools import partial
from pathlib import Path
from typing import Any

from ldm_engine.errors import CheckpointError

from .checkpoint import Checkpoint, Config, StateDict
from .files import Tensors, is_paddle_file, open_tensors
from .json_files import read_json
from .names import canonical_name, canonical_state
from .tokenizer import read_tokenizer
from .tokenizer_files import find_tokenizer

# Folder names, the published one first.
FOLDERS = {
    "text_encoder": ("bert", "text_encoder"),
    "unet": ("unet",),
    "autoencoder": ("vqvae", "vae"),
}

# Weights by preference: safe formats before pickles.
DIFFUSERS_WEIGHTS = {
    "text_encoder": (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ),
    "unet": (
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.bin.index.json",
    ),
}
DIFFUSERS_WEIGHTS["autoencoder"] = DIFFUSERS_WEIGHTS["unet"]
PADDLE_WEIGHTS = "model_state.pdparams"

CONFIG_FILES = ("config.json", "model_config.json")
SCHEDULER_FILES = ("scheduler_config.json", "config.json")

MODEL_CLASSES = {
    "text_encoder": "LDMBertModel",
    "unet": "UNet2DConditionModel",
    "autoencoder": "AutoencoderKL",
}

# General names that PretrainedConfig classes read and may write (LDMBertConfig.attribute_map).
TEXT_ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_hidden_layers": "encoder_layers",
}


def is_component_folder(path: Path) -> bool:
    """Whether `path` looks like a checkpoint of this kind, complete or not."""
    if (path / "model_index.json").is_file():
        return True
    return any((path / name).is_dir() for names in FOLDERS.values() for name in names)


def open_folder(path: Path, vocab: Path | None) -> Checkpoint:
    """Find all files of a diffusers or PaddleNLP folder and read its configs."""
    folders = {component: _component_folder(path, component) for component in FOLDERS}
    weights = {component: _weights_file(folder, component) for component, folder in folders.items()}
    configs = {component: _config(folder, component) for component, folder in folders.items()}
    configs["scheduler"] = _first_json(path / "scheduler", SCHEDULER_FILES, "The scheduler")
    paddle = any(file.name == PADDLE_WEIGHTS for file in weights.values())
    return Checkpoint(
        layout="paddlenlp" if paddle else "diffusers",
        path=path,
        configs=configs,
        tokenizer=read_tokenizer(
            find_tokenizer([path / "tokenizer", path], vocab), _tokenizer_class(path)
        ),
        loaders={component: partial(_load, component, file) for component, file in weights.items()},
    )


def _tokenizer_class(path: Path) -> str | None:
    """The class that diffusers opens the tokenizer with; None where nothing says so."""
    index = path / "model_index.json"
    match read_json(index).get("tokenizer") if index.is_file() else None:
        case [_, str() as name]:
            return name
    return None


def _component_folder(path: Path, component: str) -> Path:
    for name in FOLDERS[component]:
        if (path / name).is_dir():
            return path / name
    accepted = " or ".join(f"`{name}/`" for name in FOLDERS[component])
    raise CheckpointError(
        f"`{path}` has no folder for the component {component}; accepted: {accepted}.\n"
        "  Download the checkpoint completely: bert/, unet/, vqvae/, scheduler/ and tokenizer/."
    )


def _weights_file(folder: Path, component: str) -> Path:
    accepted = (*DIFFUSERS_WEIGHTS[component], PADDLE_WEIGHTS)
    for name in accepted:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"`{folder}` has no weights for the component {component}; accepted: "
        f"{', '.join(accepted)}.\n  Download one of these files."
    )


def _first_json(folder: Path, names: tuple[str, ...], what: str) -> Config:
    for name in names:
        if (folder / name).is_file():
            return read_json(folder / name)
    raise CheckpointError(
        f"{what} has no config: `{folder}` has no {' or '.join(names)}.\n"
        "  Download one of these files."
    )


def _config(folder: Path, component: str) -> Config:
    config = _first_json(folder, CONFIG_FILES, f"The component {component}")
    config = _unwrapped(config)
    _check_class(folder, component, config)
    if component == "text_encoder":
        for alias, name in TEXT_ALIASES.items():
            if alias in config:
                config.setdefault(name, config[alias])
    else:
        for key in ("down_block_types", "up_block_types"):
            # diffusers' first releases wrote "UNetRes…" before the names of the same blocks.
            if isinstance(config.get(key), list):
                config[key] = [str(name).removeprefix("UNetRes") for name in config[key]]
    return config


def _unwrapped(config: Config) -> Config:
    """PaddleNLP's `model_config.json`: the arguments may lie in `init_args` of the base model."""
    outer: Config = {}
    while True:
        match config.get("init_args"):
            case [dict() as base, *_]:
                own = {k: v for k, v in config.items() if k not in ("init_args", "init_class")}
                outer, config = own | outer, base
            case _:
                return config | outer


def _check_class(folder: Path, component: str, config: Config) -> None:
    given: Any = (
        config.get("_class_name") or config.get("init_class") or config.get("architectures")
    )
    if isinstance(given, list) and given:
        given = given[0]
    if given and given != MODEL_CLASSES[component]:
        given = given if isinstance(given, str) else f"model of the class {reprlib.repr(given)}"
        raise CheckpointError(
            f"`{folder}` holds a {given}; the component {component} of this model family is a "
            f"{MODEL_CLASSES[component]}.\n  Pass a checkpoint like CompVis/ldm-text2im-large-256."
        )


def _load(component: str, file: Path) -> StateDict:
    tensors = _open_sharded(file) if file.name.endswith(".index.json") else open_tensors(file)
    paddle = file.name == PADDLE_WEIGHTS and is_paddle_file(file)
    return canonical_state(tensors, partial(canonical_name, component), linear_is_in_out=paddle)


def _open_sharded(index_file: Path) -> Tensors:
    """The tensors of all shards that a `*.index.json` names; shards lie beside it."""
    shards = read_json(index_file).get("weight_map")
    if not isinstance(shards, dict) or not all(
        isinstance(shard, str) and re.fullmatch(r"[\w.-]+", shard) for shard in shards.values()
    ):
        raise CheckpointError(
            f"`{index_file}` has no `weight_map` of tensor names to files in the same folder.\n"
            "  Download it again."
        )
    tensors: Tensors = {}
    for shard in sorted(set(shards.values())):
        tensors |= open_tensors(index_file.parent / shard)
    missing = sorted(set(shards) - set(tensors))
    if missing:
        raise CheckpointError(
            f"`{index_file}` names {len(missing)} tensors that its shards do not hold, such as "
            f"`{missing[0]}`.\n  Download all shards: {', '.join(sorted(set(shards.values())))}."
        )
    return tensors
