from __future__ import annotations

import shutil
from dataclasses import replace

import paddle
import pytest

from ldm_engine.errors import (
    ArgumentTypeError,
    InvalidArgumentError,
    OutputError,
    RuntimeUnavailableError,
)
from ldm_engine.runtimes.choice import RUNTIMES
from ldm_export import exporter, tensorrt_programs
from ldm_export.checkpoint import open_checkpoint
from ldm_export.exporter import export_bundle
from ldm_export.target import check_target
from ldm_export.tensorrt_programs import BuildOptions, check_tensorrt, plan_build

BOTH = ("paddle", "tensorrt")
FACTS = {"gpu": "NVIDIA A10", "tensorrt": "10.5.0", "cuda": "12.6"}


@pytest.fixture
def gpu_machine(monkeypatch):
    """A machine that lacks nothing for it."""
    kind = type(RUNTIMES["tensorrt"])
    monkeypatch.setattr(kind, "missing", lambda self, precision, device: [])
    monkeypatch.setattr(tensorrt_programs, "facts_here", lambda index: FACTS)


def lacks_a_gpu():
    return bool(RUNTIMES["tensorrt"].missing("fp16", tensorrt_programs.DEVICE))


@pytest.mark.skipif(not lacks_a_gpu(), reason="this machine has all that it takes")
def test_without_a_gpu_it_is_refused_before_any_work(tiny_checkpoint, tmp_path):
    with pytest.raises(RuntimeUnavailableError, match=r"cannot be built here: .*; "):
        check_tensorrt(BOTH, BuildOptions())
    with pytest.raises(RuntimeUnavailableError, match="cannot be built here"):
        export_bundle(open_checkpoint(tiny_checkpoint), tmp_path / "out", formats=BOTH)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("formats", "options", "message"),
    [
        (("paddle",), BuildOptions(precision="fp16"), "without the format tensorrt"),
        (("paddle",), BuildOptions(max_size=512), "without the format tensorrt"),
        (("onnx", "tensorrt"), BuildOptions(), "Add paddle to --formats"),
        (BOTH, BuildOptions(precision="bf16"), "fp16 or fp32"),
        (BOTH, BuildOptions(precision="int8"), "fp16 or fp32"),
        (BOTH, BuildOptions(min_batch=0), "from 1 to 1024"),
        (BOTH, BuildOptions(min_batch=3), "2 among them"),
        (BOTH, BuildOptions(max_batch=1), "2 among them"),
        (BOTH, BuildOptions(min_batch=2, opt_batch=1), "at least the one before"),
        (BOTH, BuildOptions(max_batch=5000), "from 1 to 1024"),
        (BOTH, BuildOptions(min_size=512, max_size=256), "--min-size is 512, --max-size is 256"),
        (BOTH, BuildOptions(opt_size=-64), "-64"),
        (BOTH, BuildOptions(max_size=16384), "up to 8192"),
        (BOTH, BuildOptions(precision=""), "--precision is '';"),
    ],
)
def test_what_makes_no_sense_is_refused(gpu_machine, formats, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        check_tensorrt(formats, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(min_batch="x"), "--min-batch is 'x'; a whole number"),
        (BuildOptions(max_batch=2.5), "--max-batch is 2.5; a whole number"),
        (BuildOptions(opt_batch=True), "--opt-batch is True; a whole number"),
        (BuildOptions(max_size=64.5), "--max-size is 64.5; a whole number"),
        (BuildOptions(precision=16), "--precision is 16; the name"),
    ],
)
@pytest.mark.parametrize("formats", [("paddle",), BOTH])
def test_what_is_no_number_is_refused(formats, options, message):
    with pytest.raises(ArgumentTypeError, match=message):
        check_tensorrt(formats, options)


@pytest.mark.parametrize(
    ("options", "batch"),
    [
        (BuildOptions(), (1, 1, 4)),
        (BuildOptions(max_batch=8), (1, 1, 8)),
        (BuildOptions(opt_batch=8), (1, 8, 8)),
        (BuildOptions(min_batch=2), (2, 2, 4)),
        (BuildOptions(max_batch=2, opt_batch=2), (1, 2, 2)),
    ],
)
def test_batches_that_are_not_given(gpu_machine, options, batch):
    check_tensorrt(BOTH, options)
    assert options.batch() == batch


def test_sizes_are_the_models(gpu_machine, tiny_bundle):
    model = tiny_bundle.model
    own, multiple = model.default_size, model.pixel_multiple
    build = plan_build(BuildOptions(), model)
    assert (build.size, build.precision) == ((own, own, 2 * own), "fp16")
    assert {name: getattr(build, name) for name in FACTS} == FACTS
    assert plan_build(BuildOptions(max_size=own, precision="fp32"), model).size == (own, own, own)
    for sizes in ({"min_size": own + multiple}, {"max_size": own + 1}, {"opt_size": own - 1}):
        options = BuildOptions(**sizes)
        with pytest.raises(InvalidArgumentError, match=f"multiples of {multiple} pixels"):
            plan_build(options, model)


def test_a_bundle_with_engines_can_be_replaced(tiny_bundle, tmp_path):
    path = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    for name in ("tensorrt.json", "tensorrt.pdiparams", "tensorrt_0.trt", "tensorrt_12.trt"):
        (path / "unet" / name).touch()
    assert check_target(path, force=True) == path
    for name in ("tensorrt_.trt", "tensorrt_01.trt", "notes.trt"):
        (path / "unet" / name).touch()
        with pytest.raises(OutputError, match=name):
            check_target(path, force=True)
        (path / "unet" / name).unlink()


def test_the_gate_checks_them_on_the_gpu(gpu_machine, tiny_checkpoint, tmp_path, monkeypatch):
    """All but conversion and GPU is real: the gate asks the runtime tensorrt, which refuses."""
    builds = []

    def add(draft, build, progress):
        builds.append(build)
        programs = {
            name: replace(info, formats={**info.formats, "tensorrt": info.formats["paddle"]})
            for name, info in draft.programs.items()
        }
        return replace(draft, programs=programs)

    monkeypatch.setattr(exporter, "add_tensorrt", add)
    monkeypatch.setattr(
        type(RUNTIMES["tensorrt"]), "mismatch", lambda self, *_: "this is another machine"
    )
    with pytest.raises(
        RuntimeUnavailableError, match=r"tensorrt .* fp16 on gpu:0: this is another"
    ):
        export_bundle(open_checkpoint(tiny_checkpoint), tmp_path / "out", formats=BOTH)
    assert [build.gpu for build in builds] == ["NVIDIA A10"]
    assert not list(tmp_path.iterdir())


def test_references_are_computed_on_the_cpu(tiny_checkpoint, tmp_path, monkeypatch):
    """Dygraph would take a GPU where there is one, and round to TF32 there."""
    devices = []
    real = exporter.add_end_to_end

    def compute(*arguments):
        devices.append(paddle.get_device())
        return real(*arguments)

    monkeypatch.setattr(exporter, "add_end_to_end", compute)
    before = paddle.get_device()
    export_bundle(open_checkpoint(tiny_checkpoint), tmp_path / "out", formats=["paddle"])
    assert devices == ["cpu"]
    assert paddle.get_device() == before
