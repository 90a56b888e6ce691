"""Small random checkpoints, and independent writers of every published layout."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).parents[3]
Weights = dict[str, dict[str, NDArray[np.float32]]]


@pytest.fixture(scope="session")
def random_checkpoint() -> ModuleType:
    """examples/random_checkpoint.py as a module; it asks diffusers for names and shapes."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    name = "ldm_engine_random_checkpoint"
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples/random_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def configs(random_checkpoint: ModuleType) -> dict[str, dict[str, Any]]:
    """The tiny configs with the published number of layers a block; 8 heads as CompVis assumes."""
    tiny = random_checkpoint.SIZES["tiny"]
    return {
        **tiny,
        "text_encoder": tiny["text_encoder"] | {"encoder_attention_heads": 8, "head_dim": 4},
        "unet": tiny["unet"] | {"layers_per_block": 2, "attention_head_dim": 8},
        "autoencoder": tiny["autoencoder"] | {"layers_per_block": 2},
    }


@pytest.fixture(scope="session")
def weights(random_checkpoint: ModuleType, configs: dict[str, dict[str, Any]]) -> Weights:
    """Everything a file holds, under diffusers' names: encoder half and `to_logits` included."""
    return {
        component: random_checkpoint.random_weights(component, configs[component], seed=7)
        for component in ("text_encoder", "unet", "autoencoder")
    }


@pytest.fixture(scope="session")
def truth(weights: Weights) -> Weights:
    """What a reader has to give."""
    return {
        component: {n: value for n, value in tensors.items() if not n.startswith("to_logits.")}
        for component, tensors in weights.items()
    }


@pytest.fixture
def assert_state(truth: Weights) -> Callable[[str, dict[str, NDArray[Any]]], None]:
    """Compare one component with the truth: names, shapes, dtype and every value."""

    def check(component: str, state: dict[str, NDArray[Any]]) -> None:
        assert sorted(state) == sorted(truth[component])
        for name, value in state.items():
            assert value.dtype == np.float32, name
            assert value.flags.c_contiguous, name
            assert value.flags.writeable, name
            np.testing.assert_array_equal(value, truth[component][name], err_msg=name)

    return check


@pytest.fixture
def diffusers_folder(
    tmp_path: Path, random_checkpoint: ModuleType, configs: dict[str, dict[str, Any]]
) -> Path:
    """The diffusers layout, safetensors."""
    return random_checkpoint.write_random_checkpoint(tmp_path / "hf", configs=configs, seed=7)


def to_2022_names(tensors: dict[str, Any]) -> dict[str, Any]:
    """The autoencoder's attention as diffusers spelled it in 2022."""
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    renamed = {}
    for name, value in tensors.items():
        for new_part, old_part in old.items():
            name = name.replace(new_part, old_part)
        renamed[name] = value
    return renamed


@pytest.fixture
def bin_folder(diffusers_folder: Path, weights: Weights) -> Path:
    """The diffusers layout of 2022: `.bin`, old attention names, `position_ids`."""
    torch = pytest.importorskip("torch")
    states = {c: {n: torch.from_numpy(v) for n, v in t.items()} for c, t in weights.items()}
    states["autoencoder"] = to_2022_names(states["autoencoder"])
    states["text_encoder"]["model.embed_positions.position_ids"] = torch.arange(77)
    for component, folder, stem, new in (
        ("text_encoder", "bert", "model", "pytorch_model"),
        ("unet", "unet", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("autoencoder", "vqvae", "diffusion_pytorch_model", "diffusion_pytorch_model"),
    ):
        (diffusers_folder / folder / f"{stem}.safetensors").unlink()
        torch.save(states[component], diffusers_folder / folder / f"{new}.bin")
    return diffusers_folder


@pytest.fixture(scope="session")
def linear(configs: dict[str, dict[str, Any]]) -> dict[str, set[str]]:
    """Names of all Linear weights of each component, asked of diffusers' own classes."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
        LDMBertConfig,
        LDMBertModel,
    )

    def options(component: str) -> dict[str, Any]:
        return {k: v for k, v in configs[component].items() if not k.startswith("_")}

    with torch.device("meta"):
        models = {
            "text_encoder": LDMBertModel(LDMBertConfig(**options("text_encoder"))),
            "unet": UNet2DConditionModel(**options("unet")),
            "autoencoder": AutoencoderKL(**options("autoencoder")),
        }
    return {
        component: {
            f"{name}.weight"
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        for component, model in models.items()
    }


def to_old_paddle_names(name: str) -> str:
    """The text encoder as PaddleNLP's first LDMBertModel spelled it."""
    for pattern, replacement in (
        (r"^model\.layer_norm\.", "final_layer_norm@"),
        (r"^model\.embed_tokens\.", "embeddings.word_embeddings."),
        (r"^model\.embed_positions\.", "embeddings.position_embeddings."),
        (r"^model\.layers\.", "encoder.layers."),
        (r"\.self_attn_layer_norm\.", ".norm1."),
        (r"\.final_layer_norm\.", ".norm2."),
        (r"\.fc([12])\.", r".linear\1."),
        ("@", "."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(params=["old", "new"])
def paddle_folder(
    request: pytest.FixtureRequest,
    diffusers_folder: Path,
    configs: dict[str, dict[str, Any]],
    linear: dict[str, set[str]],
    weights: Weights,
) -> Path:
    """The PaddleNLP layout, with the key names of either time."""
    paddle = pytest.importorskip("paddle")
    for component, folder in (("text_encoder", "bert"), ("unet", "unet"), ("autoencoder", "vqvae")):
        assert linear[component] <= set(weights[component])
        stored = {n: v.T if n in linear[component] else v for n, v in weights[component].items()}
        if request.param == "old":
            stored = to_2022_names(stored) if component == "autoencoder" else stored
            if component == "text_encoder":
                stored = {to_old_paddle_names(n): v for n, v in stored.items()}
                stored = {n: v for n, v in stored.items() if not n.startswith("to_logits")}
                config = {k: v for k, v in configs[component].items() if k != "architectures"}
                nested = {"init_args": [config | {"init_class": "LDMBertModel"}]}
                (diffusers_folder / folder / "config.json").unlink()
                (diffusers_folder / folder / "model_config.json").write_text(
                    json.dumps(nested | {"init_class": "LDMBertModelForMaskedLM"})
                )
        for file in (diffusers_folder / folder).glob("*.safetensors"):
            file.unlink()
        tensors = {name: paddle.to_tensor(np.ascontiguousarray(v)) for name, v in stored.items()}
        paddle.save(tensors, str(diffusers_folder / folder / "model_state.pdparams"))
    return diffusers_folder


def compvis_state(weights: Weights, levels: int, layers: int) -> dict[str, NDArray[np.float32]]:
    """The weights under CompVis' names, found by walking its modules block by block."""
    state = {}
    for names, component in (
        (compvis_unet_modules(weights["unet"], levels, layers), "unet"),
        (compvis_autoencoder_modules(levels, layers), "autoencoder"),
        (compvis_text_modules(weights["text_encoder"]), "text_encoder"),
    ):
        left = dict(weights[component])
        for old, new in names:
            for name in [name for name in left if name.startswith(new + ".")]:
                value = left.pop(name)
                if ".attn_1." in old and value.ndim == 2:
                    value = value[:, :, None, None]
                state[old + name.removeprefix(new)] = value
        assert not left, sorted(left)[:3]
    return state


RESNET = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)


def compvis_unet_modules(unet: dict[str, Any], levels: int, layers: int) -> list[tuple[str, str]]:
    """(CompVis module, diffusers module), in the order of CompVis' running block numbers."""
    root = "model.diffusion_model."
    pairs = [
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("input_blocks.0.0", "conv_in"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
        ("middle_block.1", "mid_block.attentions.0"),
    ]

    def resnet(old: str, new: str) -> None:
        pairs.extend((f"{old}.{a}", f"{new}.{b}") for a, b in RESNET)

    resnet("middle_block.0", "mid_block.resnets.0")
    resnet("middle_block.2", "mid_block.resnets.1")
    block = 1
    for level in range(levels):
        for layer in range(layers):
            resnet(f"input_blocks.{block}.0", f"down_blocks.{level}.resnets.{layer}")
            pairs.append((f"input_blocks.{block}.1", f"down_blocks.{level}.attentions.{layer}"))
            block += 1
        if level != levels - 1:
            pairs.append((f"input_blocks.{block}.0.op", f"down_blocks.{level}.downsamplers.0.conv"))
            block += 1
    block = 0
    for level in range(levels):
        for layer in range(layers + 1):
            parts = 1
            resnet(f"output_blocks.{block}.0", f"up_blocks.{level}.resnets.{layer}")
            attention = f"up_blocks.{level}.attentions.{layer}"
            if f"{attention}.norm.weight" in unet:
                pairs.append((f"output_blocks.{block}.{parts}", attention))
                parts += 1
            if layer == layers and level != levels - 1:
                upsampler = f"up_blocks.{level}.upsamplers.0.conv"
                pairs.append((f"output_blocks.{block}.{parts}.conv", upsampler))
            block += 1
    return [(root + old, new) for old, new in pairs]


def compvis_autoencoder_modules(levels: int, layers: int) -> list[tuple[str, str]]:
    """Both halves; CompVis numbers the levels of either from the image inwards."""
    pairs = [("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv")]
    parts = ("norm1", "conv1", "norm2", "conv2")
    for half in ("encoder", "decoder"):
        pairs += [(f"{half}.{name}", f"{half}.{name}") for name in ("conv_in", "conv_out")]
        pairs.append((f"{half}.norm_out", f"{half}.conv_norm_out"))
        for index in (0, 1):
            old, new = f"{half}.mid.block_{index + 1}", f"{half}.mid_block.resnets.{index}"
            pairs += [(f"{old}.{part}", f"{new}.{part}") for part in parts]
        for a, b in (
            ("norm", "group_norm"),
            ("q", "to_q"),
            ("k", "to_k"),
            ("v", "to_v"),
            ("proj_out", "to_out.0"),
        ):
            pairs.append((f"{half}.mid.attn_1.{a}", f"{half}.mid_block.attentions.0.{b}"))
        side, sampler = ("down", "downsample") if half == "encoder" else ("up", "upsample")
        for level in range(levels):
            new_level = level if half == "encoder" else levels - 1 - level
            for layer in range(layers + (half == "decoder")):
                old = f"{half}.{side}.{level}.block.{layer}"
                new = f"{half}.{side}_blocks.{new_level}.resnets.{layer}"
                pairs += [(f"{old}.{part}", f"{new}.{part}") for part in parts]
                pairs.append((f"{old}.nin_shortcut", f"{new}.conv_shortcut"))
            new = f"{half}.{side}_blocks.{new_level}.{sampler}rs.0.conv"
            pairs.append((f"{half}.{side}.{level}.{sampler}.conv", new))
    return [("first_stage_model." + old, new) for old, new in pairs]


def compvis_text_modules(text_encoder: dict[str, Any]) -> list[tuple[str, str]]:
    """x_transformers' alternating layers; the pairs of diffusers' convert_ldm_bert_checkpoint."""
    pairs = [
        ("token_emb", "model.embed_tokens"),
        ("pos_emb.emb", "model.embed_positions"),
        ("norm", "model.layer_norm"),
        ("to_logits", "to_logits"),
    ]
    layer = 0
    while f"model.layers.{layer}.fc1.weight" in text_encoder:
        attention, feed_forward = (f"attn_layers.layers.{2 * layer + i}" for i in (0, 1))
        new = f"model.layers.{layer}"
        pairs += [
            (f"{attention}.0", f"{new}.self_attn_layer_norm"),
            (f"{attention}.1.to_q", f"{new}.self_attn.q_proj"),
            (f"{attention}.1.to_k", f"{new}.self_attn.k_proj"),
            (f"{attention}.1.to_v", f"{new}.self_attn.v_proj"),
            (f"{attention}.1.to_out", f"{new}.self_attn.out_proj"),
            (f"{feed_forward}.0", f"{new}.final_layer_norm"),
            (f"{feed_forward}.1.net.0.0", f"{new}.fc1"),
            (f"{feed_forward}.1.net.2", f"{new}.fc2"),
        ]
        layer += 1
    return [("cond_stage_model.transformer." + old, new) for old, new in pairs]


@pytest.fixture(scope="session")
def compvis(weights: Weights) -> dict[str, NDArray[np.float32]]:
    """The state dict of a CompVis checkpoint with 4 levels and 2 residual blocks a level."""
    return compvis_state(weights, levels=4, layers=2)


def average_name(name: str) -> str:
    """As CompVis' LitEma names the average of a parameter of the model inside `model.`."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


@pytest.fixture
def compvis_folder(tmp_path: Path, compvis: dict[str, Any], random_checkpoint: ModuleType) -> Path:
    """A folder with model.ckpt, as training writes it, and vocab.txt."""
    torch = pytest.importorskip("torch")
    folder = tmp_path / "compvis"
    folder.mkdir()
    state = {name: torch.from_numpy(value) for name, value in compvis.items()}
    for name in [n for n in compvis if n.startswith("model.")][:120]:  # not all of them
        state[average_name(name)] = state[name] + 1
    state["model_ema.decay"] = torch.tensor(0.9999)
    state["logvar"] = torch.zeros(1000)
    state["first_stage_model.loss.logvar"] = torch.zeros(())
    checkpoint = {"epoch": 3, "global_step": 100, "state_dict": state, "lr_schedulers": []}
    torch.save(checkpoint, folder / "model.ckpt")
    (folder / "vocab.txt").write_text("\n".join(random_checkpoint.vocabulary(256)) + "\n")
    return folder
