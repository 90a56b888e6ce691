"""Programs that compute from mapped weights: the same pictures, and who gets them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.commands import memory
from ldm_engine.commands.memory import choose_memory, prefer_mapped
from ldm_engine.errors import InvalidArgumentError, RuntimeUnavailableError
from ldm_engine.runtimes.choice import MAPPED, choose_runtime
from ldm_engine.sampling.opening import open_to_run

CALL = {"num_inference_steps": 5, "guidance_scale": 2.0, "seed": 0, "output_type": "np"}
PROMPTS = ["a large red circle on the left", "a small blue star, black background"]


def test_pictures_are_those_of_weights_in_memory(shapes_bundle):
    images = []
    for mode in ("mapped", "resident"):
        with LDMTextToImagePipeline.from_pretrained(
            shapes_bundle.path, runtime="onnxruntime", memory=mode, threads=1
        ) as pipe:
            images.append(pipe(PROMPTS, **CALL).images)
            assert pipe.runtime == (MAPPED if mode == "mapped" else "onnxruntime")
    assert np.abs(images[0] - images[1]).max() <= 1 / 255


ANONYMOUS = """
import sys
from ldm_engine import LDMTextToImagePipeline

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def render(bundle):
    with LDMTextToImagePipeline.from_pretrained(bundle, memory="mapped", threads=1) as pipe:
        pipe("a", num_inference_steps=1, output_type="np")
        return anonymous()

small, bundle = sys.argv[1:]
before = render(small)  # all that is imported, and what is made once
print(render(bundle) - before)
"""


@pytest.mark.parametrize("weights", ["fp32", "fp16"])
def test_weights_take_no_memory(tiny_onnx_bundle, request, weights):
    """Those in fp16 are widened one operator at a time."""
    name = {"fp32": "shapes_bundle", "fp16": "shapes_fp16_bundle"}[weights]
    bundle = request.getfixturevalue(name)
    grown = subprocess.run(
        [sys.executable, "-c", ANONYMOUS, tiny_onnx_bundle.path, bundle.path],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(grown.stdout) < 10e6  # seen: below 1 MB; 39 MB where they are resident


def test_the_gate_measured_them(shapes_bundle):
    errors = shapes_bundle.parity[MAPPED]["fp32"]
    assert errors["unet"].relative_l2_error <= errors["unet"].tolerance


def test_by_themselves_they_are_never_chosen(shapes_bundle):
    assert open_to_run(shapes_bundle.path).choice.runtime.name != MAPPED
    with LDMTextToImagePipeline.from_pretrained(shapes_bundle.path, memory="mapped") as pipe:
        assert pipe.runtime == MAPPED


@pytest.mark.parametrize("runtime", ["openvino", "paddle"])
def test_another_runtime_cannot(shapes_bundle, runtime):
    with pytest.raises(InvalidArgumentError, match="auto and onnxruntime are accepted"):
        LDMTextToImagePipeline.from_pretrained(shapes_bundle.path, runtime=runtime, memory="mapped")


def test_another_precision_cannot(shapes_bundle):
    with pytest.raises(RuntimeUnavailableError, match="fp32"):
        LDMTextToImagePipeline.from_pretrained(
            shapes_bundle.path, memory="mapped", precision="bf16"
        )


@pytest.mark.parametrize(
    ("large", "free", "steps", "expected"),
    [
        (True, 1 << 50, 16, MAPPED),
        (True, 1 << 50, 17, "openvino"),
        (True, 1000, 1000, MAPPED),
        (True, None, 17, "openvino"),
        (False, 1000, 1, "openvino"),
    ],
)
def test_the_command_takes_them_where_they_are_sooner_done(
    shapes_bundle, monkeypatch, large, free, steps, expected
):
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: free)
    monkeypatch.setattr(memory, "_LARGE_BYTES", 1 if large else 1 << 60)
    opened = prefer_mapped(open_to_run(shapes_bundle.path, runtime="openvino"), steps)
    assert opened.choice.runtime.name == expected
    if expected == MAPPED:
        assert choose_memory("auto", opened) == "resident"


def test_a_bundle_without_the_format_goes_on_as_before(shapes_bundle, monkeypatch):
    monkeypatch.setattr(memory, "_LARGE_BYTES", 1)
    opened = open_to_run(shapes_bundle.path, runtime="openvino")
    programs = {
        name: replace(info, formats={"openvino": info.formats["openvino"]})
        for name, info in opened.bundle.programs.items()
    }
    opened = replace(opened, bundle=replace(opened.bundle, programs=programs))
    assert prefer_mapped(opened, 1) is opened


def test_a_bundle_of_before_there_was_this_is_refused(shapes_bundle):
    parity = {name: found for name, found in shapes_bundle.parity.items() if name != MAPPED}
    older = replace(shapes_bundle, parity=parity)
    with pytest.raises(RuntimeUnavailableError, match="export it again"):
        choose_runtime(older, MAPPED)


@pytest.mark.parametrize("memory", ["mapped", "none", ""])
def test_what_was_opened_is_loaded_in_a_mode_that_there_is(shapes_bundle, memory):
    with pytest.raises(InvalidArgumentError, match="'resident' or 'sequential'"):
        LDMTextToImagePipeline.from_opened(open_to_run(shapes_bundle.path), memory)
