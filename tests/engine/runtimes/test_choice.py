from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.bundle.bundle import FormatInfo
from ldm_engine.checks.tolerances import relative_error
from ldm_engine.errors import (
    BundleError,
    ClosedError,
    InvalidArgumentError,
    LDMEngineError,
    RuntimeUnavailableError,
    ShapeError,
)
from ldm_engine.machine.cpu import available_threads, supports_bf16
from ldm_engine.runtimes import base
from ldm_engine.runtimes.base import RuntimeOptions, program_precision
from ldm_engine.runtimes.choice import (
    MAPPED,
    PREFERENCE,
    RUNTIMES,
    check_options,
    choose_runtime,
    resolve_options,
    usable_runtimes,
)
from ldm_engine.runtimes.openvino import OpenVINORuntime
from ldm_engine.runtimes.paddle import PaddleRuntime
from ldm_engine.runtimes.paddle_predictor import install_command
from unet_arrays import fill, shapes

# A machine without some modules: their import fails and they are not in the list of what is
# installed, Paddle under either of its names.
WITHOUT = """
import sys
from importlib import metadata
missing = sys.argv[1].split(",")
installed = metadata.version
def version(name):
    if any(name.startswith(m) for m in missing):
        raise metadata.PackageNotFoundError(name)
    return installed(name)
metadata.version = version
sys.modules.update(dict.fromkeys(missing))
from ldm_engine.commands.main import main
sys.argv = ["ldm-engine", *sys.argv[2:]]
main()
"""
#: Pictures of two runtimes at fp32, in 8-bit steps; seen: 1, where a value lies between two.
IMAGE_STEPS = 2
#: A picture in bf16 against that in fp32, mean over all values in 8-bit steps; seen: below 1.
BF16_MEAN_STEPS = 4
FP32, BF16 = 1e-4, 3e-2  # relative L2 of a program's outputs, the gate's own


def test_every_runtime_has_a_place_in_an_order_of_preference():
    """Or is what one asks for by ``memory="mapped"``."""
    assert {name for names in PREFERENCE.values() for name in names} == set(RUNTIMES) - {MAPPED}


@pytest.fixture(params=[*PREFERENCE["cpu"], MAPPED])
def runtime(request):
    return RUNTIMES[request.param]


@pytest.fixture
def bundle(runtime, tiny_bundle, tiny_onnx_bundle):
    """The tiny checkpoint in the format that the runtime reads."""
    return tiny_bundle if runtime.format in tiny_bundle.formats else tiny_onnx_bundle


@pytest.fixture
def unet(runtime, bundle):
    return runtime.open(bundle, "unet", RuntimeOptions(threads=1))


def test_arrays_are_made_once_and_overwritten_by_each_run(unet, bundle):
    unet.allocate(shapes(bundle, 1, 2))
    inputs, output = dict(unet.inputs), unet.outputs["noise_pred"]
    fill(unet)
    unet.run()
    first = output.copy()
    assert np.abs(first).max() > 0
    unet.inputs["latents"] *= 2
    unet.run()
    assert unet.outputs["noise_pred"] is output
    assert np.abs(output - first).max() > 1e-3
    unet.allocate(shapes(bundle, 1, 2))  # the same again: nothing is remade
    assert all(unet.inputs[name] is array for name, array in inputs.items())


def test_shapes_can_change_back_and_forth(unet, bundle):
    results = []
    for batch, rows, h, w in [
        (1, 2, 8, 8),
        (3, 3, 16, 8),
        (1, 2, 8, 8),
        (2, 4, 8, 24),
        (1, 2, 8, 8),
    ]:
        unet.allocate(shapes(bundle, batch, rows, h, w))
        fill(unet)
        unet.run()
        results.append(unet.outputs["noise_pred"].copy())
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_array_equal(results[0], results[4])


def _number_of_process(script, *arguments):
    """What `script` prints last, in a process that no other test has left anything in."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


FAULTS = """
import resource, sys
from ldm_engine import open_bundle
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.paddle import PaddleRuntime
from unet_arrays import fill, shapes
bundle = open_bundle(sys.argv[1])
with PaddleRuntime().open(bundle, "unet", RuntimeOptions(threads=1)) as unet:
    unet.allocate(shapes(bundle, 4, 8, 32, 32))
    fill(unet)
    counts = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        unet.run()
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    # The heap grows for some runs, to where the threads happen to leave holes. Memory that is
    # given back is faulted in by each: 180,000 pages of it.
    print(min(counts))
"""


def test_paddle_does_not_fault_its_memory_in_again(shapes_bundle):
    assert _number_of_process(FAULTS, shapes_bundle.path) < 1000


def test_a_clone_has_arrays_of_its_own(unet, bundle):
    twin = unet.clone()
    for program, seed in ((unet, 0), (twin, 1)):
        program.allocate(shapes(bundle, 1, 1))
        fill(program, seed)
        program.run()
    assert np.abs(unet.outputs["noise_pred"] - twin.outputs["noise_pred"]).max() > 1e-3
    fill(twin, 0)
    twin.run()
    np.testing.assert_array_equal(unet.outputs["noise_pred"], twin.outputs["noise_pred"])


@pytest.mark.parametrize(
    "change",
    [
        {"latents": (1, 3, 8, 8)},
        {"latents": (4, 8, 8)},
        {"latents": (0, 4, 8, 8)},
        {"time_shift": (2, 400)},
        {"noise_pred": None},
    ],
)
def test_shapes_that_do_not_fit_the_program_are_refused(unet, bundle, change):
    wanted = {k: v for k, v in {**shapes(bundle, 1, 1), **change}.items() if v is not None}
    with pytest.raises(ShapeError, match=next(iter(change))):
        unet.allocate(wanted)


def test_an_output_of_another_size_than_expected_is_an_error(unet, bundle):
    def use():  # some find it when they bind the arrays, some when they run
        unet.allocate({**shapes(bundle, 1, 2), "noise_pred": (1, 4, 8, 8)})
        fill(unet)
        unet.run()

    with pytest.raises(LDMEngineError, match=r"noise_pred|unet on .*latents \[1, 4, 8, 8\]"):
        use()
    # and it is not the end of the program
    unet.allocate(shapes(bundle, 1, 2))
    fill(unet)
    unet.run()
    assert np.isfinite(unet.outputs["noise_pred"]).all()


def test_runtimes_agree_on_a_program(unet, bundle, tiny_bundle):
    paddle = PaddleRuntime().open(tiny_bundle, "unet", RuntimeOptions(threads=1))
    for program in (unet, paddle):
        program.allocate(shapes(bundle, 2, 4, 8, 16))
        fill(program)
        program.run()
    given, expected = unet.outputs["noise_pred"], paddle.outputs["noise_pred"]
    assert relative_error(given, expected) < FP32


def test_a_clone_renders_in_another_thread_at_the_same_time(unet, bundle):
    twin = unet.clone()
    results = {}

    def work(program, seed):
        program.allocate(shapes(bundle, 1, 2))
        fill(program, seed)
        for _ in range(5):
            program.run()
        results[seed] = program.outputs["noise_pred"].copy()

    threads = [threading.Thread(target=work, args=pair) for pair in ((unet, 0), (twin, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, result in results.items():
        fill(unet, seed)
        unet.run()
        np.testing.assert_array_equal(unet.outputs["noise_pred"], result)
    assert len(results) == 2


def test_the_time_encoder_is_never_in_less_than_full_precision(runtime, bundle):
    """In bf16 its frequencies are off by whole units."""
    if "bf16" not in runtime.precisions["cpu"] or not supports_bf16():
        pytest.skip("no bf16 here")
    results = []
    for precision in ("fp32", "bf16"):
        options = RuntimeOptions(precision=precision, threads=1)
        program = runtime.open(bundle, "time_encoder", options)
        program.allocate({"timesteps": (9,), "time_shift": (9, bundle.model.time_shift_width)})
        program.inputs["timesteps"][:] = np.linspace(0, 999, 9).round()
        program.run()
        results.append(program.outputs["time_shift"].copy())
    np.testing.assert_array_equal(*results)


def test_the_precision_is_the_one_given(runtime, bundle):
    """Left to itself, OpenVINO takes bf16 where the CPU has it."""
    outputs = {}
    for precision in runtime.precisions["cpu"]:
        if precision == "int8" or (precision == "bf16" and not supports_bf16()):
            continue
        options = RuntimeOptions(precision=precision, threads=1)
        program = runtime.open(bundle, "unet", options)
        program.allocate(shapes(bundle, 1, 2))
        fill(program)
        program.run()
        outputs[precision] = program.outputs["noise_pred"].copy()
    if "bf16" in outputs:
        assert 10 * FP32 < relative_error(outputs["bf16"], outputs["fp32"]) < BF16


@pytest.mark.parametrize("name", ["paddle", "onnxruntime"])  # OpenVINO reads zeros there
def test_what_cannot_be_run_is_an_error_of_one_paragraph(tiny_bundle, tiny_onnx_bundle, name):
    bundle = tiny_bundle if name == "paddle" else tiny_onnx_bundle
    program = RUNTIMES[name].open(bundle, "text_encoder", RuntimeOptions(threads=1))
    model = bundle.model
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


def test_auto_says_why(tiny_bundle):
    choice = choose_runtime(tiny_bundle)
    assert choice.runtime is RUNTIMES["paddle"]
    assert "installed" in choice.reason
    assert choose_runtime(tiny_bundle, "paddle").reason == "requested"


def test_a_bundle_without_the_runtimes_format_is_refused(tiny_bundle):
    from dataclasses import replace

    programs = {
        n: replace(p, formats={"onnx": FormatInfo(())}) for n, p in tiny_bundle.programs.items()
    }
    bundle = replace(tiny_bundle, programs=programs)
    for name in ("openvino", "paddle"):
        with pytest.raises(RuntimeUnavailableError, match="holds onnx"):
            choose_runtime(bundle, name)
    choice = choose_runtime(bundle)
    assert choice.runtime is RUNTIMES["onnxruntime"]
    assert "openvino: the bundle holds onnx, not openvino" in choice.reason
    with pytest.raises(BundleError, match="--formats onnx,paddle"):
        bundle.program_files("unet", "paddle")


@pytest.mark.parametrize("command", ["generate", "export", "info", "verify"])
@pytest.mark.parametrize(
    ("missing", "extra"),
    [
        ("paddle", "paddle"),
        ("openvino,onnxruntime", "openvino"),
        ("openvino,onnxruntime", "onnxruntime"),
        ("paddle2onnx", "export"),
    ],
)
def test_without_a_library_the_install_command_is_printed(
    tiny_bundle, tiny_onnx_bundle, tiny_checkpoint, tmp_path, command, missing, extra
):
    bundle = tiny_bundle if missing == "paddle" else tiny_onnx_bundle
    if command == "export":
        if extra == "onnxruntime":
            pytest.skip("it takes no part in writing")
        extra = "export"
    elif extra == "export":
        pytest.skip("it takes no part in running")
    formats = {"paddle": "paddle", "openvino,onnxruntime": "openvino", "paddle2onnx": "onnx"}
    arguments = {
        "generate": [bundle.path, "a", "-o", tmp_path],
        "export": [tiny_checkpoint, tmp_path / "out", "--formats", formats[missing]],
        "info": [bundle.path],
        "verify": [bundle.path],
    }[command]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, missing, command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (0 if command == "info" else 1), done.stderr
    shown = " ".join((done.stdout + done.stderr).split())  # tables wrap
    assert f"pip install 'ldm-engine[{extra}]" in shown
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_library_that_is_listed_but_cannot_be_imported_is_an_error(
    tiny_onnx_bundle, monkeypatch, name
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeUnavailableError, match=rf"pip install 'ldm-engine\[{name}\]'"):
        RUNTIMES[name].open(tiny_onnx_bundle, "unet", RuntimeOptions(threads=1))


@pytest.mark.parametrize(("version", "elsewhere"), [((3, 13), False), ((3, 14), True)])
def test_where_paddle_has_no_package_its_remedy_names_other_pythons(
    monkeypatch, version, elsewhere
):
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    remedy = install_command("paddle")
    assert remedy.startswith("pip install 'ldm-engine[paddle]'")
    assert ("in Python 3.10 to 3.13: Paddle has no package for the 3.14" in remedy) == elsewhere


def test_auto_prefers_openvino_then_onnxruntime_then_paddle(shapes_bundle, monkeypatch):
    assert PREFERENCE["cpu"] == ("openvino", "onnxruntime", "paddle")
    for name in PREFERENCE["cpu"]:
        choice = choose_runtime(shapes_bundle)
        assert choice.runtime.name == name
        monkeypatch.setattr(type(RUNTIMES[name]), "version", lambda self: None)
    with pytest.raises(RuntimeUnavailableError) as caught:
        choose_runtime(shapes_bundle)
    for name in PREFERENCE["cpu"]:
        assert RUNTIMES[name].install in str(caught.value)


def test_auto_passes_over_what_has_not_the_precision(tiny_onnx_bundle, monkeypatch):
    monkeypatch.setattr(base, "supports_bf16", lambda: True)
    assert choose_runtime(tiny_onnx_bundle, precision="bf16").runtime.name == "openvino"
    with pytest.raises(RuntimeUnavailableError, match="it computes in fp32 only"):
        choose_runtime(tiny_onnx_bundle, "onnxruntime", "bf16")
    monkeypatch.setattr(OpenVINORuntime, "version", lambda self: None)
    with pytest.raises(
        RuntimeUnavailableError, match=r"openvino: it is not installed.*onnxruntime"
    ):
        choose_runtime(tiny_onnx_bundle, precision="bf16")


@pytest.mark.parametrize("name", ["auto", "openvino", "paddle"])
def test_bf16_is_refused_where_the_cpu_has_none(shapes_bundle, monkeypatch, name):
    monkeypatch.setattr(base, "supports_bf16", lambda: False)
    with pytest.raises(RuntimeUnavailableError, match="no bf16 instructions"):
        choose_runtime(shapes_bundle, name, "bf16")
    assert {p for _, p in usable_runtimes(shapes_bundle)} == {"fp32", "int8"}


def test_usable_are_all_that_can_be_chosen(shapes_bundle, monkeypatch):
    monkeypatch.setattr(base, "supports_bf16", lambda: True)
    usable = [
        (choice.runtime.name, precision) for choice, precision in usable_runtimes(shapes_bundle)
    ]
    assert usable == [
        ("openvino", "fp32"),
        ("openvino", "bf16"),
        ("openvino", "int8"),
        ("onnxruntime", "fp32"),
        ("paddle", "fp32"),
        ("paddle", "bf16"),
        ("onnxruntime-mapped", "fp32"),
    ]


@pytest.mark.parametrize("name", ["auto", "openvino"])
def test_int8_needs_a_unet_in_int8(tiny_onnx_bundle, name):
    with pytest.raises(
        RuntimeUnavailableError, match=r"holds no int8 unet; export again with .*int8"
    ):
        choose_runtime(tiny_onnx_bundle, name, "int8")


@pytest.mark.parametrize("precision", ["banana", "FP32", "", None, 32])
def test_an_unknown_precision_is_refused(tiny_onnx_bundle, precision):
    with pytest.raises(InvalidArgumentError, match="fp32, fp16, bf16, int8"):
        choose_runtime(tiny_onnx_bundle, "auto", precision)


@pytest.mark.parametrize(
    ("program", "precision", "supported", "expected"),
    [
        ("unet", "fp32", True, "fp32"),
        ("unet", "bf16", True, "bf16"),
        ("unet", "int8", True, "int8"),
        ("unet", "int8", False, "int8"),
        ("time_encoder", "bf16", True, "fp32"),
        ("time_encoder", "int8", True, "fp32"),
        ("text_encoder", "bf16", True, "bf16"),
        ("text_encoder", "int8", True, "bf16"),
        ("text_encoder", "int8", False, "fp32"),
        ("vae_decoder", "int8", False, "fp32"),
        ("unet", "fp16", True, "fp16"),
        ("text_encoder", "fp16", True, "fp16"),
        ("vae_decoder", "fp16", True, "fp32"),
        ("time_encoder", "fp16", True, "fp32"),
    ],
)
def test_what_each_program_runs_in(monkeypatch, program, precision, supported, expected):
    monkeypatch.setattr(base, "supports_bf16", lambda: supported)
    assert program_precision(program, precision) == expected


def render(bundle, runtime, precision="fp32"):
    pipe = LDMTextToImagePipeline.from_pretrained(
        bundle.path, runtime=runtime, precision=precision, check_hashes=False
    )
    prompts = ["a small red circle on the left", "a large blue star, white background"]
    images = pipe(prompts, num_inference_steps=8, guidance_scale=2, eta=0.3, seed=0).images
    return np.stack([np.asarray(image, dtype=int) for image in images])


@pytest.fixture(scope="module")
def pictures(shapes_bundle):
    return {name: render(shapes_bundle, name) for name in PREFERENCE["cpu"]}


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_pictures_are_the_same_in_every_runtime(pictures, name):
    assert pictures["paddle"].std() > 20  # they show something
    assert np.abs(pictures[name] - pictures["paddle"]).max() <= IMAGE_STEPS


@pytest.mark.parametrize("name", ["openvino", "paddle"])
def test_pictures_in_bf16_show_the_same(shapes_bundle, pictures, name):
    if not supports_bf16():
        pytest.skip("no bf16 here")
    difference = np.abs(render(shapes_bundle, name, "bf16") - pictures[name])
    assert 0 < difference.mean() < BF16_MEAN_STEPS


def test_all_options_are_checked_at_once():
    assert check_options() == check_options("paddle", "int8", "gpu:3", np.int64(4)) == []
    violations = check_options("torch", "banana", "moon", -4)
    assert [text.split("`")[1] for text in violations] == [
        "runtime", "precision", "device", "threads"
    ]  # fmt: skip
    assert all("accepted" in text for text in violations)


@pytest.mark.parametrize("wrong", [None, 3, ["fp32"], b"cpu"])
def test_options_of_other_types_are_refused(wrong):
    assert len(check_options(wrong, wrong, wrong, "2")) == 4


def test_a_choice_names_every_option_that_there_is_not(tiny_bundle):
    with pytest.raises(InvalidArgumentError) as caught:
        choose_runtime(tiny_bundle, "torch", "banana", "moon")
    assert str(caught.value).splitlines() == check_options("torch", "banana", "moon")


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.5, True, "2"])
def test_no_such_number_of_threads(runtime, threads):
    with pytest.raises(InvalidArgumentError, match="from 1 to 1024"):
        resolve_options(runtime, "cpu", "fp32", threads)


@pytest.mark.parametrize("threads", {1, min(2, available_threads())})
def test_the_libraries_get_the_number_of_threads(tiny_onnx_bundle, threads):
    options = resolve_options(RUNTIMES["openvino"], "cpu", "fp32", np.int64(threads))
    program = RUNTIMES["onnxruntime"].open(tiny_onnx_bundle, "time_encoder", options)
    assert program._session.get_session_options().intra_op_num_threads == threads
    program = RUNTIMES["openvino"].open(tiny_onnx_bundle, "time_encoder", options)
    compiled = program._models.get({"timesteps": (3,)})
    assert compiled.get_property("INFERENCE_NUM_THREADS") == threads


def test_threads_default_to_what_the_process_may_use():
    assert resolve_options(RUNTIMES["paddle"], "cpu", "fp32", None).threads >= 1
    assert resolve_options(RUNTIMES["paddle"], "cpu", "fp32", 3).threads == 3


# Prints by how many bytes the process grows from the first to the ninth shape of its UNet.
GROWTH = """
import sys
from ldm_engine import open_bundle
from ldm_engine.runtimes.choice import RuntimeOptions, choose_runtime
bundle = open_bundle(sys.argv[1])
runtime = choose_runtime(bundle, "paddle").runtime
program = runtime.open(bundle, "unet", RuntimeOptions(threads=1))
model, resident = bundle.model, []
for batch in range(1, 10):
    program.allocate({
        "latents": (batch, 4, 8, 8),
        "time_shift": (1, model.time_shift_width),
        "text_kv": (batch, model.token_length, model.text_kv_width),
        "noise_pred": (batch, 4, 8, 8),
    })
    program.run()
    status = open("/proc/self/status").read()
    resident.append(int(status.split("VmRSS:")[1].split()[0]) * 1024)
print(resident[-1] - resident[0])
"""


def test_a_new_shape_does_not_cost_a_new_copy_of_the_weights(shapes_bundle):
    """oneDNN would keep one for each shape it has seen: gigabytes at full size."""
    weights = shapes_bundle.files["unet/inference.pdiparams"].bytes
    growth = _number_of_process(GROWTH, shapes_bundle.path)
    assert growth < 6 * weights  # seen: 2.5 (activations), and 12 with such copies


def test_what_is_closed_is_refused_by_name(unet, bundle):
    twin = unet.clone()
    with unet as program:
        program.allocate(shapes(bundle, 1, 2))
        program.run()
    unet.close()  # does nothing more
    assert not unet.inputs
    for use in (unet.run, unet.clone, lambda: unet.allocate(shapes(bundle, 1, 2))):
        with pytest.raises(ClosedError, match=r"program unet was closed\. Open the bundle again"):
            use()
    twin.allocate(shapes(bundle, 1, 2))  # a clone stays open
    fill(twin)
    twin.run()
    assert np.abs(twin.outputs["noise_pred"]).max() > 0
    twin.close()


def test_a_program_is_closed_when_its_block_fails(unet, bundle):
    with pytest.raises(ZeroDivisionError), unet:
        raise ZeroDivisionError
    with pytest.raises(ClosedError):
        unet.run()


# Prints by how many bytes the process grows from the first to the sixth opened and closed UNet.
REOPENED = """
import gc, os, sys
from ldm_engine import open_bundle
from ldm_engine.machine.memory import read_memory
from ldm_engine.runtimes.choice import RUNTIMES, RuntimeOptions
from unet_arrays import shapes
gc.disable()
bundle = open_bundle(sys.argv[1])
for count in range(6):
    with RUNTIMES[sys.argv[2]].open(bundle, "unet", RuntimeOptions(threads=1)) as unet:
        unet.allocate(shapes(bundle, 1, 2, 32))
        unet.run()
    if count == 0:
        first = read_memory(os.getpid()).anonymous
print(read_memory(os.getpid()).anonymous - first)
"""


def test_closing_frees_weights_without_garbage_collection(shapes_bundle, runtime):
    weights = shapes_bundle.program_files("unet", runtime.format)[1].stat().st_size
    # Seen: up to 1.7 by blocks that malloc keeps; 16 or more where nothing is closed.
    kept = _number_of_process(REOPENED, shapes_bundle.path, runtime.name)
    assert kept < 4 * weights
