from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest

from ldm_engine.bundle import FormatInfo
from ldm_engine.errors import BundleError, LDMEngineError, RuntimeUnavailableError, ShapeError
from ldm_engine.runtimes import RUNTIMES, RuntimeOptions, choose_runtime, resolve_options
from ldm_engine.runtimes.paddle import PaddleRuntime

# Relative L2 error of bf16 to fp32. Seen: 1.3e-2 for the full-size UNet with random weights.
BF16_TOLERANCE = 3e-2

# A machine without Paddle: its import fails and it is not in the list of what is installed.
WITHOUT_PADDLE = """
import sys
from importlib import metadata
installed = metadata.version
def version(name):
    if name.startswith("paddlepaddle"):
        raise metadata.PackageNotFoundError(name)
    return installed(name)
metadata.version = version
sys.modules["paddle"] = None
from ldm_engine.cli import main
sys.argv = ["ldm-engine", *sys.argv[1:]]
main()
"""


@pytest.fixture
def unet(tiny_bundle):
    return PaddleRuntime().open(tiny_bundle, "unet", RuntimeOptions(threads=1))


def shapes(bundle, batch, rows, h=8, w=8):
    model = bundle.model
    return {
        "latents": (batch, 4, h, w),
        "time_shift": (1, model.time_shift_width),
        "text_kv": (rows, model.token_length, model.text_kv_width),
        "noise_pred": (rows, 4, h, w),
    }


def fill(program, seed=0):
    stream = np.random.RandomState(seed)
    for array in program.inputs.values():
        array[:] = stream.standard_normal(array.shape)


def test_arrays_are_made_once_and_overwritten_by_each_run(unet, tiny_bundle):
    unet.allocate(shapes(tiny_bundle, 1, 2))
    inputs, output = dict(unet.inputs), unet.outputs["noise_pred"]
    fill(unet)
    unet.run()
    first = output.copy()
    assert np.abs(first).max() > 0
    unet.inputs["latents"] *= 2
    unet.run()
    assert unet.outputs["noise_pred"] is output
    assert np.abs(output - first).max() > 1e-3
    unet.allocate(shapes(tiny_bundle, 1, 2))  # the same again: nothing is remade
    assert all(unet.inputs[name] is array for name, array in inputs.items())


def test_shapes_can_change_back_and_forth(unet, tiny_bundle):
    results = []
    for batch, rows, h, w in [
        (1, 2, 8, 8),
        (3, 3, 16, 8),
        (1, 2, 8, 8),
        (2, 4, 8, 24),
        (1, 2, 8, 8),
    ]:
        unet.allocate(shapes(tiny_bundle, batch, rows, h, w))
        fill(unet)
        unet.run()
        results.append(unet.outputs["noise_pred"].copy())
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_array_equal(results[0], results[4])


def test_bf16_is_close_to_fp32_and_leaves_timesteps_alone(tiny_bundle):
    for program, shape_of in (("unet", shapes(tiny_bundle, 1, 2)), ("time_encoder", None)):
        results = []
        for precision in PaddleRuntime.precisions:
            options = RuntimeOptions(precision=precision, threads=1)
            opened = PaddleRuntime().open(tiny_bundle, program, options)
            width = tiny_bundle.model.time_shift_width
            opened.allocate(shape_of or {"timesteps": (3,), "time_shift": (3, width)})
            fill(opened)
            if program == "time_encoder":
                opened.inputs["timesteps"][:] = 1, 501, 999
            opened.run()
            results += [array.copy() for array in opened.outputs.values()]
        error = np.linalg.norm(results[1] - results[0]) / np.linalg.norm(results[0])
        assert error < BF16_TOLERANCE if program == "unet" else error == 0


def test_runs_do_not_fault_their_memory_in_again(shapes_bundle):
    program = PaddleRuntime().open(shapes_bundle, "unet", RuntimeOptions(threads=1))
    program.allocate(shapes(shapes_bundle, 4, 8, 32, 32))
    fill(program)
    for _ in range(3):
        program.run()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program.run()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1000


def test_a_clone_has_arrays_of_its_own(unet, tiny_bundle):
    twin = unet.clone()
    for program, seed in ((unet, 0), (twin, 1)):
        program.allocate(shapes(tiny_bundle, 1, 1))
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
def test_shapes_that_do_not_fit_the_program_are_refused(unet, tiny_bundle, change):
    wanted = {k: v for k, v in {**shapes(tiny_bundle, 1, 1), **change}.items() if v is not None}
    with pytest.raises(ShapeError, match=next(iter(change))):
        unet.allocate(wanted)


def test_an_output_of_another_size_than_expected_is_an_error(unet, tiny_bundle):
    unet.allocate({**shapes(tiny_bundle, 1, 2), "noise_pred": (1, 4, 8, 8)})
    fill(unet)
    with pytest.raises(BundleError, match="noise_pred"):
        unet.run()


def test_what_paddle_cannot_run_is_told_in_one_paragraph(tiny_bundle):
    program = PaddleRuntime().open(tiny_bundle, "text_encoder", RuntimeOptions(threads=1))
    model = tiny_bundle.model
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
    assert choose_runtime(tiny_bundle, "paddle").reason == "asked for"


def test_a_bundle_without_the_runtimes_format_is_refused(tiny_bundle):
    from dataclasses import replace

    programs = {
        n: replace(p, formats={"onnx": FormatInfo(())}) for n, p in tiny_bundle.programs.items()
    }
    bundle = replace(tiny_bundle, programs=programs)
    for name in ("auto", "paddle"):
        with pytest.raises(RuntimeUnavailableError, match="holds onnx"):
            choose_runtime(bundle, name)
    with pytest.raises(BundleError, match="--formats onnx,paddle"):
        bundle.program_files("unet", "paddle")


@pytest.mark.parametrize("command", ["generate", "export", "info"])
def test_without_paddle_the_install_command_is_told(
    tiny_bundle, tiny_checkpoint, tmp_path, command
):
    arguments = {
        "generate": [tiny_bundle.path, "a", "-o", tmp_path],
        "export": [tiny_checkpoint, tmp_path / "out"],
        "info": [tiny_bundle.path],
    }[command]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PADDLE, command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (0 if command == "info" else 1), done.stderr
    assert "pip install 'ldm-engine[" in (done.stdout + done.stderr).replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_threads_default_to_what_the_process_may_use():
    assert resolve_options(RUNTIMES["paddle"], "cpu", "fp32", None).threads >= 1
    assert resolve_options(RUNTIMES["paddle"], "cpu", "fp32", 3).threads == 3


# Prints by how many bytes the process grows from the first to the ninth shape of its UNet.
GROWTH = """
import sys
from ldm_engine import open_bundle
from ldm_engine.runtimes import RuntimeOptions, choose_runtime
bundle = open_bundle(sys.argv[1])
program = choose_runtime(bundle).runtime.open(bundle, "unet", RuntimeOptions(threads=1))
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
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(shapes_bundle.path)],
        capture_output=True,
        text=True,
        check=True,
    )
    weights = shapes_bundle.files["unet/inference.pdiparams"].bytes
    assert int(done.stdout) < 6 * weights  # seen: 2.5 (activations), and 12 with such copies
