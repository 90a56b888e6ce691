"""Configs of a CompVis checkpoint in diffusers' spelling: read off the shapes, rounded off by yaml.

What shapes cannot say and no yaml says is taken from the published text-to-image model
(configs/latent-diffusion/txt2img-1p4B-eval.yaml of github.com/CompVis/latent-diffusion).
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_engine.errors import CheckpointError

from .checkpoint import Config

Shapes = dict[str, tuple[int, ...]]  # by canonical name
TrainingConfig = dict[str, Any]  # `model.params` of the yaml, or empty
Buffers = Mapping[str, NDArray[np.float32]]

HEADS = 8  # of the UNet as published, and of every x_transformers encoder that gives no number
SAMPLE_SIZE = 32
SCALING_FACTOR = 0.18215
TIMESTEPS, LINEAR_START, LINEAR_END = 1000, 0.00085, 0.012
NORM_GROUPS = 32  # fixed in CompVis' code

# CompVis' "linear" schedule is linear in the square roots of beta (make_beta_schedule in
# ldm/modules/diffusionmodules/util.py); diffusers calls that "scaled_linear".
BETA_SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear"}
PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
#: Options of the yaml that must be off: they change pictures, and tensors hardly show them.
SWITCHED_OFF = {
    "unet_config": (
        "disable_middle_self_attn",
        "disable_self_attentions",
        "resblock_updown",
        "use_scale_shift_norm",
    ),
    "ddconfig": ("give_pre_end", "tanh_out"),
}
BETA_RTOL = 1e-4  # stored betas are float32


def infer_configs(
    path: Path, shapes: Mapping[str, Shapes], training: TrainingConfig, buffers: Buffers
) -> dict[str, Config]:
    """All five configs.

    Raises:
        CheckpointError: a tensor is missing from which a size is read, or the yaml describes
            another model than the tensors do.
    """
    try:
        configs = {
            "text_encoder": _text_encoder(shapes["text_encoder"]),
            "unet": _unet(shapes["unet"], training),
            "autoencoder": _autoencoder(shapes["autoencoder"], training, buffers),
        }
        _check_against(path, configs, training)
        _check_options(path, training, buffers)
        configs["scheduler"] = _scheduler(path, training, buffers)
    except CheckpointError:
        raise
    except KeyError as missing:
        raise CheckpointError(
            f"`{path}` has no tensor for diffusers' `{missing.args[0]}`, from which its config is "
            "read.\n  Pass a complete text-to-image checkpoint of the latent diffusion family."
        ) from None
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"`{path}`, or the yaml beside it, has a value of an unknown form ({error}).\n"
            "  Pass a complete text-to-image checkpoint of the latent diffusion family."
        ) from error
    return configs


def _text_encoder(shapes: Shapes) -> Config:
    vocab_size, d_model = shapes["model.embed_tokens.weight"]
    return {
        "_class_name": "LDMBertModel",
        "vocab_size": vocab_size,
        "d_model": d_model,
        "max_position_embeddings": shapes["model.embed_positions.weight"][0],
        "encoder_layers": _count(shapes, r"model\.layers\.(\d+)\."),
        "encoder_ffn_dim": shapes["model.layers.0.fc1.weight"][0],
        "encoder_attention_heads": HEADS,
        "head_dim": shapes["model.layers.0.self_attn.q_proj.weight"][0] // HEADS,
        "activation_function": "gelu",
        "scale_embedding": False,
        "pad_token_id": 0,
    }


def _unet(shapes: Shapes, training: TrainingConfig) -> Config:
    options = _params(training, "unet_config")
    levels = range(_count(shapes, r"down_blocks\.(\d+)\."))
    widths = [shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in levels]
    attends = [f"down_blocks.{level}.attentions.0.norm.weight" in shapes for level in levels]
    attends_up = [f"up_blocks.{level}.attentions.0.norm.weight" in shapes for level in levels]
    transformer = "mid_block.attentions.0.transformer_blocks"
    heads: int | list[int] = options.get("num_heads") or HEADS
    if options.get("num_head_channels", -1) not in (-1, None):
        heads = [width // options["num_head_channels"] for width in widths]
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": heads,
        "block_out_channels": widths,
        "cross_attention_dim": shapes[f"{transformer}.0.attn2.to_k.weight"][1],
        "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attends],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": shapes["conv_in.weight"][1],
        "layers_per_block": _count(shapes, r"down_blocks\.0\.resnets\.(\d+)\."),
        "norm_eps": 1e-5,
        "norm_num_groups": NORM_GROUPS,
        "out_channels": shapes["conv_out.weight"][0],
        "sample_size": training.get("image_size") or options.get("image_size") or SAMPLE_SIZE,
        "transformer_layers_per_block": _count(shapes, re.escape(transformer) + r"\.(\d+)\."),
        "up_block_types": ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in attends_up],
    }


def _autoencoder(shapes: Shapes, training: TrainingConfig, buffers: Buffers) -> Config:
    options = _params(training, "first_stage_config").get("ddconfig") or {}
    levels = _count(shapes, r"decoder\.up_blocks\.(\d+)\.")
    widths = [
        shapes[f"decoder.up_blocks.{level}.resnets.0.conv1.weight"][0]
        for level in reversed(range(levels))
    ]
    scaling_factor = training.get("scale_factor") or SCALING_FACTOR
    if "scale_factor" in buffers:  # measured on the training data, if the config says so
        scaling_factor = float(buffers["scale_factor"])
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": shapes.get("encoder.conv_in.weight", (0, 3))[1],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "layers_per_block": _count(shapes, r"decoder\.up_blocks\.0\.resnets\.(\d+)\.") - 1,
        "norm_num_groups": NORM_GROUPS,
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "sample_size": options.get("resolution", SAMPLE_SIZE * 2 ** (levels - 1)),
        "scaling_factor": scaling_factor,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _scheduler(path: Path, training: TrainingConfig, buffers: Buffers) -> Config:
    """CompVis' DDIM sampler: steps shifted by one, the first training step's alpha as the last one.

    Source: make_ddim_timesteps and make_ddim_sampling_parameters in
    ldm/modules/diffusionmodules/util.py.
    """
    schedule = training.get("beta_schedule", "linear")
    parameterization = training.get("parameterization", "eps")
    if schedule not in BETA_SCHEDULES or parameterization not in PREDICTION_TYPES:
        raise CheckpointError(
            f"The yaml beside `{path}` asks for beta_schedule {schedule!r} and parameterization "
            f"{parameterization!r}; accepted: {', '.join(BETA_SCHEDULES)} and "
            f"{', '.join(PREDICTION_TYPES)}.\n  Pass a checkpoint of the text-to-image family."
        )
    betas = {
        "num_train_timesteps": training.get("timesteps", TIMESTEPS),
        "beta_start": training.get("linear_start", LINEAR_START),
        "beta_end": training.get("linear_end", LINEAR_END),
        "beta_schedule": BETA_SCHEDULES[schedule],
    }
    if "betas" in buffers:  # what the model was really trained with
        betas = _stored_schedule(path, buffers["betas"])
    return {
        "_class_name": "DDIMScheduler",
        **betas,
        "clip_sample": False,
        "prediction_type": PREDICTION_TYPES[parameterization],
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "trained_betas": None,
    }


def _stored_schedule(path: Path, betas: NDArray[np.float32]) -> Config:
    start, end = (float(f"{value:.6g}") for value in (betas[0], betas[-1]))
    candidates = {
        "scaled_linear": np.linspace(start**0.5, end**0.5, len(betas)) ** 2,
        "linear": np.linspace(start, end, len(betas)),
    }
    for schedule, values in candidates.items():
        if np.allclose(betas, values, rtol=BETA_RTOL, atol=0):
            return {
                "num_train_timesteps": len(betas),
                "beta_start": start,
                "beta_end": end,
                "beta_schedule": schedule,
            }
    raise CheckpointError(
        f"The `betas` stored in `{path}` follow no known schedule; accepted: "
        f"{', '.join(candidates)}.\n  Pass a checkpoint of the text-to-image family."
    )


def _check_against(path: Path, configs: Mapping[str, Config], training: TrainingConfig) -> None:
    """Compare what the yaml claims with what the tensors are."""
    unet, text = _params(training, "unet_config"), _params(training, "cond_stage_config")
    autoencoder = _params(training, "first_stage_config").get("ddconfig") or {}
    claims = [
        ("text_encoder", "d_model", text.get("n_embed")),
        ("text_encoder", "encoder_layers", text.get("n_layer")),
        ("unet", "block_out_channels", _widths(unet, "model_channels", "channel_mult")),
        ("unet", "layers_per_block", unet.get("num_res_blocks")),
        ("unet", "cross_attention_dim", unet.get("context_dim")),
        ("unet", "in_channels", unet.get("in_channels")),
        ("unet", "out_channels", unet.get("out_channels")),
        ("autoencoder", "block_out_channels", _widths(autoencoder, "ch", "ch_mult")),
        ("autoencoder", "layers_per_block", autoencoder.get("num_res_blocks")),
        ("autoencoder", "in_channels", autoencoder.get("in_channels")),
        ("autoencoder", "latent_channels", autoencoder.get("z_channels")),
    ]
    conflicts = [
        f"  {component} {key}: {reprlib.repr(claim)} in the yaml, "
        f"{configs[component][key]} in the tensors\n"
        for component, key, claim in claims
        if claim is not None and claim != configs[component][key]
    ]
    if conflicts:
        raise CheckpointError(
            f"The yaml beside `{path}` describes another model:\n{''.join(conflicts)}"
            "  Put the yaml of this checkpoint there, or move it away."
        )


def _check_options(path: Path, training: TrainingConfig, buffers: Buffers) -> None:
    """Refuse options that are on and that no tensor would give away."""
    sections = {
        "unet_config": _params(training, "unet_config"),
        "ddconfig": _params(training, "first_stage_config").get("ddconfig") or {},
    }
    found = [
        f"{section}.{key}: {reprlib.repr(sections[section][key])}"
        for section, keys in SWITCHED_OFF.items()
        for key in keys
        if _is_on(sections[section].get(key))
    ]
    if training.get("given_betas") is not None and "betas" not in buffers:
        found.append(f"given_betas: {reprlib.repr(training['given_betas'])}")
    if found:
        raise CheckpointError(
            f"The yaml beside `{path}` has options that are not supported; they are accepted when "
            f"off:\n  {'; '.join(found)}\n"
            "  Pass a checkpoint of the text-to-image family, with its own yaml."
        )


def _is_on(value: Any) -> bool:
    return any(map(_is_on, value)) if isinstance(value, list) else bool(value)


def _params(training: TrainingConfig, section: str) -> dict[str, Any]:
    content = training.get(section)
    params = content.get("params") if isinstance(content, Mapping) else None
    return dict(params) if isinstance(params, Mapping) else {}


def _widths(options: Mapping[str, Any], base: str, multipliers: str) -> list[int] | None:
    if not isinstance(options.get(base), int) or not isinstance(options.get(multipliers), list):
        return None
    return [options[base] * multiplier for multiplier in options[multipliers]]


def _count(shapes: Shapes, pattern: str) -> int:
    """How many different indices the names that match `pattern` have."""
    return len({found[1] for name in shapes if (found := re.match(pattern, name))})
