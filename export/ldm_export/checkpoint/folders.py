"""Checkpoints with a folder per component: the diffusers layout and its PaddleNLP twin."""

from __future__ import annotations

import json
import re
import reprlib
from functools import partial
from pathlib import Path
from typing import Any

from ldm_engine.errors import CheckpointError, ConfigError

from .checkpoint import Checkpoint, Config, StateDict
from .files import KINDS, Kind, Tensors, file_kind, open_tensors, stored_by, unwrapped_name
from .names import canonical_name, canonical_state, shown_in_out
from .schedulers import ddim_config
from .weights_files import PADDLE_STEMS, choose_weights

# Folder names, the published one first.
FOLDERS = {
    "text_encoder": ("bert", "text_encoder"),
    "unet": ("unet",),
    "autoencoder": ("vqvae", "vae"),
}

SUFFIX_KINDS: dict[str, Kind] = {
    ".safetensors": "safetensors",
    ".bin": "torch",
    ".pdparams": "paddle",
}

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


def open_folder(path: Path, vocab: Path | None, variant: str | None = None) -> Checkpoint:
    """Find all files of a diffusers or PaddleNLP folder and read its configs."""
    folders = {component: _component_folder(path, component) for component in FOLDERS}
    weights, notes = _weights_files(folders, variant)
    configs = {component: _config(folder, component) for component, folder in folders.items()}
    scheduler = _first_json(path / "scheduler", SCHEDULER_FILES, "The scheduler")
    configs["scheduler"] = ddim_config(scheduler)
    tokenizer_config = path / "tokenizer" / "tokenizer_config.json"
    configs["tokenizer"] = read_json(tokenizer_config) if tokenizer_config.is_file() else {}
    paddle = any(file.name.startswith(PADDLE_STEMS) for file in weights.values())
    return Checkpoint(
        layout="paddlenlp" if paddle else "diffusers",
        path=path,
        configs=configs,
        vocab_path=find_vocab([path / "tokenizer", path], vocab),
        loaders={component: partial(_load, component, weights) for component in weights},
        notes=tuple(notes),
    )


def find_vocab(folders: list[Path], vocab: Path | None) -> Path:
    """`vocab` if given, else the first `vocab.txt` in `folders`."""
    candidates = [vocab] if vocab is not None else [folder / "vocab.txt" for folder in folders]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = ", ".join(f"`{candidate}`" for candidate in candidates)
    raise CheckpointError(
        f"The checkpoint has no vocabulary: there is no file {looked}.\n"
        "  Put the `vocab.txt` of bert-base-uncased there (huggingface.co/google-bert/"
        "bert-base-uncased), or pass its path as `vocab`."
    )


def read_json(path: Path) -> Config:
    """A config file; anything but a JSON object is an error that names the file."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"`{path}` cannot be read as JSON ({error}).\n  Download it again."
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f"`{path}` holds a {type(config).__name__}; a config is a JSON object.\n"
            "  Download it again."
        )
    return config


def _component_folder(path: Path, component: str) -> Path:
    for name in FOLDERS[component]:
        if (path / name).is_dir():
            return path / name
    accepted = " or ".join(f"`{name}/`" for name in FOLDERS[component])
    raise CheckpointError(
        f"`{path}` has no folder for the component {component}; accepted: {accepted}.\n"
        "  Download the checkpoint completely: bert/, unet/, vqvae/, scheduler/ and tokenizer/."
    )


def _weights_files(
    folders: dict[str, Path], variant: str | None
) -> tuple[dict[str, Path], list[str]]:
    """The weights file of each component, and what to say of how it was chosen."""
    names = {c: [f.name for f in folder.iterdir() if f.is_file()] for c, folder in folders.items()}
    chosen = choose_weights(names, {c: str(folder) for c, folder in folders.items()}, variant)
    files = {component: folders[component] / c.file.name for component, c in chosen.items()}
    notes = [c.note(component, folders[component].name, variant) for component, c in chosen.items()]
    notes += [_kind_note(component, file) for component, file in files.items()]
    return files, [note for note in notes if note]


def _kind_note(component: str, file: Path) -> str | None:
    """Say so where a file is not what its name says."""
    if file.suffix == ".json":
        return None
    kind = file_kind(file)
    if SUFFIX_KINDS[file.suffix] == kind:
        return None
    return f"{component}: `{file.name}` is {KINDS[kind]} by its contents, and is read as that."


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
    if given and given != MODEL_CLASSES[component]:
        given = given if isinstance(given, str) else f"model of the class {reprlib.repr(given)}"
        raise CheckpointError(
            f"`{folder}` holds a {given}; the component {component} of this model family is a "
            f"{MODEL_CLASSES[component]}.\n  Pass a checkpoint like CompVis/ldm-text2im-large-256."
        )


def _load(component: str, files: dict[str, Path]) -> StateDict:
    tensors = _open(files[component])
    rename = partial(canonical_name, component)
    in_out = shown_in_out(tensors, rename)
    if in_out is None:
        in_out = _said_in_out(component, files)
    return canonical_state(tensors, rename, linear_is_in_out=in_out)


def _said_in_out(component: str, files: dict[str, Path]) -> bool:
    """Whether Linear weights are [in, out] where all are square, as in the autoencoder.

    The UNet's shapes always show it; they count where this file says nothing of itself, or says
    what the UNet's does. (What is Paddle's says so: a pickle could only be read as a whole.)
    """
    said = _stored_by(files[component])
    if said is None or (said == "torch" and _stored_by(files["unet"]) == said):
        shown = shown_in_out(_open(files["unet"]), partial(canonical_name, "unet"))
        if shown is not None:
            return shown
    return said == "paddle"


def _stored_by(file: Path) -> str | None:
    if file.suffix == ".json":
        shards = sorted(set(_weight_map(file).values()))
        return _stored_by(file.parent / shards[0]) if shards else None
    return stored_by(file) or ("paddle" if file.name.startswith(PADDLE_STEMS) else None)


def _open(file: Path) -> Tensors:
    return _open_sharded(file) if file.suffix == ".json" else open_tensors(file)


def _open_sharded(index_file: Path) -> Tensors:
    """The tensors of all shards that an index names; shards lie beside it."""
    shards = _weight_map(index_file)
    tensors: Tensors = {}
    for shard in sorted(set(shards.values())):
        tensors |= open_tensors(index_file.parent / shard)
    missing = sorted({unwrapped_name(name) for name in shards} - set(tensors))
    if missing:
        raise CheckpointError(
            f"`{index_file}` names {len(missing)} tensors that its shards do not hold, such as "
            f"`{missing[0]}`.\n  Download all shards: {', '.join(sorted(set(shards.values())))}."
        )
    return tensors


def _weight_map(index_file: Path) -> dict[str, str]:
    """Tensor name -> shard."""
    shards = read_json(index_file).get("weight_map")
    if not isinstance(shards, dict) or not all(
        isinstance(shard, str) and re.fullmatch(r"[\w.-]+", shard) for shard in shards.values()
    ):
        raise CheckpointError(
            f"`{index_file}` has no `weight_map` of tensor names to files in the same folder.\n"
            "  Download it again."
        )
    return shards
