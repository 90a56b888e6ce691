"""The programs of the tiny checkpoint as dygraph layers, and what was written of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import paddle
import pytest

from ldm_engine.bundle.model import ModelInfo
from ldm_export import exporter
from ldm_export.checkpoint import open_checkpoint
from ldm_export.formats.onnx import write_onnx
from ldm_export.loading import load_models, read_configs
from ldm_export.programs import ProgramSpec, build_programs


@dataclass(frozen=True)
class Tiny:
    """Programs by name, and the model that they are of."""

    model: ModelInfo
    programs: Mapping[str, ProgramSpec]


def load_tiny(checkpoint: Path) -> Tiny:
    """Fresh layers, as an export makes them."""
    opened = open_checkpoint(checkpoint)
    with paddle.utils.unique_name.guard():
        models = load_models(opened, read_configs(opened))
        model = exporter._model_info(opened, models, None)
        return Tiny(model, {p.name: p for p in build_programs(models, model)})


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path) -> Tiny:
    return load_tiny(tiny_checkpoint)


@pytest.fixture(scope="session", params=["fp32", "fp16"])
def written(request, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """How weights are stored, and a folder of folders with the ONNX files of every program."""
    folder = tmp_path_factory.mktemp(f"onnx-{request.param}")
    for name, spec in tiny.programs.items():
        (folder / name).mkdir()
        write_onnx(spec, folder / name, request.param)
    return request.param, folder
