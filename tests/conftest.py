"""Fixtures: real checkpoints, bundles and pipelines, small enough to be made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from ldm_engine import Bundle, LDMTextToImagePipeline
from ldm_export.checkpoint import open_checkpoint
from ldm_export.exporter import export_bundle
from random_checkpoint import write_random_checkpoint

ROOT = Path(__file__).parent.parent
SHAPES = ROOT / "examples" / "shapes" / "checkpoint"
DATA = ROOT / "tests" / "data"

settings.register_profile("unhurried", deadline=None)  # machines are busy sometimes
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the session's own, for it and for the processes that it starts."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LDM_ENGINE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded random weights in the published layout."""
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    write_random_checkpoint(path, "tiny", seed=0)
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    return export_bundle(open_checkpoint(tiny_checkpoint), out, formats=["paddle"])


@pytest.fixture(scope="session")
def tiny_onnx_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same checkpoint as `tiny_bundle`, in the other formats."""
    out = tmp_path_factory.mktemp("bundles") / "tiny-onnx"
    return export_bundle(open_checkpoint(tiny_checkpoint), out, formats=["onnx", "openvino"])


@pytest.fixture(scope="session")
def tiny_pipe(tiny_bundle: Bundle) -> LDMTextToImagePipeline:
    return LDMTextToImagePipeline.from_pretrained(tiny_bundle.path)


@pytest.fixture(scope="session")
def shapes_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped, trained checkpoint in every format and precision."""
    out = tmp_path_factory.mktemp("bundles") / "shapes"
    formats = ["paddle", "onnx", "openvino"]
    return export_bundle(open_checkpoint(SHAPES), out, formats=formats, int8=True)


@pytest.fixture(scope="session")
def shapes_pipe(shapes_bundle: Bundle) -> LDMTextToImagePipeline:
    return LDMTextToImagePipeline.from_pretrained(shapes_bundle.path)


@pytest.fixture
def copy_bundle(tiny_bundle: Bundle, tmp_path: Path) -> Callable[[], Path]:
    """Makes copies of the tiny bundle to be damaged."""
    import shutil

    def copy() -> Path:
        target = tmp_path / "copy"
        shutil.copytree(tiny_bundle.path, target)
        return target

    return copy
