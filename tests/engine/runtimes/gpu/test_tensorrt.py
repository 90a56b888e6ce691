"""TensorRT programs as far as they can be seen without a GPU: where they may run, and what for."""

from __future__ import annotations

import ctypes
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import paddle
import pytest
from paddle import inference

from conftest import without_optional
from ldm_engine.bundle.bundle import FileInfo, FormatInfo
from ldm_engine.bundle.formats import ENGINE_PLACE, program_file_names
from ldm_engine.bundle.manifest import open_bundle, save_manifest
from ldm_engine.errors import BundleError, LDMEngineError, RuntimeUnavailableError, ShapeError
from ldm_engine.machine.device import Device
from ldm_engine.machine.files import hash_file
from ldm_engine.machine.gpu import GPU
from ldm_engine.runtimes import base
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.choice import RUNTIMES, choose_runtime
from ldm_engine.runtimes.gpu import tensorrt
from ldm_engine.runtimes.gpu.tensorrt import TensorRTProgram, locate_engines
from ldm_engine.runtimes.gpu.tensorrt_build import (
    TensorRTBuild,
    difference,
    read_build,
    rebuild_command,
    shape_ranges,
)
from ldm_engine.runtimes.paddle import _configure

RUNTIME = RUNTIMES["tensorrt"]
GPU_0 = Device("gpu", 0)
HERE = {"gpu": "NVIDIA A10", "tensorrt": "10.5.0", "cuda": "12.6"}


@pytest.fixture
def build(tiny_bundle):
    own = tiny_bundle.model.default_size
    return TensorRTBuild("fp16", **HERE, batch=(1, 2, 4), size=(own, own, 2 * own))


@pytest.fixture
def bundle(tiny_bundle, build):
    """The tiny bundle, said to hold TensorRT programs too."""
    programs = {
        name: replace(
            info,
            formats={
                **info.formats,
                "tensorrt": FormatInfo(
                    (*program_file_names(name, "tensorrt"), f"{name}/tensorrt_0.trt"),
                    "fp16" if name in ("text_encoder", "unet") else "fp32",
                ),
            },
        )
        for name, info in tiny_bundle.programs.items()
    }
    return replace(tiny_bundle, programs=programs, format_facts={"tensorrt": build.facts()})


@pytest.fixture
def gpu_machine(monkeypatch):
    """A machine that lacks nothing for it."""
    gpu = GPU(0, HERE["gpu"], (8, 6), 24 << 30)
    monkeypatch.setattr(base, "find_gpu", lambda index: gpu)
    monkeypatch.setattr(base, "installed_version", lambda name: "3.3.1")
    monkeypatch.setattr(tensorrt, "missing_tensorrt", list)
    monkeypatch.setattr(tensorrt, "facts_here", lambda index: HERE)


def test_the_ranges_hold_what_the_engine_asks_for(tiny_bundle, build):
    ranges = {n: shape_ranges(n, tiny_bundle.model, build) for n in tiny_bundle.programs}
    model, own = tiny_bundle.model, tiny_bundle.model.sample_size
    assert ranges["unet"]["latents"] == (
        (1, 4, own, own),
        (2, 4, own, own),
        (4, 4, 2 * own, 2 * own),
    )
    # Without guidance as many rows as images, with it twice as many.
    assert [shape[0] for shape in ranges["unet"]["text_kv"]] == [1, 4, 8]
    assert ranges["unet"]["time_shift"] == ((1, model.time_shift_width),) * 3
    assert ranges["time_encoder"]["timesteps"] == ((1,), (50,), (1000,))
    for name, info in tiny_bundle.programs.items():
        assert list(ranges[name]) == [tensor.name for tensor in info.inputs]
        for tensor in info.inputs:
            for shape in ranges[name][tensor.name]:
                pairs = zip(shape, tensor.shape, strict=True)
                assert all(free in (-1, size) for size, free in pairs)


def test_what_they_cover(bundle):
    own, model = bundle.model.sample_size, bundle.model

    def covered(batch, rows, size):
        shapes = {
            "latents": (batch, 4, size, size),
            "time_shift": (1, model.time_shift_width),
            "text_kv": (rows, model.token_length, model.text_kv_width),
        }
        return RUNTIME.covers(bundle, "unet", shapes)

    assert covered(1, 1, own)
    assert covered(4, 8, 2 * own)
    assert not covered(5, 5, own)
    assert not covered(1, 1, 3 * own)


def test_each_program_computes_in_what_it_was_built_for(bundle):
    kinds = {name: RUNTIME.computes_in(bundle, name, "fp16") for name in bundle.programs}
    assert kinds == {
        "text_encoder": "fp16",
        "time_encoder": "fp32",
        "unet": "fp16",
        "vae_decoder": "fp32",
        "vae_encoder": "fp32",
    }


def test_shapes_that_they_were_not_built_for_are_refused(bundle):
    """On a predictor for the CPU: what is refused never gets as far as the engines."""
    config = inference.Config(*map(str, bundle.program_files("unet", "paddle")))
    _configure(config, RuntimeOptions(threads=1))
    unet = TensorRTProgram("unet", bundle, inference.create_predictor(config))
    model, own = bundle.model, bundle.model.sample_size
    shapes = {
        "latents": (5, 4, own, own),
        "time_shift": (1, model.time_shift_width),
        "text_kv": (5, model.token_length, model.text_kv_width),
        "noise_pred": (5, 4, own, own),
    }
    with pytest.raises(ShapeError, match=r"`latents`.*built for 1 to 4 images.*--max-batch 4"):
        unet.allocate(shapes)
    fewer = {n: (2, *s[1:]) if n != "time_shift" else s for n, s in shapes.items()}
    unet.allocate(fewer)
    with pytest.raises(ShapeError, match="latents"):
        unet.allocate({**fewer, "latents": (2, 3, own, own)})


@pytest.mark.parametrize(
    ("fact", "value", "message"),
    [
        ("gpu", "NVIDIA H200", "another GPU NVIDIA A10, and here is NVIDIA H200"),
        ("tensorrt", "10.9.0", "another TensorRT 10.5.0, and here is 10.9.0"),
        ("cuda", "12.9", "another CUDA 12.6, and here is 12.9"),
    ],
)
def test_another_machine_is_refused_with_the_command_that_builds_them_again(
    bundle, build, gpu_machine, monkeypatch, fact, value, message
):
    assert RUNTIME.mismatch(bundle, "fp16", GPU_0) is None
    monkeypatch.setattr(tensorrt, "facts_here", lambda index: {**HERE, fact: value})
    refusal = RUNTIME.mismatch(bundle, "fp16", GPU_0)
    assert message in refusal
    assert refusal.endswith(rebuild_command(bundle, build))
    assert difference(build, HERE, "again") is None


def test_the_command_builds_the_same_again(bundle, build):
    command = rebuild_command(bundle, build)
    own = bundle.model.default_size
    assert command == (
        f"ldm-engine export CHECKPOINT {bundle.path} --force --formats paddle,tensorrt "
        "--precision fp16 --min-batch 1 --opt-batch 2 --max-batch 4 "
        f"--min-size {own} --opt-size {own} --max-size {2 * own}"
    )
    assert rebuild_command(without_optional(bundle), build) == f"{command} --no-encoder"


def test_an_optional_program_may_be_there_in_other_formats_alone(bundle, build):
    encoder = bundle.programs["vae_encoder"]
    encoder = replace(encoder, formats={"paddle": encoder.formats["paddle"]})
    assert (
        read_build(replace(bundle, programs={**bundle.programs, "vae_encoder": encoder})) == build
    )


def test_a_folder_with_spaces_is_one_argument(bundle, build):
    spaced = replace(bundle, path=bundle.path / "my bundle")
    assert f"CHECKPOINT '{spaced.path}' --force" in rebuild_command(spaced, build)


def test_a_package_that_cannot_be_imported_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeUnavailableError, match=r"libnvinfer.*pip install 'tensorrt==10"):
        tensorrt.import_tensorrt()


class Probe:
    """``paddle.inference`` as far as TensorRT: versions, or what asking for them raises."""

    def __init__(self, wanted=(10, 5, 0), found=(0, 0, 0)):
        self.wanted, self.found = wanted, found

    def get_trt_compile_version(self):
        return self._tell(self.wanted)

    def get_trt_runtime_version(self):
        return self._tell(self.found)

    def _tell(self, answer):
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def probed(monkeypatch):
    """Has `facts_here` ask a probe, on a machine with a GPU."""

    def probe(**answers):
        monkeypatch.setattr(tensorrt, "import_inference", lambda install: Probe(**answers))

    monkeypatch.setattr(tensorrt, "find_gpu", lambda index: GPU(0, HERE["gpu"], (8, 6), 24 << 30))
    monkeypatch.setattr(base, "find_gpu", tensorrt.find_gpu)
    monkeypatch.setattr(base, "installed_version", lambda name: "3.3.1")
    monkeypatch.setattr(tensorrt, "missing_tensorrt", list)
    return probe


MISSING = RuntimeError("TensorRT dynamic library (libnvinfer.so) is not configured correctly")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            {"found": MISSING},
            r"built with TensorRT 10\.5\.0, cannot.*\(libnvinfer\.so\) is not conf",
        ),
        ({"wanted": MISSING}, r"Paddle [\d.]+ cannot use TensorRT here: TensorRT dynamic"),
        ({}, r"10\.5\.0, cannot use TensorRT here: it finds no libnvinfer\.so"),
    ],
)
def test_a_tensorrt_that_paddle_cannot_use_is_refused(bundle, probed, answers, message):
    probed(**answers)
    with pytest.raises(RuntimeUnavailableError, match=message) as caught:
        tensorrt.facts_here(0)
    assert "pip install 'tensorrt==10.*'" in str(caught.value)
    assert "LD_LIBRARY_PATH" in str(caught.value)
    choice = choose_runtime(bundle, precision="fp16", device="gpu:0")
    assert choice.runtime.name == "paddle"
    assert "LD_LIBRARY_PATH" in choice.reason


def test_a_paddle_without_tensorrt_is_refused(probed):
    probed(wanted=(0, 0, 0))
    with pytest.raises(RuntimeUnavailableError, match=r"has no TensorRT in it; .*package index"):
        tensorrt.facts_here(0)


def test_what_programs_depend_on(probed):
    probed(found=(10, 5, 0))
    assert tensorrt.facts_here(0) == {**HERE, "cuda": str(paddle.version.cuda())}


def test_libraries_of_the_package_are_loaded_for_all_to_see(tmp_path, monkeypatch):
    """Paddle looks for their functions in the whole process."""
    (tmp_path / "tensorrt.py").write_text("__version__ = '10.5.0.18'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    loaded = []

    def load(name, mode):
        loaded.append((name, mode))
        raise OSError("not to be found")  # as where pip has it and the loader does not

    monkeypatch.setattr(ctypes, "CDLL", load)
    tensorrt.import_tensorrt()
    del sys.modules["tensorrt"]  # which monkeypatch would bring back
    assert loaded == [
        ("libnvinfer.so.10", ctypes.RTLD_GLOBAL),
        ("libnvinfer_plugin.so.10", ctypes.RTLD_GLOBAL),
    ]


def test_auto_takes_them_in_their_precision_and_else_paddle(bundle, gpu_machine, tiny_bundle):
    def chosen(opened, precision):
        return choose_runtime(opened, precision=precision, device="gpu:0").runtime.name

    assert chosen(bundle, "fp16") == "tensorrt"
    assert chosen(bundle, "fp32") == "paddle"
    assert chosen(bundle, "bf16") == "paddle"
    assert chosen(tiny_bundle, "fp16") == "paddle"
    refusal = RUNTIME.mismatch(bundle, "fp32", GPU_0)
    assert "compute in fp16" in refusal
    assert "--precision fp32" in refusal


def test_a_bundle_without_them_is_refused(tiny_bundle):
    with pytest.raises(RuntimeUnavailableError, match="--formats paddle,tensorrt"):
        read_build(tiny_bundle)


def test_engines_are_found_where_the_bundle_is(tmp_path):
    engines = [tmp_path / "ü b" / "tensorrt_0.trt", tmp_path / "ü b" / "tensorrt_1.trt"]
    graph = json.dumps({"a": ENGINE_PLACE + "tensorrt_1.trt", "b": ENGINE_PLACE + "tensorrt_0.trt"})
    located = json.loads(locate_engines(graph, engines))
    assert located == {"a": str(engines[1]), "b": str(engines[0])}


@pytest.fixture
def stored(bundle, tmp_path):
    """The bundle in a folder of its own, with files in place of graphs and engines."""
    path = shutil.copytree(bundle.path, tmp_path / "bundle")
    files = dict(bundle.files)
    for info in bundle.programs.values():
        for name in info.formats["tensorrt"].files:
            (path / name).write_text(name)
            files[name] = FileInfo(hash_file(path / name), (path / name).stat().st_size)
    return replace(bundle, path=path, files=files)


def test_the_manifest_keeps_what_they_were_built_for(stored, build):
    save_manifest(stored)
    opened = open_bundle(stored.path)
    assert read_build(opened) == build
    assert opened.format_facts == stored.format_facts
    assert opened.formats == ("paddle", "tensorrt")
    assert opened.programs == stored.programs


def refused(bundle, message):
    """The bundle is opened, and its TensorRT programs are refused; on GPUs another is chosen."""
    save_manifest(bundle)
    opened = open_bundle(bundle.path)
    with pytest.raises(BundleError, match=message):
        read_build(opened)
    assert message in RUNTIME.mismatch(opened, "fp16", GPU_0)
    return opened


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": (1, 4, 2)}, "no range"),
        ({"batch": (0, 1, 2)}, "no range"),
        ({"batch": (1, 1, True)}, "no range"),
        ({"size": (64, 64)}, "no range"),
        ({"size": "64"}, "no range"),
        ({"gpu": 3}, "not text"),
        ({"precision": "int8"}, "cannot be in 'int8'"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(stored, gpu_machine, change, message):
    facts = {"tensorrt": {**stored.format_facts["tensorrt"], **change}}
    opened = refused(replace(stored, format_facts=facts), message)
    assert choose_runtime(opened, precision="fp16", device="gpu:0").runtime.name == "paddle"


@pytest.mark.parametrize("facts", [{}, {"onnx": {}}])
def test_programs_without_a_record_are_refused(stored, facts):
    refused(replace(stored, format_facts=facts), "'tensorrt' is missing")


@pytest.mark.parametrize("name", ["precision", "gpu", "tensorrt", "cuda", "batch", "size"])
def test_a_record_without_one_fact_is_refused(stored, name):
    facts = {n: f for n, f in stored.format_facts["tensorrt"].items() if n != name}
    refused(replace(stored, format_facts={"tensorrt": facts}), f"'{name}' is missing")


def test_programs_without_paddles_are_refused(stored):
    programs = {
        name: replace(info, formats={"tensorrt": info.formats["tensorrt"]})
        for name, info in stored.programs.items()
    }
    refused(replace(stored, programs=programs), "without Paddle's")


def test_a_program_in_a_precision_that_is_none_is_refused(stored):
    unet = stored.programs["unet"]
    formats = {**unet.formats, "tensorrt": replace(unet.formats["tensorrt"], weights="int8")}
    programs = {**stored.programs, "unet": replace(unet, formats=formats)}
    refused(replace(stored, programs=programs), "program unet cannot be in 'int8'")


@pytest.mark.parametrize(
    "names",
    [
        ("unet/tensorrt.json", "unet/tensorrt.pdiparams", "unet/tensorrt_1.trt"),
        ("unet/tensorrt.json",),
        ("unet/tensorrt.json", "unet/tensorrt.pdiparams", "vae_decoder/tensorrt_0.trt"),
    ],
)
def test_other_files_than_engines_are_refused(stored, names):
    unet = stored.programs["unet"]
    formats = {**unet.formats, "tensorrt": FormatInfo(names, "fp16")}
    programs = {**stored.programs, "unet": replace(unet, formats=formats)}
    save_manifest(replace(stored, programs=programs))
    with pytest.raises(BundleError, match="tensorrt files of unet"):
        open_bundle(stored.path)


@pytest.fixture
def opened(stored, monkeypatch):
    """The UNet as the runtime opens it, with Paddle's graph in place of one with engines."""
    unet = stored.path / "unet"
    for suffix in (".json", ".pdiparams"):
        shutil.copy(unet / f"inference{suffix}", unet / f"tensorrt{suffix}")

    def open_on_cpu(kind, bundle, program, files, precision, options):
        config = inference.Config(*map(str, files))
        _configure(config, options)
        return kind(program, bundle, inference.create_predictor(config))

    monkeypatch.setattr(tensorrt, "open_on_gpu", open_on_cpu)
    stored = replace(stored, files={}, manifest_stamp=None)
    return RUNTIME.open(stored, "unet", RuntimeOptions(threads=1))


def test_clones_compute_the_same(opened):
    """Paddle reads the graph again for each, which is a file that only its programs hold."""
    twin = opened.clone()
    model, own = opened._bundle.model, opened._bundle.model.sample_size
    results = []
    for program in (opened, twin, twin.clone()):
        program.allocate(
            {
                "latents": (1, 4, own, own),
                "time_shift": (1, model.time_shift_width),
                "text_kv": (2, model.token_length, model.text_kv_width),
                "noise_pred": (2, 4, own, own),
            }
        )
        for array in program.inputs.values():
            array[:] = np.random.RandomState(0).standard_normal(array.shape)
        program.run()
        results.append(program.outputs["noise_pred"].copy())
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_the_folder_goes_with_the_last_of_them(opened):
    folder = opened.source.path
    twin = opened.clone()
    opened.close()
    assert folder.is_dir()
    twin.close()
    assert not folder.exists()


def test_a_clone_that_cannot_be_made_is_an_error(opened):
    (opened.source.path / "tensorrt.json").unlink()
    with pytest.raises(LDMEngineError, match="could not clone the program unet: ") as caught:
        opened.clone()
    assert "\n" not in str(caught.value)
