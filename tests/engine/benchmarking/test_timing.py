"""Timing changes nothing and misses nothing."""

from __future__ import annotations

import time

import numpy as np

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.benchmarking.timing import TimedRuntime
from ldm_engine.runtimes.choice import Choice, choose_runtime, resolve_options

CALL = {"num_inference_steps": 3, "guidance_scale": 2.0, "seed": 0, "output_type": "np"}


def test_every_run_is_timed_and_the_images_are_the_same(tiny_onnx_bundle):
    choice = choose_runtime(tiny_onnx_bundle, "onnxruntime")
    options = resolve_options(choice.runtime, "cpu", "fp32", 1)
    timed = TimedRuntime(choice.runtime)
    assert (timed.name, timed.version()) == ("onnxruntime", choice.runtime.version())
    plain = LDMTextToImagePipeline.from_bundle(tiny_onnx_bundle, choice, options)
    pipe = LDMTextToImagePipeline.from_bundle(tiny_onnx_bundle, Choice(timed, ""), options)
    began = time.perf_counter()
    images = pipe(["a", "b"], **CALL).images
    elapsed_s = time.perf_counter() - began
    np.testing.assert_array_equal(images, plain(["a", "b"], **CALL).images)
    counts = {name: len(s) for name, s in timed.durations_s.items()}
    assert counts == {"text_encoder": 3, "time_encoder": 1, "unet": 3, "vae_decoder": 2}
    durations_s = [s for runs in timed.durations_s.values() for s in runs]
    assert min(durations_s) > 0
    assert sum(durations_s) < elapsed_s
    timed.clear()
    pipe.clone()(["a"], **CALL)  # a clone's runs count too; what is encoded once was
    counts = {name: len(s) for name, s in timed.durations_s.items()}
    assert counts == {"text_encoder": 1, "time_encoder": 1, "unet": 3, "vae_decoder": 1}
