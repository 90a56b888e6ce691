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

DATA = Path(__file__).parents[2] / "data"
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
        open_checkpoint(diffusers_folder)
    index.write_text(json.dumps({"weight_map": weight_map}))
    (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="2 shards, of which 1 are not beside it"):
        open_checkpoint(diffusers_folder)


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


@pytest.mark.parametrize(
    ("section", "line", "refused"),
    [
        ("unet_config", "use_scale_shift_norm: true", True),
        ("unet_config", "disable_self_attentions: [false, false, true]", True),
        ("unet_config", "disable_self_attentions: [false, false, false]", False),
        ("unet_config", "use_checkpoint: true", False),
        ("first_stage_config", "ddconfig: {tanh_out: true}", True),
        ("first_stage_config", "ddconfig: {tanh_out: false}", False),
        ("first_stage_config", "ddconfig: 3", True),
    ],
)
def test_compvis_yaml_with_options_that_leave_no_trace(
    compvis_folder: Path, section: str, line: str, refused: bool
) -> None:
    params = {"unet_config": "{}", "first_stage_config": "{}", section: f"{{{line}}}"}
    sections = "".join(f"    {name}: {{params: {given}}}\n" for name, given in params.items())
    text = f"model:\n  params:\n{sections}"
    (compvis_folder / "text2img.yaml").write_text(text)
    if not refused:
        open_checkpoint(compvis_folder)
        return
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(compvis_folder)
    assert line.split(":")[0] in str(caught.value) or "unknown form" in str(caught.value)


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


def renamed(folder: Path, **names: str) -> None:
    """Give the weights of unet, bert and vqvae other names."""
    for component, name in names.items():
        (file,) = (folder / component).glob("*model*.safetensors")
        file.rename(folder / component / name)


STEM = "diffusion_pytorch_model"


def test_the_one_variant_that_is_there(
    diffusers_folder: Path, truth: Any, assert_state: AssertState
) -> None:
    renamed(diffusers_folder, unet=f"{STEM}.fp16.safetensors", bert="model.fp16.safetensors")
    for variant in (None, "fp16"):
        checkpoint = open_checkpoint(diffusers_folder, variant=variant)
        for component in COMPONENTS:
            assert_state(component, checkpoint.load(component))
        notes = " ".join(checkpoint.notes)
        if variant is None:
            assert len(checkpoint.notes) == 2
            assert "unet: `unet/` has no plain weights; those of the variant fp16 are read" in notes
        else:
            assert len(checkpoint.notes) == 1
            assert "`vqvae/` has no variant fp16; plain weights are read" in notes
    with pytest.raises(CheckpointError, match=r"are of the variant bf16; it has fp16\."):
        open_checkpoint(diffusers_folder, variant="bf16")


def test_diffusers_chooses_the_same(diffusers_folder: Path, weights: Any) -> None:
    """With a variant for some components only, and with both of some."""
    from diffusers import UNet2DConditionModel
    from safetensors.numpy import save_file

    unet = diffusers_folder / "unet"
    other = {name: value + np.float32(1) for name, value in weights["unet"].items()}
    save_file(other, unet / f"{STEM}.fp16.safetensors", metadata={"format": "pt"})
    for variant in (None, "fp16"):
        checkpoint = open_checkpoint(diffusers_folder, variant=variant)
        theirs = UNet2DConditionModel.from_pretrained(unet, variant=variant).state_dict()
        for name, value in checkpoint.load("unet").items():
            np.testing.assert_array_equal(value, theirs[name].numpy())
        note = next(note for note in checkpoint.notes if note.startswith("unet"))
        read, not_read = note.split(" not ")
        assert (".fp16." in read, ".fp16." in not_read) == (variant == "fp16", variant is None)
    unet_names = [f"{STEM}.{v}.safetensors" for v in ("fp16", "non_ema")]
    renamed_plain = unet / f"{STEM}.safetensors"
    renamed_plain.rename(unet / unet_names[1])
    with pytest.raises(CheckpointError, match="has the variants fp16, non_ema"):
        open_checkpoint(diffusers_folder)
    assert_other = open_checkpoint(diffusers_folder, variant="fp16").load("unet")
    np.testing.assert_array_equal(assert_other["conv_in.bias"], other["conv_in.bias"])


@pytest.mark.parametrize("written", ["now", "before"])
def test_sharded_variant(
    diffusers_folder: Path, weights: Any, assert_state: AssertState, written: str
) -> None:
    """As diffusers itself writes it now, and as it did before."""
    from diffusers import UNet2DConditionModel

    unet = diffusers_folder / "unet"
    model = UNet2DConditionModel.from_pretrained(unet)
    (unet / f"{STEM}.safetensors").unlink()
    model.save_pretrained(unet, variant="fp16", max_shard_size="200KB")
    index = unet / f"{STEM}.safetensors.index.fp16.json"
    shards = sorted(unet.glob("*-of-*"))
    assert len(shards) > 1
    if written == "before":
        text = index.read_text()
        for shard in shards:
            part = shard.name.removeprefix(f"{STEM}.fp16").removesuffix(".safetensors")
            text = text.replace(shard.name, f"{STEM}{part}.fp16.safetensors")
            shard.rename(unet / f"{STEM}{part}.fp16.safetensors")
        index.unlink()
        index = unet / f"{STEM}.safetensors.fp16.index.json"
        index.write_text(text)
    assert_state("unet", open_checkpoint(diffusers_folder).load("unet"))
    index.unlink()
    with pytest.raises(CheckpointError, match=r"index of the shards too, such as .*fp16\.json`"):
        open_checkpoint(diffusers_folder)


def test_two_kinds_of_weights(diffusers_folder: Path, weights: Any) -> None:
    from shutil import copyfile

    unet = diffusers_folder / "unet"
    (diffusers_folder / "pruned.ckpt").write_bytes(b"never opened")
    assert open_checkpoint(diffusers_folder).notes == (
        "The folders of the components are read, not `pruned.ckpt`.",
    )
    (diffusers_folder / "pruned.ckpt").unlink()
    (unet / f"{STEM}.bin").write_bytes(b"a pickle that is not even opened")
    (note,) = open_checkpoint(diffusers_folder).notes
    assert note == f"unet: `unet/{STEM}.safetensors` is read, not `{STEM}.bin`."
    copyfile(unet / f"{STEM}.safetensors", unet / f"{STEM}.bin")
    (unet / f"{STEM}.safetensors").unlink()
    (note,) = open_checkpoint(diffusers_folder).notes
    assert f"`{STEM}.bin` is a safetensors file by its contents" in note
    (unet / f"{STEM}.bin").write_text("<html>Sorry</html>")
    assert open_checkpoint(diffusers_folder).notes == ()


def test_two_folders_for_a_component(diffusers_folder: Path, assert_state: AssertState) -> None:
    from shutil import copytree

    other = diffusers_folder / "vae"
    (other).mkdir()
    (other / "config.json").write_text("{}")
    checkpoint = open_checkpoint(diffusers_folder)  # nothing to read there
    assert checkpoint.notes == ("autoencoder: `vqvae/` is read, not `vae/`.",)
    copytree(diffusers_folder / "vqvae", other, dirs_exist_ok=True)
    index_file = diffusers_folder / "model_index.json"
    index = json.loads(index_file.read_text())
    for changed, read, left in (
        (index, "vqvae", "vae"),
        (index | {"vqvae": [None, None], "vae": ["diffusers", "AutoencoderKL"]}, "vae", "vqvae"),
        (index | {"vae": ["diffusers", "AutoencoderKL"]}, "vqvae", "vae"),
        ({}, "vqvae", "vae"),
    ):
        index_file.write_text(json.dumps(changed))
        checkpoint = open_checkpoint(diffusers_folder)
        assert checkpoint.notes == (f"autoencoder: `{read}/` is read, not `{left}/`.",)
        assert_state("autoencoder", checkpoint.load("autoencoder"))


def test_several_checkpoint_files(compvis_folder: Path) -> None:
    file = compvis_folder / "model.ckpt"
    for name in ("model.pt", "model.pth", "model.safetensors"):  # contents decide
        file = file.rename(compvis_folder / name)
        assert open_checkpoint(compvis_folder).path == file
    torch.save({"state": {0: torch.zeros(1)}}, compvis_folder / "optimizer.pt")
    checkpoint = open_checkpoint(compvis_folder)
    assert checkpoint.path == file
    assert "`optimizer.pt` beside it" in checkpoint.notes[0]
    (compvis_folder / "last.ckpt").symlink_to(file)
    assert open_checkpoint(compvis_folder).path.resolve() == file
    (compvis_folder / "last.ckpt").unlink()
    (compvis_folder / "last.ckpt").write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"several checkpoints: `last\.ckpt`, `model\.saf"):
        open_checkpoint(compvis_folder)
    file.unlink()
    (compvis_folder / "last.ckpt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"several files and no text-to-image checkpoint"):
        open_checkpoint(compvis_folder)


def test_a_file_has_no_variants(compvis_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="one file and has no variants; `variant` is 'fp16'"):
        open_checkpoint(compvis_folder, variant="fp16")


def test_a_bundle_is_no_checkpoint() -> None:
    for path in (DATA / "bundle-v1", DATA / "bundle-v1" / "bundle.json"):
        with pytest.raises(CheckpointError, match="is a bundle: it has been exported already"):
            open_checkpoint(path)


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


@pytest.mark.parametrize(
    ("name", "given"),
    [("unet", "UNet3DConditionModel"), ("vqvae", "VQModel"), ("bert", "BertModel")],
)
def test_another_class_in_the_index(diffusers_folder: Path, name: str, given: str) -> None:
    index = {"_class_name": "LDMTextToImagePipeline", name: ["diffusers", given]}
    (diffusers_folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=rf"model_index\.json` holds a {given};"):
        open_checkpoint(diffusers_folder)


@pytest.mark.parametrize(
    ("vqvae", "says"),
    [
        ("diffusion_paddle_model.safetensors", {"format": "pd"}),  # as ppdiffusers 0.29 writes it
        ("diffusion_pytorch_model.safetensors", None),  # the UNet's shapes tell
        ("diffusion_pytorch_model.safetensors", {"format": "pt"}),  # not true of the UNet either
    ],
)
def test_safetensors_of_paddle(
    diffusers_folder: Path,
    linear: dict[str, set[str]],
    weights: Any,
    assert_state: AssertState,
    vqvae: str,
    says: dict[str, str] | None,
) -> None:
    """All square, the autoencoder's Linear weights give no sign of how they are stored."""
    from safetensors.numpy import save_file

    for component, folder, name, metadata in (
        ("text_encoder", "bert", "model.safetensors", {"format": "np"}),
        ("unet", "unet", vqvae, says),
        ("autoencoder", "vqvae", vqvae, says),
    ):
        next((diffusers_folder / folder).glob("*.safetensors")).unlink()
        stored = {
            n: np.ascontiguousarray(v.T) if n in linear[component] else v
            for n, v in weights[component].items()
        }
        save_file(stored, diffusers_folder / folder / name, metadata=metadata)
    checkpoint = open_checkpoint(diffusers_folder)
    assert checkpoint.layout == ("paddlenlp" if "paddle" in vqvae else "diffusers")
    for component in COMPONENTS:
        assert_state(component, checkpoint.load(component))


def test_paddle_weights_that_were_never_turned(
    diffusers_folder: Path, weights: Any, assert_state: AssertState
) -> None:
    """torch's tensors under Paddle's file name: the shapes are right, not the name."""
    from safetensors.numpy import save_file

    folder = diffusers_folder / "unet"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    file = folder / "diffusion_paddle_model.safetensors"
    save_file(weights["unet"], file, metadata={"format": "pd"})
    assert_state("unet", open_checkpoint(diffusers_folder).load("unet"))

    mixed = dict(weights["unet"])
    for name in ("time_embedding.linear_1.weight", "time_embedding.linear_2.weight"):
        mixed[name] = np.ascontiguousarray(mixed[name].T)
    save_file(mixed, file, metadata={"format": "pd"})
    with pytest.raises(CheckpointError, match=r"linear_1\.weight` as \[in, out\]"):
        open_checkpoint(diffusers_folder).load("unet")


@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [
        ("state_dict", "module."),
        ("model", "_orig_mod."),
        ("model_state_dict", "_forward_module._orig_mod."),
        ("module", ""),
        ("state_dict", "model._orig_mod."),
        (None, "net.model.module."),
        ("ema", "module.module."),
        (None, "_orig_mod.module."),
    ],
)
def test_wrapped(
    bin_folder: Path, weights: Any, assert_state: AssertState, wrapper: str | None, prefix: str
) -> None:
    state = {prefix + name: torch.from_numpy(value) for name, value in weights["unet"].items()}
    saved = {"epoch": 3, "optimizer": {"state": {0: {"step": torch.tensor(1)}}}, wrapper: state}
    torch.save(saved if wrapper else state, bin_folder / "unet/diffusion_pytorch_model.bin")
    assert_state("unet", open_checkpoint(bin_folder).load("unet"))


@pytest.mark.parametrize("prefix", ["model._orig_mod.", "model.", "_forward_module.model.model."])
def test_all_components_of_a_training_module(
    compvis_folder: Path, compvis: Any, weights: Any, assert_state: AssertState, prefix: str
) -> None:
    state = {prefix + name: torch.from_numpy(value) for name, value in compvis.items()}
    state[f"{prefix}betas"] = torch.linspace(0.01, 0.02, 50)
    torch.save({"state_dict": state}, compvis_folder / "model.ckpt")
    checkpoint = open_checkpoint(compvis_folder)
    assert checkpoint.configs["scheduler"]["num_train_timesteps"] == 50
    for component in COMPONENTS:
        assert_state(component, checkpoint.load(component))


@pytest.mark.parametrize("with_head", [True, False])
@pytest.mark.parametrize("prefix", ["", "model.", "model._orig_mod.", "bert."])
def test_a_text_encoder_in_a_training_module(
    bin_folder: Path, weights: Any, assert_state: AssertState, prefix: str, with_head: bool
) -> None:
    """Its own names begin with `model.`, all of them if the head was left out."""
    state = {
        prefix + name: torch.from_numpy(value)
        for name, value in weights["text_encoder"].items()
        if with_head or not name.startswith("to_logits")
    }
    torch.save(state, bin_folder / "bert/pytorch_model.bin")
    assert_state("text_encoder", open_checkpoint(bin_folder).load("text_encoder"))


def test_wrapped_in_the_middle(
    compvis_folder: Path, compvis: dict[str, Any], assert_state: AssertState
) -> None:
    """Only a part of the model was compiled, and all of it trained in parallel."""
    state = {
        "module."
        + name.replace("model.diffusion_model.", "model.diffusion_model._orig_mod."): value
        for name, value in compvis.items()
    }
    torch.save(
        {"state_dict": {name: torch.from_numpy(value) for name, value in state.items()}},
        compvis_folder / "model.ckpt",
    )
    for component in COMPONENTS:
        assert_state(component, open_checkpoint(compvis_folder).load(component))


def test_wrapped_shards(diffusers_folder: Path, weights: Any, assert_state: AssertState) -> None:
    from safetensors.numpy import save_file

    folder = diffusers_folder / "unet"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    state = {f"_orig_mod.{name}": value for name, value in weights["unet"].items()}
    shard = "diffusion_pytorch_model-00001-of-00001.safetensors"
    save_file(state, folder / shard)
    index = {"weight_map": dict.fromkeys(state, shard)}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert_state("unet", open_checkpoint(diffusers_folder).load("unet"))


def test_what_paddle_wraps(
    diffusers_folder: Path, weights: Any, linear: Any, assert_state: AssertState
) -> None:
    paddle = pytest.importorskip("paddle")
    folder = diffusers_folder / "unet"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    state = {
        f"module.{n}": paddle.to_tensor(np.ascontiguousarray(v.T if n in linear["unet"] else v))
        for n, v in weights["unet"].items()
    }
    paddle.save({"model": state, "epoch": 3}, str(folder / "model_state.pdparams"))
    assert_state("unet", open_checkpoint(diffusers_folder).load("unet"))


def test_two_state_dicts_in_one_file(bin_folder: Path) -> None:
    file = bin_folder / "unet/diffusion_pytorch_model.bin"
    torch.save({"model": {"a": torch.zeros(1)}, "ema": {"a": torch.zeros(1)}}, file)
    with pytest.raises(CheckpointError, match="several state dicts: `model`, `ema`"):
        open_checkpoint(bin_folder).load("unet")
    torch.save({"a.b": torch.zeros(1), "a._orig_mod.b": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"two tensors `a\.b`"):
        open_checkpoint(bin_folder).load("unet")
