"""What can be said of ONNX Runtime on a GPU without one: options, fixed shapes, bound buffers.

Sessions and buffers here are real, with the CPU's provider and memory in place of the GPU's.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest

from ldm_engine.bundle.contract import TABLE
from ldm_engine.checks.tolerances import relative_error
from ldm_engine.errors import BundleError, LDMEngineError, RuntimeUnavailableError
from ldm_engine.runtimes import base, by_shape
from ldm_engine.runtimes import onnxruntime as library
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.choice import RUNTIMES
from ldm_engine.runtimes.gpu.onnx_half import FP32_OPERATORS, halve_program
from ldm_engine.runtimes.gpu.onnxruntime import (
    CPU,
    CUDA,
    TENSORRT,
    ONNXRuntimeGPUProgram,
    Plan,
    Sessions,
    cuda_plan,
    keep_engines,
    reach_gpu,
    tensorrt_plan,
)
from ldm_export.checkpoint import open_checkpoint
from ldm_export.exporter import export_bundle
from unet_arrays import fill, shapes

ON_CPU = Plan(("cpu", 0), ((CPU, {}),))
FP32, FP16 = 1e-4, 2e-2  # relative L2 of a program's outputs, the gate's own


def test_sessions_with_cuda_compute_in_fp32_and_run_the_unet_as_a_graph():
    for program in TABLE:
        plan = cuda_plan(program, 2, "fp32")
        assert not plan.in_fp16
        assert plan.device == ("cuda", 2)
        ((name, options),) = plan.providers
        assert (name, options["device_id"], options["use_tf32"]) == (CUDA, 2, 0)
        assert options["enable_cuda_graph"] == 0
        assert (plan.graph_providers is not None) == (program == "unet")
    ((name, options),) = cuda_plan("unet", 0, "fp16").graph_providers
    assert options["enable_cuda_graph"] == 1


def test_sessions_with_tensorrt_fall_back_to_cuda():
    plan = tensorrt_plan("unet", 1, "name")
    assert plan.cache == "name"
    (first, options), (second, _) = plan.providers
    assert (first, second) == (TENSORRT, CUDA)
    assert options["device_id"] == 1
    assert options["trt_fp16_enable"] is True
    assert options["trt_layer_norm_fp32_fallback"] is True
    assert options["trt_cuda_graph_enable"] is False
    assert plan.graph_providers[0][1]["trt_cuda_graph_enable"] is True
    assert not [name for name in options if "cache" in name]


def test_engines_are_kept_in_the_folder_given(tmp_path):
    plan = tensorrt_plan("unet", 0, "name")
    (_, options), second = keep_engines(plan.providers, tmp_path)
    assert options["trt_engine_cache_enable"] is True
    assert options["trt_engine_cache_path"] == str(tmp_path)
    assert options["trt_fp16_enable"] is True
    assert second == plan.providers[1]


def test_each_shapes_have_a_folder_of_engines(make, tiny_onnx_bundle, tmp_path, monkeypatch):
    """TensorRT's engines are sealed there; a damaged one is gone when the shapes come again."""
    monkeypatch.setenv("LDM_ENGINE_CACHE", str(tmp_path))
    sessions = make(plan=replace(ON_CPU, cache="version-files-gpu"))._sessions
    opened = []

    def open_session(shapes, providers, folder):
        opened.append(folder)
        (folder / "TensorrtExecutionProvider_0.engine").write_bytes(b"engine")
        return real(shapes, providers, None)

    real = sessions._open
    monkeypatch.setattr(sessions, "_open", open_session)
    for batch in (1, 2):
        sessions.get(shapes(tiny_onnx_bundle, batch, batch))
    assert len(set(opened)) == 2
    for folder in opened:
        assert folder.parent == tmp_path / "ldm-engine" / "onnxruntime-tensorrt"
        assert folder.name.startswith("version-files-gpu-")
        assert len(list(folder.glob("*.engine.sha256"))) == 1
    (opened[0] / "TensorrtExecutionProvider_0.engine").write_bytes(b"damaged")
    twin = Sessions(tiny_onnx_bundle, "unet", replace(ON_CPU, cache="version-files-gpu"), 1)
    engines = []
    monkeypatch.setattr(
        twin,
        "_open",
        lambda s, p, folder: engines.append([*folder.glob("*.engine")]) or real(s, p, None),
    )
    for batch in (1, 2):
        twin.get(shapes(tiny_onnx_bundle, batch, batch))
    assert [len(found) for found in engines] == [0, 1]


@pytest.fixture
def make(tiny_onnx_bundle):
    """Makes programs with buffers of their own, in the CPU's memory."""

    def open_program(name="unet", plan=ON_CPU, size=1):
        return ONNXRuntimeGPUProgram(
            name, tiny_onnx_bundle, Sessions(tiny_onnx_bundle, name, plan, size)
        )

    return open_program


@pytest.fixture
def expected(tiny_onnx_bundle):
    """What ONNX Runtime gives on the CPU with free shapes."""
    program = RUNTIMES["onnxruntime"].open(tiny_onnx_bundle, "unet", RuntimeOptions(threads=1))

    def compute(batch, rows, seed=0, size=8):
        program.allocate(shapes(tiny_onnx_bundle, batch, rows, size))
        fill(program, seed)
        program.run()
        return program.outputs["noise_pred"].copy()

    return compute


def test_shapes_are_fixed_and_outputs_right(make, tiny_onnx_bundle, expected):
    unet = make()
    for batch, rows, size in ((1, 2, 8), (3, 3, 8), (2, 4, 16), (1, 2, 8)):
        unet.allocate(shapes(tiny_onnx_bundle, batch, rows, size))
        inputs = {i.name: i.shape for i in unet._bound.session.get_inputs()}
        assert inputs["latents"] == [batch, 4, size, size]
        assert inputs["text_kv"][0] == rows
        fill(unet)
        output = unet.outputs["noise_pred"]
        unet.run()
        assert unet.outputs["noise_pred"] is output
        assert relative_error(output, expected(batch, rows, size=size)) < FP32


@pytest.mark.parametrize("name", ["text_encoder", "time_encoder", "vae_decoder", "vae_encoder"])
def test_the_other_programs_take_fixed_shapes_too(make, tiny_onnx_bundle, name):
    model, size = tiny_onnx_bundle.model, tiny_onnx_bundle.model.sample_size
    pixels = size * model.scale_factor
    wanted = {
        "text_encoder": {
            "input_ids": (1, model.token_length),
            "text_kv": (1, model.token_length, model.text_kv_width),
        },
        "time_encoder": {"timesteps": (7,), "time_shift": (7, model.time_shift_width)},
        "vae_decoder": {"latents": (1, 4, size, size), "image": (1, pixels, pixels, 3)},
        "vae_encoder": {"latents": (1, 4, size, size), "image": (1, pixels, pixels, 3)},
    }[name]
    results = []
    reference = RUNTIMES["onnxruntime"].open(tiny_onnx_bundle, name, RuntimeOptions(threads=1))
    for program in (make(name), reference):
        program.allocate(wanted)
        for array in program.inputs.values():
            array[:] = np.random.RandomState(0).randint(0, 9, array.shape)
        program.run()
        results.append(next(iter(program.outputs.values())).copy())
    assert relative_error(*results) < FP32


#: Operators on sizes, which ONNX Runtime would compute on the CPU in the middle of a step.
SHAPE_ARITHMETIC = {"Shape", "Size", "Range", "Mod", "ConstantOfShape", "Expand"}


@pytest.mark.parametrize("name", ["text_encoder", "unet", "vae_decoder", "vae_encoder"])
def test_of_the_arithmetic_on_sizes_nothing_is_left(tiny_onnx_bundle, tmp_path, name):
    """Else a run could not be captured as a CUDA graph."""
    from onnxruntime import InferenceSession

    model = tiny_onnx_bundle.model
    sizes = {
        **shapes(tiny_onnx_bundle, 1, 2),
        "input_ids": (1, model.token_length),
        "image": (1, model.default_size, model.default_size, 3),
    }
    sessions = Sessions(tiny_onnx_bundle, name, ON_CPU, 1)
    settings = sessions._settings(sizes)
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    graph = tiny_onnx_bundle.program_files(name, "onnx")[0]
    InferenceSession(str(graph), settings, providers=[CPU])
    optimized = onnx.load(tmp_path / "optimized.onnx", load_external_data=False)
    assert not SHAPE_ARITHMETIC & {node.op_type for node in optimized.graph.node}
    free = onnx.load(graph, load_external_data=False)
    assert name != "unet" or SHAPE_ARITHMETIC & {node.op_type for node in free.graph.node}


@pytest.mark.parametrize("name", ["unet", "text_encoder"])
@pytest.mark.parametrize("weights", ["fp32", "fp16"])
def test_in_fp16_the_graph_is_rewritten(tiny_onnx_bundle, tmp_path, tiny_checkpoint, name, weights):
    """What the CPU's provider has no fp16 for it computes in fp32, and rounds what it hands on."""
    bundle = tiny_onnx_bundle
    if weights == "fp16":
        opened = open_checkpoint(tiny_checkpoint)
        bundle = export_bundle(opened, tmp_path / "b", formats=["onnx"], weights="fp16")
    half = halve_program(*bundle.program_files(name, "onnx"))
    kinds = Counter(value.dtype.name for value in half.weights.values())
    assert set(kinds) == {"float16"}
    graph = onnx.load_model_from_string(half.graph).graph
    in_fp32 = [node for node in graph.node if node.op_type in FP32_OPERATORS]
    assert in_fp32
    assert all(n.endswith(".fp32") for node in in_fp32 for n in (*node.input, *node.output))
    for value in (*graph.input, *graph.output):
        if value.name != "input_ids":
            assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT

    plan = replace(ON_CPU, in_fp16=True)
    program = ONNXRuntimeGPUProgram(name, bundle, Sessions(bundle, name, plan, 1))
    reference = RUNTIMES["onnxruntime"].open(bundle, name, RuntimeOptions(threads=1))
    model, results = bundle.model, []
    for opened in (program, reference):
        if name == "unet":
            opened.allocate(shapes(bundle, 2, 4))
            fill(opened)
        else:
            kv = (1, model.token_length, model.text_kv_width)
            opened.allocate({"input_ids": (1, model.token_length), "text_kv": kv})
            opened.inputs["input_ids"][:] = np.arange(model.token_length) % 9
        opened.run()
        results.append(next(iter(opened.outputs.values())).copy())
    assert 1e-6 < relative_error(*results) < FP16


def test_fp16_without_the_package_onnx_is_refused(tiny_onnx_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RuntimeUnavailableError, match="pip install onnx"):
        halve_program(*tiny_onnx_bundle.program_files("unet", "onnx"))


def test_a_graph_that_cannot_be_rewritten_is_an_error(tiny_onnx_bundle, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph at all")
    data = tiny_onnx_bundle.program_files("unet", "onnx")[1]
    with pytest.raises(BundleError, match="cannot be read in fp16"):
        halve_program(tmp_path / "model.onnx", data)


def test_what_is_unchanged_stays_on_the_device(make, tiny_onnx_bundle, expected):
    unet = make()
    unet.allocate(shapes(tiny_onnx_bundle, 1, 2))
    fill(unet)
    unet.run()
    unet.inputs["text_kv"][:] = np.nan  # it is not read a second time
    for _ in range(3):
        unet.run(unchanged=("text_kv",))
        assert relative_error(unet.outputs["noise_pred"], expected(1, 2)) < FP32
    unet.run()
    assert np.isnan(unet.outputs["noise_pred"]).any()


def test_clones_that_alternate_keep_what_is_theirs(make, tiny_onnx_bundle, expected):
    """They share buffers: what another sent meanwhile is sent again, unchanged or not."""
    unet = make()
    programs = [unet, unet.clone()]
    for seed, program in enumerate(programs):
        program.allocate(shapes(tiny_onnx_bundle, 1, 2))
        fill(program, seed)
        program.run()
    for _ in range(2):
        for seed, program in enumerate(programs):
            for _ in range(2):  # of the second run nothing is sent
                program.run(unchanged=("latents", "time_shift", "text_kv"))
            assert relative_error(program.outputs["noise_pred"], expected(1, 2, seed)) < FP32


def test_buffers_stay_where_they_are(make, tiny_onnx_bundle):
    """A captured graph goes on reading and writing them, whoever runs the session."""
    unet = make()
    addresses = set()
    for program in (unet, unet.clone()):
        for batch in (1, 2, 1):
            program.allocate(shapes(tiny_onnx_bundle, batch, 2))
            fill(program)
            program.run()
            if batch == 1:
                buffers = program._bound.buffers
                addresses.add(tuple(buffers[name].data_ptr() for name in sorted(buffers)))
    assert len(addresses) == 1


def test_an_earlier_shape_comes_back_with_other_inputs(make, tiny_onnx_bundle, expected):
    unet = make()
    for seed, batch in ((0, 1), (1, 2), (2, 1)):
        unet.allocate(shapes(tiny_onnx_bundle, batch, 2))
        fill(unet, seed)
        # These arrays were never sent, whatever the session's buffers hold from earlier ones.
        unet.run(unchanged=("text_kv",))
        assert relative_error(unet.outputs["noise_pred"], expected(batch, 2, seed)) < FP32


def test_after_a_failure_everything_is_sent_again(make, tiny_onnx_bundle, expected, monkeypatch):
    unet = make()
    unet.allocate(shapes(tiny_onnx_bundle, 1, 2))
    fill(unet)
    unet.run()
    whole = unet.inputs["latents"]
    unet.inputs["latents"] = np.zeros((3, 3), np.float32)
    with pytest.raises(LDMEngineError, match="could not run the program unet on latents"):
        unet.run()
    unet.inputs["latents"] = whole
    unet.run(unchanged=("latents",))
    assert relative_error(unet.outputs["noise_pred"], expected(1, 2)) < FP32


def test_clones_in_threads_share_sessions_and_take_turns(make, tiny_onnx_bundle, expected):
    unet = make()
    programs = [unet, unet.clone(), unet.clone()]
    results = {}

    def work(program, seed):
        found = []
        for batch in (1, 2, 1):
            program.allocate(shapes(tiny_onnx_bundle, batch, 2))
            fill(program, seed)
            program.run()
            for _ in range(5):
                program.run(unchanged=("text_kv", "latents"))
            found.append((batch, program.outputs["noise_pred"].copy()))
        results[seed] = found

    threads = [threading.Thread(target=work, args=(p, i)) for i, p in enumerate(programs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(p._bound) for p in programs}) == 1
    for seed, found in results.items():
        for batch, result in found:
            assert relative_error(result, expected(batch, 2, seed)) < FP32
    assert len(results) == 3


def test_sessions_of_the_latest_shapes_are_kept(make, tiny_onnx_bundle, monkeypatch):
    monkeypatch.setattr(by_shape, "_MAX_BYTES", 2)
    unet = make()
    for batch in (1, 2, 3):
        unet.allocate(shapes(tiny_onnx_bundle, batch, batch))
    assert len(unet._sessions._entries) == 2


def test_a_missing_provider_is_an_error_and_not_the_cpu(make, tiny_onnx_bundle):
    """ONNX Runtime itself only warns, and computes on the CPU."""
    plan = replace(ON_CPU, providers=((CUDA, {"device_id": 0}),))
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(RuntimeUnavailableError, match="cannot use its CUDAExecutionProvider"),
    ):
        make(plan=plan).allocate(shapes(tiny_onnx_bundle, 1, 2))


def test_a_gpu_that_cannot_be_reached_is_an_error_when_it_is_opened(capsys):
    """With the package for GPUs and without CUDA it says so; nothing of it is printed."""
    import onnxruntime

    reach_gpu(onnxruntime, ("cpu", 0))
    with pytest.raises(RuntimeUnavailableError, match=r"cuda device 9: .*-gpu") as caught:
        reach_gpu(onnxruntime, ("cuda", 9))
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_without_a_graph_it_goes_on_with_a_warning(make, tiny_onnx_bundle, expected):
    plan = replace(ON_CPU, graph_providers=((CPU, "no options"),))  # which it refuses
    unet = make(plan=plan)
    with pytest.warns(UserWarning, match="cannot be run as a CUDA graph"):
        unet.allocate(shapes(tiny_onnx_bundle, 1, 2))
    fill(unet)
    unet.run()
    assert relative_error(unet.outputs["noise_pred"], expected(1, 2)) < FP32


def test_a_graph_that_cannot_be_loaded_is_an_error(make, tiny_onnx_bundle, tmp_path):
    import shutil

    path = shutil.copytree(tiny_onnx_bundle.path, tmp_path / "bundle")
    graph = path / "unet" / "model.onnx"
    graph.write_bytes(b"\0" * graph.stat().st_size)
    bundle = replace(tiny_onnx_bundle, path=path, manifest_stamp=None)
    program = ONNXRuntimeGPUProgram("unet", bundle, Sessions(bundle, "unet", ON_CPU, 1))
    with pytest.raises(BundleError, match=r"cannot load .*model\.onnx for latents"):
        program.allocate(shapes(bundle, 1, 2))


def test_shapes_that_no_memory_holds_are_an_error(make, tiny_onnx_bundle):
    program = make()
    wanted = {**shapes(tiny_onnx_bundle, 1, 1), "noise_pred": (1 << 55, 4, 8, 8)}
    with pytest.raises(LDMEngineError, match="cannot make buffers for the program unet on"):
        program._sessions.get(wanted)


def test_what_cannot_be_run_is_an_error_of_one_paragraph(make, tiny_onnx_bundle):
    program, model = make("text_encoder"), tiny_onnx_bundle.model
    program.allocate(
        {
            "input_ids": (1, model.token_length),
            "text_kv": (1, model.token_length, model.text_kv_width),
        }
    )
    program.inputs["input_ids"][:] = 10**6  # beyond the embedding
    with pytest.raises(LDMEngineError, match="could not run the program text_encoder") as caught:
        program.run()
    assert "\n" not in str(caught.value)


def test_packages_that_overwrote_each_other_are_refused(tiny_onnx_bundle, monkeypatch):
    """Pip has both, and the files are those for CPUs."""
    versions = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
    for module in (base, library):
        monkeypatch.setattr(module, "installed_version", versions.get)
    runtime = RUNTIMES["onnxruntime"]
    assert runtime.version() == "1.32.0"
    assert runtime.version("gpu:0") == "1.31.1"
    options = RuntimeOptions(device="gpu:0", precision="fp16", cache=False)
    with pytest.raises(
        RuntimeUnavailableError, match="--force-reinstall --no-deps onnxruntime-gpu"
    ):
        runtime.open(tiny_onnx_bundle, "unet", options)


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-tensorrt"])
def test_a_library_without_the_provider_is_refused_where_it_gets_that_far(tiny_onnx_bundle, name):
    options = RuntimeOptions(device="gpu:0", precision="fp16", cache=False)
    with pytest.raises(
        RuntimeUnavailableError, match=r"has no (CUDA|Tensorrt)Exec.*onnxruntime-gpu"
    ):
        RUNTIMES[name].open(tiny_onnx_bundle, "unet", options)
