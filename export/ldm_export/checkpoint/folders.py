"""Checkpoints with a folder per component: the diffusers layout and its PaddleNLP twin."""

from __future__ import annotations

import reprlib
from functools import partial
from pathlib import Path
from typing import Any

from ldm_engine.errors import CheckpointError, ConfigError

from .checkpoint import Checkpoint, Config
from .component_folders import MODEL_INDEX, component_folders, indexed_classes
from .component_weights import load_weights, weights_files
from .json_files import read_json
from .schedulers import ddim_config
from .tokenizer import read_tokenizer
from .tokenizer_files import find_tokenizer
from .weights_files import PADDLE_STEMS

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


def open_folder(
    path: Path, vocab: Path | None, variant: str | None = None, ema: bool | None = None
) -> Checkpoint:
    """Find all files of a diffusers or PaddleNLP folder and read its configs."""
    index = indexed_classes(path)
    folders, notes = component_folders(path, variant, ema, index)
    weights, more = weights_files(folders, variant)
    configs = {component: _config(folder, component) for component, folder in folders.items()}
    scheduler = _first_json(path / "scheduler", SCHEDULER_FILES, "The scheduler")
    for component, folder in folders.items():
        _require_class(path / MODEL_INDEX, component, index.get(folder.name))
    configs["scheduler"], solver = ddim_config(scheduler, index.get("scheduler"))
    paddle = any(file.name.startswith(PADDLE_STEMS) for file in weights.values())
    return Checkpoint(
        layout="paddlenlp" if paddle else "diffusers",
        path=path,
        configs=configs,
        tokenizer=read_tokenizer(
            find_tokenizer([path / "tokenizer", path], vocab), index.get("tokenizer")
        ),
        loaders={component: partial(load_weights, component, weights) for component in weights},
        notes=(*notes, *more, *solver),
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
            if alias in config and config.setdefault(name, config[alias]) != config[alias]:
                _refuse_two_names(folder, config, alias, name)
    else:
        for key in ("down_block_types", "up_block_types"):
            # diffusers' first releases wrote "UNetRes…" before the names of the same blocks.
            if isinstance(config.get(key), list):
                config[key] = [str(name).removeprefix("UNetRes") for name in config[key]]
    return config


def _refuse_two_names(folder: Path, config: Config, alias: str, name: str) -> None:
    """Two names of one number that differ; of layers, diffusers reads the one name alone."""
    if alias != "num_hidden_layers":
        raise ConfigError(
            f"The config in `{folder}` has `{name}` {config[name]!r} and `{alias}` "
            f"{config[alias]!r}, which are two names of one number.\n"
            "  Keep the right one."
        )


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
    _require_class(folder, component, given)


def _require_class(place: Path, component: str, given: Any) -> None:
    if given and given != MODEL_CLASSES[component]:
        given = given if isinstance(given, str) else f"model of the class {reprlib.repr(given)}"
        raise CheckpointError(
            f"`{place}` holds a {given}; the component {component} of this model family is a "
            f"{MODEL_CLASSES[component]}.\n  Pass a checkpoint like CompVis/ldm-text2im-large-256."
        )
