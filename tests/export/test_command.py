"""The options of ``ldm-engine export`` that choose what is read, and what it prints of choices."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from ldm_engine.errors import CheckpointError, LDMEngineError
from ldm_export.command import export


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """One with an fp16 UNet and averages, whose export ends early: its parts do not fit."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    shutil.copytree(folder / "unet", folder / "unet_ema")
    (weights,) = (folder / "unet").glob("*.safetensors")
    weights.rename(weights.with_suffix(".fp16.safetensors"))
    config = json.loads((folder / "bert/config.json").read_text())
    (folder / "bert/config.json").write_text(json.dumps(config | {"d_model": 8, "hidden_size": 8}))
    return folder


def printed(*arguments: str | Path) -> tuple[str, BaseException | None]:
    """What an export that fails prints before, and how it fails."""
    done = CliRunner().invoke(export, [*map(str, arguments), "--formats", "paddle"])
    assert isinstance(done.exception, LDMEngineError)
    return done.output, done.exception


def test_choices_are_printed_once(checkpoint: Path, tmp_path: Path) -> None:
    output, _ = printed(checkpoint, tmp_path / "out")
    assert output.count("Note: ") == 2
    assert output.count("those of the variant fp16 are read") == 1
    assert output.count("`unet/` is read, not the averaged weights") == 1
    output, _ = printed(checkpoint, tmp_path / "out", "--ema")
    assert output.count("Note: ") == 1
    assert "the averaged weights in `unet_ema/` are read" in output


def test_options_reach_the_reader(checkpoint: Path, tmp_path: Path) -> None:
    for options, message in (
        (["--variant", "bf16"], "are of the variant bf16; it has fp16"),
        (["--ema", "--variant", "fp16"], "are of the variant fp16; it has no variants"),
    ):
        output, error = printed(checkpoint, tmp_path / "out", *options)
        assert isinstance(error, CheckpointError)
        assert message in str(error)
        assert not output
