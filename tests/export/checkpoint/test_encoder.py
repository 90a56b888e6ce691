"""The encoder half of the autoencoder, out of every published layout, and where it is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.numpy import load_file, save_file

from ldm_engine.checks.tolerances import relative_error
from ldm_engine.errors import CheckpointError, ConfigError
from ldm_export.checkpoint import compvis_configs, open_checkpoint
from ldm_export.loading import load_models, read_configs

TOLERANCE = 1e-5  # relative L2 in fp32; seen: 1e-6
WEIGHTS = "vqvae/diffusion_pytorch_model.safetensors"


def load(path: Path, with_encoder: bool = True) -> Any:
    checkpoint = open_checkpoint(path)
    return load_models(checkpoint, read_configs(checkpoint, with_encoder)).encoder


@pytest.fixture(scope="module")
def expected(configs: Any, weights: Any) -> Any:
    """An image and its latents, as diffusers' own class makes them."""
    arguments = {k: v for k, v in configs["autoencoder"].items() if not k.startswith("_")}
    module = AutoencoderKL(**arguments).eval()
    module.load_state_dict({n: torch.tensor(v) for n, v in weights["autoencoder"].items()})
    image = np.random.RandomState(0).uniform(size=(1, 64, 96, 3)).astype(np.float32)
    with torch.no_grad():
        pixels = 2 * torch.tensor(image).permute(0, 3, 1, 2) - 1
        mean = module.encode(pixels).latent_dist.mean
    return image, (mean * module.config.scaling_factor).numpy()


def assert_encodes(path: Path, expected: Any) -> None:
    image, latents = expected
    with paddle.no_grad():
        given = load(path).encode(paddle.to_tensor(image)).numpy()
    assert relative_error(given, latents) < TOLERANCE


@pytest.mark.parametrize("layout", ["diffusers_folder", "bin_folder", "compvis_folder"])
def test_it_encodes_as_diffusers_does(
    layout: str, request: Any, monkeypatch: Any, expected: Any
) -> None:
    monkeypatch.setattr(compvis_configs, "NORM_GROUPS", 8)  # of these narrow models
    assert_encodes(request.getfixturevalue(layout), expected)


def test_it_encodes_as_diffusers_does_from_paddlenlp(paddle_folder: Path, expected: Any) -> None:
    assert_encodes(paddle_folder, expected)


def edit(folder: Path, change: Any) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def drop(*prefixes: str) -> Any:
    def change(tensors: dict[str, Any]) -> None:
        for name in [n for n in tensors if n.startswith(prefixes)]:
            del tensors[name]

    return change


@pytest.mark.parametrize("prefixes", [("encoder.", "quant_conv."), ("encoder.",)])
def test_a_checkpoint_may_lack_it(diffusers_folder: Path, prefixes: tuple[str, ...]) -> None:
    edit(diffusers_folder, drop(*prefixes))
    assert load(diffusers_folder) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop("encoder.conv_in.weight"), "1 missing:\n    encoder.conv_in.weight"),
        (drop("quant_conv."), "2 missing:\n    quant_conv.bias"),
        (lambda t: t["encoder.conv_out.bias"].fill(np.nan), "with NaN or infinity:\n    encoder."),
        (lambda t: t.update({"encoder.x": np.zeros(1, np.float32)}), "unexpected:\n    encoder.x"),
    ],
)
def test_what_is_wrong_with_it_is_named_and_it_can_be_left_out(
    diffusers_folder: Path, change: Any, says: str
) -> None:
    edit(diffusers_folder, change)
    with pytest.raises(CheckpointError) as caught:
        load(diffusers_folder)
    assert says in str(caught.value)
    assert "--no-encoder leaves the encoder out" in str(caught.value)
    assert load(diffusers_folder, with_encoder=False) is None


def test_a_config_that_only_it_cannot_have(diffusers_folder: Path) -> None:
    path = diffusers_folder / "vqvae/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "in_channels": 4}))
    with pytest.raises(ConfigError, match=r"`in_channels` is 4.*--no-encoder leaves out"):
        load(diffusers_folder)
    assert load(diffusers_folder, with_encoder=False) is None


def test_a_compvis_yaml_is_held_to_its_tensors(compvis_folder: Path) -> None:
    options = {"ddconfig": {"in_channels": 1}}
    content = {"unet_config": {"params": {}}, "first_stage_config": {"params": options}}
    (compvis_folder / "model.yaml").write_text(json.dumps({"model": {"params": content}}))
    with pytest.raises(CheckpointError, match="in_channels: 1 in the yaml, 3 in the tensors"):
        open_checkpoint(compvis_folder)
