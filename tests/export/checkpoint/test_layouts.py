from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ldm_engine.errors import CheckpointError, InvalidArgumentError  # noqa: E402
from ldm_export.checkpoint import COMPONENTS, open_checkpoint  # noqa: E402

AssertState = Callable[[str, dict[str, Any]], None]


def test_diffusers_safetensors(
    diffusers_folder: Path, configs: dict[str, Any], assert_state: AssertState
) -> None:
    checkpoint = open_checkpoint(diffusers_folder)
    assert checkpoint.layout == "diffusers"
    assert checkpoint.path == diffusers_folder
    assert checkpoint.tokenizer.path == diffusers_folder / "tokenizer" / "vocab.txt"
    assert checkpoint.configs == {n: c for n, c in configs.items() if n != "tokenizer"}
    for component in COMPONENTS:
        assert_state(component, checkpoint.load(component))


def test_what_is_loaded_is_a_private_copy(diffusers_folder: Path) -> None:
    before = (diffusers_folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    for value in open_checkpoint(diffusers_folder).load("unet").values():
        value += 1
    assert (
        diffusers_folder / "unet" / "diffusion_pytorch_model.safetensors"
    ).read_bytes() == before


def test_diffusers_reads_it_too(diffusers_folder: Path) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel

    checkpoint = open_checkpoint(diffusers_folder)
    for component, folder, model_class in (
        ("text_encoder", "bert", LDMBertModel),
        ("unet", "unet", UNet2DConditionModel),
        ("autoencoder", "vqvae", AutoencoderKL),
    ):
        model = model_class.from_pretrained(diffusers_folder / folder)
        theirs = {name: value.numpy() for name, value in model.state_dict().items()}
        for name, value in checkpoint.load(component).items():
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_diffusers_bin_of_2022(bin_folder: Path, assert_state: AssertState) -> None:
    checkpoint = open_checkpoint(bin_folder)
    assert checkpoint.layout == "diffusers"
    for component in COMPONENTS:
        assert_state(component, checkpoint.load(component))


def test_sharded(diffusers_folder: Path, truth: Any, assert_state: AssertState) -> None:
    from safetensors.numpy import load_file, save_file

    folder = diffusers_folder / "unet"
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for part in (0, 1):
        shard = f"diffusion_pytorch_model-0000{part + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names[part::2]}, folder / shard)
        weight_map |= dict.fromkeys(names[part::2], shard)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert_state("unet", open_checkpoint(diffusers_folder).load("unet"))

    index.write_text(json.dumps({"weight_map": weight_map | {"ghost": weight_map[names[0]]}}))
    with pytest.raises(CheckpointError, match="ghost"):
        open_checkpoint(diffusers_folder).load("unet")
    index.write_text(json.dumps({"weight_map": {names[0]: "../../secrets"}}))
    with pytest.raises(CheckpointError, match="weight_map"):
        open_checkpoint(diffusers_folder).load("unet")


def test_paddlenlp(paddle_folder: Path, configs: dict[str, Any], assert_state: AssertState) -> None:
    checkpoint = open_checkpoint(paddle_folder)
    assert checkpoint.layout == "paddlenlp"
    for component in COMPONENTS:
        assert_state(component, checkpoint.load(component))
        assert (
            configs[component].items()
            >= {
                key: value
                for key, value in checkpoint.configs[component].items()
                if key != "init_class"
            }.items()
        )
    assert checkpoint.configs["text_encoder"]["d_model"] == configs["text_encoder"]["d_model"]


def test_paddle_reads_it_too(paddle_folder: Path) -> None:
    import paddle

    from ldm_export.checkpoint.files import open_tensors

    for folder in ("bert", "unet", "vqvae"):
        file = paddle_folder / folder / "model_state.pdparams"
        ours, theirs = open_tensors(file), paddle.load(str(file), return_numpy=True)
        assert sorted(ours) == sorted(theirs)
        for name, tensor in ours.items():
            np.testing.assert_array_equal(tensor.read(), theirs[name], err_msg=name)


def test_compvis(compvis_folder: Path, assert_state: AssertState) -> None:
    for path in (compvis_folder, compvis_folder / "model.ckpt"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.layout == "compvis"
        assert checkpoint.tokenizer.path == compvis_folder / "vocab.txt"
        for component in COMPONENTS:
            assert_state(component, checkpoint.load(component))


def test_compvis_with_the_tokenizer_that_transformers_saves_today(compvis_folder: Path) -> None:
    from transformers import BertTokenizer

    before = open_checkpoint(compvis_folder).tokenizer
    made = BertTokenizer(str(compvis_folder / "vocab.txt"))
    made.save_pretrained(compvis_folder / "tokenizer")
    (compvis_folder / "vocab.txt").unlink()
    after = open_checkpoint(compvis_folder).tokenizer
    assert after.path == compvis_folder / "tokenizer" / "tokenizer.json"
    assert (after.vocabulary, after.info) == (before.vocabulary, before.info)


def test_compvis_configs_fit_the_weights(compvis_folder: Path, configs: dict[str, Any]) -> None:
    found = open_checkpoint(compvis_folder).configs
    said_by_shapes = {
        "text_encoder": (
            "vocab_size",
            "d_model",
            "max_position_embeddings",
            "encoder_layers",
            "encoder_ffn_dim",
            "encoder_attention_heads",
            "head_dim",
        ),
        "unet": (
            "block_out_channels",
            "layers_per_block",
            "cross_attention_dim",
            "down_block_types",
            "up_block_types",
            "in_channels",
            "out_channels",
            "attention_head_dim",
        ),
        "autoencoder": (
            "block_out_channels",
            "layers_per_block",
            "latent_channels",
            "out_channels",
            "up_block_types",
        ),
    }
    for component, keys in said_by_shapes.items():
        for key in keys:
            assert found[component][key] == configs[component][key], (component, key)
    assert found["autoencoder"]["scaling_factor"] == 0.18215
    assert found["scheduler"] == {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "prediction_type": "epsilon",
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "trained_betas": None,
    }


YAML = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.0015
    linear_end: 0.0195
    timesteps: 500
    image_size: 16
    scale_factor: 0.5
    unet_config:
      params:
        model_channels: 16
        channel_mult: [1, 2, 2, 2]
        num_res_blocks: {blocks}
        num_heads: 4
    cond_stage_config:
      params: {{n_embed: 32, n_layer: {layers}}}
"""


def test_compvis_yaml_completes_the_config(compvis_folder: Path) -> None:
    (compvis_folder / "other.yaml").write_text("services: []")
    (compvis_folder / "text2img.yaml").write_text(YAML.format(blocks=2, layers=2))
    configs = open_checkpoint(compvis_folder).configs
    assert configs["unet"]["attention_head_dim"] == 4
    assert configs["unet"]["sample_size"] == 16
    assert configs["autoencoder"]["scaling_factor"] == 0.5
    scheduler = configs["scheduler"]
    assert (scheduler["beta_start"], scheduler["beta_end"]) == (0.0015, 0.0195)
    assert scheduler["num_train_timesteps"] == 500


def test_compvis_yaml_of_another_model(compvis_folder: Path) -> None:
    (compvis_folder / "text2img.yaml").write_text(YAML.format(blocks=3, layers=5))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(compvis_folder)
    assert "unet layers_per_block: 3 in the yaml, 2 in the tensors" in str(caught.value)
    assert "text_encoder encoder_layers: 5 in the yaml, 2 in the tensors" in str(caught.value)


@pytest.mark.parametrize("text", ["unet_config: " + "[" * 100_000, "unet_config: ]"])
def test_broken_yaml(compvis_folder: Path, text: str) -> None:
    (compvis_folder / "text2img.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"text2img\.yaml` .* cannot be read as yaml"):
        open_checkpoint(compvis_folder)


def test_compvis_tensors_of_an_unknown_form(tmp_path: Path, compvis: dict[str, Any]) -> None:
    state = {name: torch.from_numpy(value) for name, value in compvis.items()}
    state["cond_stage_model.transformer.token_emb.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "model.ckpt")
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(CheckpointError, match="a value of an unknown form"):
        open_checkpoint(tmp_path)


def test_compvis_yaml_of_an_unknown_form(compvis_folder: Path) -> None:
    file = compvis_folder / "text2img.yaml"
    file.write_text(YAML.format(blocks=2, layers=2).replace("timesteps: 500", "beta_schedule: [1]"))
    with pytest.raises(CheckpointError, match="a value of an unknown form"):
        open_checkpoint(compvis_folder)
    laughs = ["a0: &a0 [0]"]  # shown in full, 10^40 numbers
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 41)]
    file.write_text("\n".join(laughs) + YAML.format(blocks="*a40", layers=2))
    with pytest.raises(CheckpointError, match=r"unet layers_per_block: .* in the yaml"):
        open_checkpoint(compvis_folder)


@pytest.mark.parametrize("schedule", ["scaled_linear", "linear"])
def test_compvis_stored_betas_win(
    tmp_path: Path, compvis: dict[str, Any], schedule: str, random_checkpoint: ModuleType
) -> None:
    root = schedule == "scaled_linear"
    betas = np.linspace(0.01**0.5, 0.02**0.5, 50) ** 2 if root else np.linspace(0.01, 0.02, 50)
    state = {name: torch.from_numpy(value) for name, value in compvis.items()}
    state["betas"] = torch.tensor(betas, dtype=torch.float32)
    state["scale_factor"] = torch.tensor(0.25)
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    configs = open_checkpoint(tmp_path).configs
    assert configs["autoencoder"]["scaling_factor"] == 0.25
    assert (
        configs["scheduler"].items()
        >= {
            "num_train_timesteps": 50,
            "beta_start": 0.01,
            "beta_end": 0.02,
            "beta_schedule": schedule,
        }.items()
    )


def test_compvis_strangers_are_reported(tmp_path: Path, compvis: dict[str, Any]) -> None:
    state = {name: torch.from_numpy(value) for name, value in compvis.items()}
    state["model.diffusion_model.input_blocks.1.1.qkv.weight"] = torch.zeros(3)
    state["model.diffusion_model.label_emb.0.weight"] = torch.zeros(3)
    state["control_model.zero.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "model.ckpt")
    vocab = tmp_path / "elsewhere.txt"
    vocab.write_text("[PAD]\n")
    checkpoint = open_checkpoint(tmp_path, vocab=vocab)
    assert checkpoint.tokenizer.path == vocab
    unet = checkpoint.load("unet")
    assert "control_model.zero.weight" in unet
    assert "model.diffusion_model.label_emb.0.weight" in unet
    assert "down_blocks.0.attentions.0.qkv.weight" in unet


def test_unknown_component(diffusers_folder: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="`component` is 'vae'"):
        open_checkpoint(diffusers_folder).load("vae")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        open_checkpoint(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"found: notes\.txt"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("unet", "no folder for the component unet; accepted: `unet/`"),
        ("bert", "no folder for the component text_encoder; accepted: `bert/` or `text_encoder/`"),
        ("vqvae/config.json", "The component autoencoder has no config"),
        ("unet/diffusion_pytorch_model.safetensors", "no weights for the component unet"),
        ("scheduler/scheduler_config.json", "The scheduler has no config"),
        ("tokenizer/vocab.txt", "no vocabulary"),
    ],
)
def test_incomplete(diffusers_folder: Path, removed: str, message: str) -> None:
    import shutil

    target = diffusers_folder / removed
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(diffusers_folder)


def test_broken_config(diffusers_folder: Path) -> None:
    (diffusers_folder / "unet" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"unet/config\.json` cannot be read as JSON"):
        open_checkpoint(diffusers_folder)
    (diffusers_folder / "unet" / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="JSON object"):
        open_checkpoint(diffusers_folder)
    (diffusers_folder / "unet" / "config.json").write_text('{"a":' + "[" * 1_000_000)
    with pytest.raises(CheckpointError, match=r"unet/config\.json` cannot be read as JSON"):
        open_checkpoint(diffusers_folder)


def test_other_model_family(diffusers_folder: Path) -> None:
    config = diffusers_folder / "bert" / "config.json"
    for given, message in (
        (["CLIPTextModel"], "holds a CLIPTextModel;"),
        ("CLIPTextModel", "holds a CLIPTextModel;"),
        ({"a": 1}, "holds a model of the class {'a': 1};"),
        ([["LDMBertModel"]], r"holds a model of the class \['LDMBertModel'\];"),
    ):
        config.write_text(json.dumps({"architectures": given}))
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(diffusers_folder)
