"""What can be said of Paddle on a GPU without one: its configuration, and its programs' buffers.

The configuration is built on the real ``Config``, which checks names and types of every call; the
programs run on predictors for the CPU, whose handles are the same.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import inference

from ldm_engine.errors import LDMEngineError, RuntimeUnavailableError
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.choice import RUNTIMES
from ldm_engine.runtimes.gpu.paddle import (
    FP32_OPERATORS,
    PaddleGPUProgram,
    configure_gpu,
    forbid_tf32,
    open_on_gpu,
)
from ldm_engine.runtimes.paddle import _configure
from unet_arrays import fill, shapes

without_cuda = pytest.mark.skipif(
    paddle.is_compiled_with_cuda(), reason="the installed Paddle is one for GPUs"
)


class Recorder:
    """A ``Config`` whose calls are written down and then made."""

    def __init__(self, config):
        self._config = config
        self.calls = {}

    def __getattr__(self, name):
        def call(*arguments):
            self.calls[name] = arguments
            return getattr(self._config, name)(*arguments)

        return call


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", "Float32"), ("fp16", "Half"), ("bf16", "Bfloat16")]
)
def test_the_configuration(precision, kind, capfd):
    config = Recorder(inference.Config())
    configure_gpu(config, inference.PrecisionType, 3, precision)
    calls = config.calls
    assert calls["enable_use_gpu"] == (256, 3, getattr(inference.PrecisionType, kind))
    assert calls["delete_pass"] == ("inplace_pass",)
    assert calls["enable_memory_optim"] == calls["enable_new_ir"] == (True,)
    assert "enable_mkldnn" not in calls
    if precision == "fp32":
        assert "exp_disable_mixed_precision_ops" not in calls
    else:
        assert calls["exp_disable_mixed_precision_ops"] == (set(FP32_OPERATORS),)
        assert calls["enable_low_precision_io"] == (False,)
    if paddle.is_compiled_with_cuda():
        assert config._config.use_gpu()
        assert config._config.gpu_device_id() == 3
        assert config._config.memory_pool_init_size_mb() == 256


def test_the_operators_that_stay_in_fp32_are_ones_of_the_programs(tiny_bundle):
    names = {name.removeprefix("pd_op.") for name in FP32_OPERATORS}
    text = (tiny_bundle.path / "unet" / "inference.json").read_text()
    assert all(f'"1.{name}"' in text for name in names)


@without_cuda
def test_a_paddle_for_cpus_is_refused_where_it_gets_that_far(tiny_bundle):
    with pytest.raises(RuntimeUnavailableError, match=r"without CUDA.*2\.6\.2.*package index"):
        forbid_tf32()
    files = tiny_bundle.program_files("unet", "paddle")
    options = RuntimeOptions(device="gpu:0")
    with pytest.raises(RuntimeUnavailableError, match="without CUDA"):
        open_on_gpu(PaddleGPUProgram, tiny_bundle, "unet", files, "fp16", options)
    with pytest.raises(RuntimeUnavailableError, match="without CUDA"):
        RUNTIMES["paddle"].open(tiny_bundle, "unet", options)


@pytest.fixture
def unet(tiny_bundle):
    """The UNet with buffers of its own, in the CPU's memory."""
    config = inference.Config(*map(str, tiny_bundle.program_files("unet", "paddle")))
    _configure(config, RuntimeOptions(threads=1))
    return PaddleGPUProgram("unet", tiny_bundle, inference.create_predictor(config))


@pytest.fixture
def expected(tiny_bundle):
    """What Paddle gives on the CPU."""
    program = RUNTIMES["paddle"].open(tiny_bundle, "unet", RuntimeOptions(threads=1))

    def compute(batch, rows, seed=0, size=8):
        program.allocate(shapes(tiny_bundle, batch, rows, size))
        fill(program, seed)
        program.run()
        return program.outputs["noise_pred"].copy()

    return compute


@pytest.mark.parametrize(("batch", "rows", "size"), [(1, 2, 8), (2, 2, 16)])
def test_inputs_are_sent_and_outputs_fetched(unet, tiny_bundle, expected, batch, rows, size):
    unet.allocate(shapes(tiny_bundle, batch, rows, size))
    fill(unet)
    output = unet.outputs["noise_pred"]
    unet.run()
    assert unet.outputs["noise_pred"] is output
    np.testing.assert_array_equal(output, expected(batch, rows, size=size))


def test_what_is_unchanged_stays_on_the_device(unet, tiny_bundle, expected):
    unet.allocate(shapes(tiny_bundle, 1, 2))
    fill(unet)
    unet.run()
    unet.inputs["text_kv"][:] = np.nan  # it is not looked at again
    for _ in range(3):
        unet.run(unchanged=("text_kv",))
        np.testing.assert_array_equal(unet.outputs["noise_pred"], expected(1, 2))
    unet.run()
    assert np.isnan(unet.outputs["noise_pred"]).any()


def test_shapes_change_back_and_forth(unet, tiny_bundle, expected):
    for batch, rows in ((1, 2), (3, 3), (1, 2)):
        unet.allocate(shapes(tiny_bundle, batch, rows))
        fill(unet)
        unet.run()
        np.testing.assert_array_equal(unet.outputs["noise_pred"], expected(batch, rows))


def test_a_clone_has_buffers_of_its_own(unet, tiny_bundle, expected):
    twin = unet.clone()
    for program, seed in ((unet, 0), (twin, 1)):
        program.allocate(shapes(tiny_bundle, 1, 2))
        fill(program, seed)
        program.run()
    for program, seed in ((unet, 0), (twin, 1)):
        program.run(unchanged=("text_kv", "latents", "time_shift"))
        np.testing.assert_array_equal(program.outputs["noise_pred"], expected(1, 2, seed))


def test_what_cannot_be_run_is_an_error_of_one_paragraph(unet, tiny_bundle):
    unet.allocate({**shapes(tiny_bundle, 1, 2), "noise_pred": (1, 4, 8, 8)})
    fill(unet)
    with pytest.raises(LDMEngineError, match=r"noise_pred.*\(2, 4, 8, 8\)"):
        unet.run()
