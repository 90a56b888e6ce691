"""Fixtures: real checkpoints, bundles and pipelines, made once a run for all of its processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from ldm_engine import Bundle, LDMTextToImagePipeline, open_bundle
from ldm_engine.bundle.contract import PROGRAMS
from ldm_engine.machine.signals import STOP_SIGNALS
from ldm_export.checkpoint import open_checkpoint
from ldm_export.exporter import export_bundle
from random_checkpoint import write_random_checkpoint

ROOT = Path(__file__).parent.parent
SHAPES = ROOT / "examples" / "shapes" / "checkpoint"
DATA = ROOT / "tests" / "data"

settings.register_profile("unhurried", deadline=None)  # machines are busy sometimes
settings.load_profile("unhurried")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """No test is named after bytes: gzip's hold the time, and two workers would differ in names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the session's own, for it and for the processes that it starts."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LDM_ENGINE_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """A command that is called in this process leaves no signal ignored, which children inherit."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder in the first process of the run that needs it; the others wait for it."""
    run = tmp_path_factory.getbasetemp()
    shared = (run.parent if "PYTEST_XDIST_WORKER" in os.environ else run) / "shared"

    def make(name: str, write: Callable[[Path], object]) -> Path:
        target, part = shared / name, shared / f"{name}.part"
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.exists():
                shutil.rmtree(part, ignore_errors=True)  # of an attempt that failed
                write(part)
                part.rename(target)
        return target

    return make


@pytest.fixture(scope="session")
def decimal_comma(made_once: Callable[..., Path]) -> dict[str, str]:
    """The environment of a process whose numbers have a decimal comma."""

    def write(folder: Path) -> None:
        folder.mkdir()
        name = folder / "de_DE.UTF-8"
        subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", name], check=True)

    return {"LOCPATH": str(made_once("locales", write)), "LC_ALL": "de_DE.UTF-8"}


@pytest.fixture(scope="session")
def tiny_checkpoint(made_once: Callable[..., Path]) -> Path:
    """Seeded random weights in the published layout."""
    return made_once("checkpoints/tiny", lambda path: write_random_checkpoint(path, "tiny", seed=0))


def _export(checkpoint: Path, **options: Any) -> Callable[[Path], Bundle]:
    return lambda out: export_bundle(open_checkpoint(checkpoint), out, **options)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, made_once: Callable[..., Path]) -> Bundle:
    return open_bundle(made_once("bundles/tiny", _export(tiny_checkpoint, formats=["paddle"])))


@pytest.fixture(scope="session")
def tiny_onnx_bundle(tiny_checkpoint: Path, made_once: Callable[..., Path]) -> Bundle:
    """The same checkpoint as `tiny_bundle`, in the other formats."""
    export = _export(tiny_checkpoint, formats=["onnx", "openvino"])
    return open_bundle(made_once("bundles/tiny-onnx", export))


@pytest.fixture(scope="session")
def tiny_pipe(tiny_bundle: Bundle) -> LDMTextToImagePipeline:
    return LDMTextToImagePipeline.from_pretrained(tiny_bundle.path)


@pytest.fixture(scope="session")
def shapes_bundle(made_once: Callable[..., Path]) -> Bundle:
    """The shipped, trained checkpoint in every format and precision."""
    export = _export(SHAPES, formats=["paddle", "onnx", "openvino"], int8=True)
    return open_bundle(made_once("bundles/shapes", export))


@pytest.fixture(scope="session")
def shapes_fp16_bundle(made_once: Callable[..., Path]) -> Bundle:
    """The same with weights stored in fp16, as ONNX programs."""
    export = _export(SHAPES, formats=["onnx"], weights="fp16")
    return open_bundle(made_once("bundles/shapes-fp16", export))


@pytest.fixture(scope="session")
def shapes_pipe(shapes_bundle: Bundle) -> LDMTextToImagePipeline:
    return LDMTextToImagePipeline.from_pretrained(shapes_bundle.path)


def without_optional(bundle: Bundle) -> Bundle:
    """The bundle as an export with ``--no-encoder`` makes it."""
    return replace(bundle, programs={name: bundle.programs[name] for name in PROGRAMS})


@pytest.fixture
def copy_bundle(tiny_bundle: Bundle, tmp_path: Path) -> Callable[[], Path]:
    """Makes copies of the tiny bundle to be damaged."""

    def copy() -> Path:
        target = tmp_path / "copy"
        shutil.copytree(tiny_bundle.path, target)
        return target

    return copy
