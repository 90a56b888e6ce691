from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

SCRIPT = Path(__file__).parents[2] / "examples/random_checkpoint.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_random_checkpoint", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_published_layout_and_same_seed_same_bytes(example: ModuleType, tmp_path: Path) -> None:
    first = digests(example.write_random_checkpoint(tmp_path / "a", "tiny", seed=3))
    assert sorted(first) == [
        "bert/config.json",
        "bert/model.safetensors",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/added_tokens.json",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.txt",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vqvae/config.json",
        "vqvae/diffusion_pytorch_model.safetensors",
    ]
    assert digests(example.write_random_checkpoint(tmp_path / "b", "tiny", seed=3)) == first
    other = digests(example.write_random_checkpoint(tmp_path / "c", "tiny", seed=4))
    assert {name for name in first if first[name] != other[name]} == {
        name for name in first if name.endswith(".safetensors")
    }


def test_command_line_and_what_it_refuses(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert example.main([str(out), "--size", "tiny", "--dtype", "float16"]) == 0
    assert "tiny, seed 0, 1.9 MB" in capsys.readouterr().out
    before = digests(out)
    assert example.main([str(out), "--size", "tiny"]) == 1
    refused = capsys.readouterr().err
    assert "is not an empty folder" in refused
    assert "--force" in refused
    assert digests(out) == before
    assert example.main([str(out), "--size", "tiny", "--force"]) == 0
    assert digests(out) != before


def test_it_runs_as_a_script() -> None:
    shown = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "--size" in shown.stdout


def test_force_never_deletes_what_is_no_checkpoint(example: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="no checkpoint"):
        example.write_random_checkpoint(tmp_path, "tiny", force=True)
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_published_sizes(example: ModuleType) -> None:
    """Counts of the published weights, without writing 5.9 GB."""
    counts = {
        component: example.tensor_shapes(component, example.LARGE[component])
        for component in ("text_encoder", "unet", "autoencoder")
    }
    unet = counts["unet"]
    assert len(unet) == 686
    assert sum(int(np.prod(shape)) for shape in unet.values()) == 872_300_484
    assert unet["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"] == (320, 1280)
    text = {n: s for n, s in counts["text_encoder"].items() if not n.startswith("to_logits")}
    assert round(sum(int(np.prod(shape)) for shape in text.values()) / 1e6, 1) == 542.9


@pytest.mark.parametrize("size", [5, 100, 256, 2048, 30522])
def test_vocabulary(example: ModuleType, size: int) -> None:
    tokens = example.vocabulary(size)
    assert len(tokens) == len(set(tokens)) == size
    specials = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert specials <= set(tokens)
    if size > 2000:
        assert {token: tokens.index(token) for token in specials} == example.SPECIAL_IDS
        assert (tokens[1], tokens[999]) == ("[unused0]", "!")
        assert {"squirrel", "##a", "a", "9"} <= set(tokens)


def test_activations_stay_sane(example: ModuleType, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel

    folder = example.write_random_checkpoint(tmp_path / "a", "tiny")
    text_encoder = LDMBertModel.from_pretrained(folder / "bert").eval()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    autoencoder = AutoencoderKL.from_pretrained(folder / "vqvae").eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 256, (2, 16), generator=generator)
    latents = torch.randn(1, 4, 8, 8, generator=generator).repeat(2, 1, 1, 1)
    with torch.no_grad():
        text = text_encoder(ids)[0]
        noise_pred = unet(latents, 500, text).sample
        earlier = unet(latents, 10, text).sample
        image = autoencoder.decode(latents / 0.18215).sample
    for values in (text, noise_pred, image):
        assert torch.isfinite(values).all()
        assert 0.2 < values.std() < 3
    assert (noise_pred[0] - noise_pred[1]).std() > 0.1 * noise_pred.std()  # the prompt matters
    assert (noise_pred - earlier).std() > 0.05 * noise_pred.std()  # so does the time
    assert image[0].std(dim=(1, 2)).min() > 0.1  # the picture is not flat


def test_configs_are_plain_json(example: ModuleType) -> None:
    for configs in example.SIZES.values():
        assert json.loads(json.dumps(configs)) == configs
