"""Timing changes nothing and misses nothing."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.benchmarking.timing import RunTimes
from ldm_engine.bundle.contract import PROGRAMS

CALL = {"num_inference_steps": 3, "guidance_scale": 2.0, "seed": 0, "output_type": "np"}


@pytest.fixture(params=["onnxruntime", "openvino"])
def pipe(request, tiny_onnx_bundle):
    return LDMTextToImagePipeline.from_pretrained(
        tiny_onnx_bundle.path, runtime=request.param, threads=1
    )


def test_every_run_is_timed_and_the_images_are_the_same(pipe):
    expected = pipe(["a", "b"], **CALL).images
    pipe = pipe.clone()
    pipe.clear_encoded()
    times = RunTimes(pipe)
    began = time.perf_counter()
    images = pipe(["a", "b"], **CALL).images
    elapsed_s = time.perf_counter() - began
    np.testing.assert_array_equal(images, expected)
    counts = {name: len(s) for name, s in times.durations_s.items()}
    assert counts == {"text_encoder": 2, "time_encoder": 1, "unet": 3, "vae_decoder": 2}
    durations_s = [s for runs in times.durations_s.values() for s in runs]
    assert min(durations_s) > 0
    assert sum(durations_s) < elapsed_s
    times.clear()
    pipe.clear_encoded()
    pipe.clone()(["a"], **CALL)  # a clone's runs count too
    counts = {name: len(s) for name, s in times.durations_s.items()}
    assert counts == {"text_encoder": 1, "time_encoder": 1, "unet": 3, "vae_decoder": 1}


def test_a_timed_pipeline_keeps_its_runtime_and_its_programs(pipe):
    """Whoever asks the runtime or a program anything gets the answer of the untimed one."""
    runtime, before = pipe.opened.choice.runtime, {name: pipe.programs[name] for name in PROGRAMS}
    kinds = {name: type(program) for name, program in before.items()}
    RunTimes(pipe)
    assert pipe.opened.choice.runtime is runtime
    for name in PROGRAMS:
        assert pipe.programs[name] is before[name]
        assert type(pipe.programs[name]) is kinds[name]
        assert type(pipe.programs[name].clone()) is kinds[name]
