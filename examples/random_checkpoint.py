"""Writes a seeded random checkpoint of the ldm-text2im-large-256 family in its published layout.

    python examples/random_checkpoint.py OUT --size large --seed 0

The configs of `large` are the published ones, so that memory, speed and the whole way from export
to picture can be tried at full size without the real weights. Needs torch and diffusers (the
`peers` extra) for the shapes; the weights come from numpy, each tensor from a stream of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import string
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Config = dict[str, Any]

# As published at huggingface.co/CompVis/ldm-text2im-large-256: model_index.json, bert/config.json,
# unet/config.json, vqvae/config.json, scheduler/scheduler_config.json, tokenizer/*.json.
MODEL_INDEX: Config = {
    "_class_name": "LDMTextToImagePipeline",
    "_diffusers_version": "0.0.4",
    "bert": ["latent_diffusion", "LDMBertModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "tokenizer": ["transformers", "BertTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vqvae": ["diffusers", "AutoencoderKL"],
}
TEXT_ENCODER: Config = {
    "activation_dropout": 0.0,
    "activation_function": "gelu",
    "architectures": ["LDMBertModel"],
    "attention_dropout": 0.0,
    "classifier_dropout": 0.0,
    "d_model": 1280,
    "dropout": 0.1,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 5120,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 32,
    "head_dim": 64,
    "init_std": 0.02,
    "max_position_embeddings": 77,
    "model_type": "ldmbert",
    "num_hidden_layers": 32,
    "pad_token_id": 0,
    "scale_embedding": False,
    "torch_dtype": "float32",
    "transformers_version": "4.20.1",
    "use_cache": True,
    "vocab_size": 30522,
}
UNET: Config = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": 8,  # the number of heads, whatever its name says
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "down_block_types": [
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 32,
    "up_block_types": [
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    ],
}
AUTOENCODER: Config = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SCHEDULER: Config = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.0.4",
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "trained_betas": None,
}
TOKENIZER: Config = {
    "cls_token": "[CLS]",
    "do_basic_tokenize": True,
    "do_lower_case": True,
    "mask_token": "[MASK]",
    "model_max_length": 512,
    "never_split": None,
    "pad_token": "[PAD]",
    "sep_token": "[SEP]",
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "tokenizer_class": "BertTokenizer",
    "unk_token": "[UNK]",
}
SPECIAL_TOKENS: Config = {
    name: TOKENIZER[name]
    for name in ("cls_token", "mask_token", "pad_token", "sep_token", "unk_token")
}

LARGE: dict[str, Config] = {
    "text_encoder": TEXT_ENCODER,
    "unet": UNET,
    "autoencoder": AUTOENCODER,
    "scheduler": SCHEDULER,
    "tokenizer": TOKENIZER,
}


def _sized(text_encoder: Config, unet: Config, autoencoder: Config) -> dict[str, Config]:
    """The published configs with other sizes."""
    text_encoder["num_hidden_layers"] = text_encoder["encoder_layers"]
    return {
        **LARGE,
        "text_encoder": TEXT_ENCODER | text_encoder,
        "unet": UNET | unet | {"cross_attention_dim": text_encoder["d_model"]},
        "autoencoder": AUTOENCODER | autoencoder,
    }


SIZES: dict[str, dict[str, Config]] = {
    "tiny": _sized(
        {
            "d_model": 32,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "encoder_layers": 2,
            "head_dim": 8,
            "max_position_embeddings": 16,
            "vocab_size": 256,
        },
        {
            "attention_head_dim": 2,
            "block_out_channels": [16, 32, 32, 32],
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "sample_size": 8,
        },
        {
            "block_out_channels": [16, 32, 32, 32],
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "sample_size": 64,
        },
    ),
    "small": _sized(
        {
            "d_model": 128,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 512,
            "encoder_layers": 4,
            "head_dim": 16,
            "vocab_size": 2048,
        },
        {
            "attention_head_dim": 4,
            "block_out_channels": [64, 128, 256, 256],
            "sample_size": 16,
        },
        {"block_out_channels": [32, 64, 128, 128], "sample_size": 128},
    ),
    "large": LARGE,
}

FOLDERS = {"text_encoder": "bert", "unet": "unet", "autoencoder": "vqvae"}
WEIGHTS = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "autoencoder": "diffusion_pytorch_model.safetensors",
}

SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16"}

# In bert-base-uncased's vocabulary, ids below 999 are the five specials and 994 unused tokens.
UNUSED_IDS = 999
SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
WORDS = """
an the of on in at and with red green blue yellow black white gray small large circle square
triangle star background left right top bottom center painting squirrel eating burger photo
"""

# Gains over unit-preserving weights. Ends of residual branches are damped, so that a deep stack of
# random layers neither explodes nor drowns its input; text and time are lifted, because attention
# over many tokens averages their differences away and SiLU shrinks what passes through it.
GAINS = (
    (
        re.compile(r".*(self_attn\.out_proj|fc2|attn1\.to_out\.0|ff\.net\.2|resnets\.\d+\.conv2)"),
        0.3,
    ),
    (re.compile(r".*(attn2\.to_out\.0|time_embedding\.linear_\d|time_emb_proj)"), 2.0),
)
NORM = re.compile(r".*norm\w*\.weight")
EMBEDDING = re.compile(r".*embed_(tokens|positions)\.weight")
BIAS_STD = 0.02


def write_random_checkpoint(
    out: str | Path,
    size: str = "tiny",
    *,
    configs: Mapping[str, Config] | None = None,
    seed: int = 0,
    dtype: str = "float32",
    force: bool = False,
) -> Path:
    """Write a random checkpoint in the diffusers layout and return its folder.

    Args:
        out: the folder to write; it must be empty or absent unless `force`, which empties it.
        size: "tiny" (seconds, for tests), "small", or "large" (the published sizes, 5.9 GB).
        configs: all five configs by component, instead of those of `size`.
        seed: the same seed and configs give the same bytes, whatever else is written.
        dtype: "float32" or "float16", the type of the stored weights.
        force: replace what is there.
    """
    out = Path(out)
    configs = SIZES[size] if configs is None else configs
    _prepare(out, force)
    vocab_size = configs["text_encoder"]["vocab_size"]
    _write_tokenizer(out / "tokenizer", configs["tokenizer"], vocab_size)
    _write_json(out / "scheduler" / "scheduler_config.json", configs["scheduler"])
    for component, folder in FOLDERS.items():
        _write_json(out / folder / "config.json", configs[component])
        shapes = tensor_shapes(component, configs[component])
        write_weights(out / folder / WEIGHTS[component], shapes, seed, dtype)
    _write_json(out / "model_index.json", MODEL_INDEX)
    return out


def write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int, dtype: str) -> None:
    """Write a safetensors file tensor by tensor, so that memory holds one tensor at a time.

    The format: the header's size (8 bytes, little-endian), the header as JSON, then all values.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        entry = {"dtype": SAFETENSORS_DTYPES[dtype], "shape": shape, "data_offsets": [begin, end]}
        header[name] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # keeps the values aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            file.write(random_tensor(name, shape, seed).astype(dtype, copy=False).data)


def random_weights(
    component: str, config: Config, seed: int, dtype: str = "float32"
) -> dict[str, NDArray[Any]]:
    """Random weights of one component, those that inference never reads included."""
    return {
        name: random_tensor(name, shape, seed).astype(dtype, copy=False)
        for name, shape in tensor_shapes(component, config).items()
    }


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """One tensor from its own stream, scaled so that activations stay near unit size."""
    stream = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    values = stream.standard_normal(shape, dtype=np.float32)
    if NORM.fullmatch(name):
        values *= 0.1
        values += 1
    elif EMBEDDING.fullmatch(name):
        pass  # unit size: a token's vector is what the first normalisation sees
    elif len(shape) == 1:
        values *= BIAS_STD
    else:
        module = name.removesuffix(".weight")
        gain = next((gain for pattern, gain in GAINS if pattern.fullmatch(module)), 1.0)
        values *= gain / math.sqrt(math.prod(shape[1:]))
    return values


def tensor_shapes(component: str, config: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a component's weights, from diffusers' class without its memory."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
        LDMBertConfig,
        LDMBertModel,
    )

    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    with torch.device("meta"):
        if component == "text_encoder":
            model = LDMBertModel(LDMBertConfig(**arguments))
        elif component == "unet":
            model = UNet2DConditionModel(**arguments)
        else:
            model = AutoencoderKL(**arguments)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def vocabulary(size: int) -> list[str]:
    """`size` WordPiece tokens: specials at published ids, all of ASCII, words, then filler.

    A vocabulary too small for the published unused tokens has the specials first.
    """
    if size < len(SPECIAL_IDS):
        raise ValueError(f"`size` is {size}; a vocabulary has {len(SPECIAL_IDS)} tokens or more.")
    tokens = list(SPECIAL_IDS)
    if size > 2 * UNUSED_IDS:
        unused = (f"[unused{index}]" for index in range(UNUSED_IDS))
        published = {index: token for token, index in SPECIAL_IDS.items()}
        tokens = [published.get(index) or next(unused) for index in range(UNUSED_IDS)]
    characters = sorted({character.lower() for character in string.printable.split()[0]})
    tokens += characters
    tokens += [f"##{character}" for character in characters if character.isalnum()]
    tokens += WORDS.split()
    tokens += _filler(size - len(tokens))
    return tokens[:size]


def _filler(count: int) -> Iterator[str]:
    """Words that no other part of the vocabulary holds."""
    for index in range(max(count, 0)):
        yield "zq" + "".join(string.ascii_lowercase[int(digit)] for digit in str(index))


def _prepare(out: Path, force: bool) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not force:
            raise FileExistsError(
                f"`{out}` exists and is not an empty folder; nothing was written.\n"
                "  Pass another folder, or --force to replace it."
            )
        if not (out / "model_index.json").is_file():
            raise FileExistsError(
                f"`{out}` has no model_index.json, so it is no checkpoint and not replaced.\n"
                "  Pass another folder."
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


def _write_tokenizer(folder: Path, config: Config, vocab_size: int) -> None:
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", SPECIAL_TOKENS)
    _write_json(folder / "added_tokens.json", {})
    (folder / "vocab.txt").write_text("\n".join(vocabulary(vocab_size)) + "\n", encoding="utf-8")


def _write_json(path: Path, content: Config) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, write the checkpoint and say where."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--force", action="store_true", help="replace a checkpoint that is there")
    options = parser.parse_args(arguments)
    try:
        write_random_checkpoint(
            options.out,
            options.size,
            seed=options.seed,
            dtype=options.dtype,
            force=options.force,
        )
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    written = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"{options.out}: {options.size}, seed {options.seed}, {written / 1e6:,.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
