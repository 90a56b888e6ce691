from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ldm_engine.errors import CheckpointError  # noqa: E402
from ldm_export.checkpoint import Checkpoint, open_checkpoint  # noqa: E402

YAML = "model: {{params: {{use_ema: {said}, unet_config: {{params: {{num_heads: 8}}}}}}}}\n"


class Diffusion(torch.nn.Module):
    """CompVis' `LitEma`, as much of it as names its buffers: those of a module without dots."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.model_ema = torch.nn.Module()
        self.model_ema.register_buffer("decay", torch.tensor(0.9999))
        self.model_ema.register_buffer("num_updates", torch.tensor(5, dtype=torch.int))
        for name, parameter in model.named_parameters():
            self.model_ema.register_buffer(name.replace(".", ""), parameter.detach() + 1)


def module_of(state: dict[str, Any]) -> torch.nn.Module:
    """A module with these parameters, nested as their names say."""
    root = torch.nn.Module()
    for name, value in state.items():
        inner = root
        *path, last = name.split(".")
        for part in path:
            if part not in inner._modules:
                inner.add_module(part, torch.nn.Module())
            inner = inner._modules[part]
        inner.register_parameter(last, torch.nn.Parameter(torch.from_numpy(value)))
    return root


@pytest.fixture
def averaged_folder(compvis_folder: Path, compvis: dict[str, Any]) -> Path:
    """A CompVis folder whose file has the average of every tensor of the UNet: 1 more."""
    wrapper = {n.removeprefix("model."): v for n, v in compvis.items() if n.startswith("model.")}
    state = {name: torch.from_numpy(value) for name, value in compvis.items()}
    trained = Diffusion(module_of(wrapper)).state_dict()
    assert set(trained) - set(state) == {n for n in trained if n.startswith("model_ema.")}
    torch.save({"state_dict": state | trained}, compvis_folder / "model.ckpt")
    return compvis_folder


def is_averaged(checkpoint: Checkpoint, truth: dict[str, Any]) -> bool:
    """Whether the UNet is the average of all tensors (True) or of none (False)."""
    state = checkpoint.load("unet")
    assert sorted(state) == sorted(truth["unet"])
    added = {bool(np.array_equal(v, truth["unet"][n] + np.float32(1))) for n, v in state.items()}
    assert len(added) == 1
    for component in ("text_encoder", "autoencoder"):
        for name, value in checkpoint.load(component).items():
            np.testing.assert_array_equal(value, truth[component][name])
    return added.pop()


@pytest.mark.parametrize(
    ("said", "ema", "averaged", "note"),
    [
        (None, None, True, r"averaged weights \(EMA, .*\) are read.*; --no-ema"),
        (None, False, False, r"weights as they were trained last are read, not the averaged"),
        (None, True, True, r"averaged weights \(EMA, .*\) are read"),
        ("true", None, True, r"averaged .* are read.*use_ema: true"),
        ("false", None, False, r"trained last are read.*use_ema: false"),
        ("false", True, True, r"averaged .* are read, not the weights as they were trained last\."),
        ("true", False, False, r"trained last are read"),
    ],
)
def test_which_weights_are_read(
    averaged_folder: Path,
    truth: dict[str, Any],
    said: str | None,
    ema: bool | None,
    averaged: bool,
    note: str,
) -> None:
    if said is not None:
        (averaged_folder / "model.yaml").write_text(YAML.format(said=said))
    checkpoint = open_checkpoint(averaged_folder, ema=ema)
    assert is_averaged(checkpoint, truth) is averaged
    (found,) = checkpoint.notes
    assert re.search(note, found)


def without_averages(folder: Path) -> None:
    stored = torch.load(folder / "model.ckpt")["state_dict"]
    kept = {name: value for name, value in stored.items() if not name.startswith("model_ema.")}
    torch.save({"state_dict": kept}, folder / "model.ckpt")


def test_without_averages(averaged_folder: Path, truth: dict[str, Any]) -> None:
    without_averages(averaged_folder)
    checkpoint = open_checkpoint(averaged_folder)
    assert not is_averaged(checkpoint, truth)
    assert checkpoint.notes == ()
    assert open_checkpoint(averaged_folder, ema=False).notes == ()
    with pytest.raises(CheckpointError, match=r"has no averaged weights .*`ema` asks for them"):
        open_checkpoint(averaged_folder, ema=True)
    (averaged_folder / "model.yaml").write_text(YAML.format(said="true"))  # a pruned checkpoint's
    (note,) = open_checkpoint(averaged_folder).notes
    assert "though the yaml beside it says (use_ema: true)" in note


@pytest.mark.parametrize("damage", ["gone", "another shape"])
def test_incomplete_averages(averaged_folder: Path, truth: dict[str, Any], damage: str) -> None:
    stored = torch.load(averaged_folder / "model.ckpt")["state_dict"]
    name = "model_ema.diffusion_modelout2weight"
    if damage == "gone":
        del stored[name]
    else:
        stored[name] = stored[name].reshape(-1)
    torch.save({"state_dict": stored}, averaged_folder / "model.ckpt")
    checkpoint = open_checkpoint(averaged_folder)
    assert not is_averaged(checkpoint, truth)
    (note,) = checkpoint.notes
    assert "incomplete: 1 of" in note
    assert "`model.diffusion_model.out.2.weight`" in note
    assert open_checkpoint(averaged_folder, ema=False).layout == "compvis"
    with pytest.raises(CheckpointError, match=r"out\.2\.weight` missing .*shape.*\n.*--no-ema"):
        open_checkpoint(averaged_folder, ema=True)
    (averaged_folder / "model.yaml").write_text(YAML.format(said="true"))
    with pytest.raises(CheckpointError, match=r"out\.2\.weight` missing"):
        open_checkpoint(averaged_folder)


def test_averages_under_names_with_dots(averaged_folder: Path, truth: dict[str, Any]) -> None:
    stored = torch.load(averaged_folder / "model.ckpt")["state_dict"]
    trained = [name for name in stored if name.startswith("model.diffusion_model.")]
    for name in trained:
        flat = "model_ema." + name.removeprefix("model.").replace(".", "")
        stored["model_ema." + name.removeprefix("model.")] = stored.pop(flat)
    torch.save({"state_dict": stored}, averaged_folder / "model.ckpt")
    assert is_averaged(open_checkpoint(averaged_folder), truth)


def test_averages_of_a_compiled_model(averaged_folder: Path, truth: dict[str, Any]) -> None:
    stored = torch.load(averaged_folder / "model.ckpt")["state_dict"]
    plain, compiled = "diffusion_model", "diffusion_model._orig_mod"
    renamed = {
        name.replace(f"model_ema.{plain}", f"model_ema.{compiled.replace('.', '')}").replace(
            f"model.{plain}.", f"model.{compiled}."
        ): value
        for name, value in stored.items()
    }
    torch.save({"state_dict": renamed}, averaged_folder / "model.ckpt")
    assert is_averaged(open_checkpoint(averaged_folder), truth)


def test_a_yaml_with_another_value(averaged_folder: Path) -> None:
    (averaged_folder / "model.yaml").write_text(YAML.format(said="'no'"))
    with pytest.raises(CheckpointError, match="`use_ema` is 'no'; true and false are accepted"):
        open_checkpoint(averaged_folder)
    laughs = ["a0: &a0 [0]"]  # shown in full, 10^40 numbers
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 41)]
    (averaged_folder / "model.yaml").write_text("\n".join([*laughs, YAML.format(said="*a40")]))
    with pytest.raises(CheckpointError, match="`use_ema` is "):
        open_checkpoint(averaged_folder)


def test_averages_in_a_folder_of_their_own(
    diffusers_folder: Path, truth: dict[str, Any], weights: dict[str, Any]
) -> None:
    """As diffusers' training scripts save them; its pipelines read `unet/`."""
    from shutil import copytree

    from safetensors.numpy import save_file

    with pytest.raises(CheckpointError, match=r"no averaged weights \(`unet_ema/`\)"):
        open_checkpoint(diffusers_folder, ema=True)
    assert open_checkpoint(diffusers_folder, ema=False).notes == ()
    copytree(diffusers_folder / "unet", diffusers_folder / "unet_ema")
    save_file(
        {name: value + np.float32(1) for name, value in weights["unet"].items()},
        diffusers_folder / "unet_ema" / "diffusion_pytorch_model.safetensors",
    )
    for ema, averaged in ((None, False), (False, False), (True, True)):
        checkpoint = open_checkpoint(diffusers_folder, ema=ema)
        assert is_averaged(checkpoint, truth) is averaged
        (note,) = checkpoint.notes
        assert ("the averaged weights in `unet_ema/` are read" in note) is averaged


def test_no_ema_where_that_is_a_variant(diffusers_folder: Path, truth: dict[str, Any]) -> None:
    from shutil import copyfile

    unet = diffusers_folder / "unet"
    plain = unet / "diffusion_pytorch_model.safetensors"
    copyfile(plain, unet / "diffusion_pytorch_model.non_ema.safetensors")
    with pytest.raises(CheckpointError, match="--variant non_ema"):
        open_checkpoint(diffusers_folder, ema=False)
    checkpoint = open_checkpoint(diffusers_folder, ema=False, variant="non_ema")
    assert not is_averaged(checkpoint, truth)
