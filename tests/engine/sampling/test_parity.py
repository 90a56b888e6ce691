"""The shipped checkpoint, rendered by the engine and by diffusers' own pipeline."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from conftest import SHAPES
from ldm_engine.sampling.noise import NoiseStream

PROMPTS = [
    "a small red circle on the left and a large blue star on the right, white background",
    "a large green triangle in the center, black background",
    "a yellow square at the top",
    "",
]
# One step of an 8-bit pixel; what is left is rounding in the last of 50 float32 steps.
PIXEL_TOLERANCE = 1


def to_8bit(images):
    return (np.asarray(images) * 255).round().astype(int)


@pytest.fixture(scope="module")
def reference():
    pipe = diffusers.LDMTextToImagePipeline.from_pretrained(SHAPES, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
def test_images_are_those_of_diffusers(shapes_pipe, reference, guidance_scale):
    latents = np.empty((len(PROMPTS), 4, 8, 8), np.float32)
    NoiseStream(range(len(PROMPTS))).fill(latents)
    call = {"num_inference_steps": 50, "eta": 0.0, "guidance_scale": guidance_scale}
    expected = reference(PROMPTS, latents=torch.tensor(latents), output_type="np", **call).images
    given = shapes_pipe(PROMPTS, latents=latents, output_type="np", **call).images
    assert np.abs(to_8bit(given) - to_8bit(expected)).max() <= PIXEL_TOLERANCE
    by_seed = shapes_pipe(PROMPTS, seed=0, output_type="np", **call).images
    np.testing.assert_array_equal(by_seed, given)


def test_an_image_is_the_same_alone_and_among_five(shapes_pipe):
    prompts = [*PROMPTS, "two words"]
    call = {"guidance_scale": 6.0, "output_type": "np"}
    batch = shapes_pipe(prompts, seed=0, **call).images
    for i, prompt in enumerate(prompts):
        alone = shapes_pipe(prompt, seed=i, **call).images
        assert np.abs(to_8bit(alone[0]) - to_8bit(batch[i])).max() <= PIXEL_TOLERANCE
