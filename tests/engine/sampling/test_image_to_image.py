"""Calls that start from pictures, with and without masks."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import SHAPES, without_optional
from ldm_engine import LDMTextToImagePipeline
from ldm_engine.errors import InvalidArgumentError
from ldm_engine.sampling.noise import NoiseStream
from ldm_engine.sampling.rules import check_image
from ldm_engine.sampling.settings import SETTINGS

CALL = {"num_inference_steps": 5, "output_type": "np", "seed": 3}
PIXELS = np.random.RandomState(0).randint(0, 256, (2, 64, 64, 3)).astype(np.uint8)
MASK = np.zeros((64, 64), bool)
MASK[20:40, 8:30] = True
BATCH_TOLERANCE = 1e-4  # oneDNN orders its sums by the batch size


def render(pipe, *args, **kwargs):
    return pipe(*args, **{**CALL, **kwargs}).images


def in_bytes(images):
    return (images * 255).round().astype(np.uint8)


def grown(mask, cell):
    cells = mask.reshape(mask.shape[0] // cell, cell, mask.shape[1] // cell, cell).any((1, 3))
    return cells.repeat(cell, 0).repeat(cell, 1)


def test_a_picture_may_come_in_any_form(tiny_pipe, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS[0]).save(path)
    first = render(tiny_pipe, "a", image=PIXELS[0])
    for form in (Image.fromarray(PIXELS[0]), path, str(path), PIXELS[0] / np.float32(255)):
        np.testing.assert_array_equal(render(tiny_pipe, "a", image=form), first)
    assert np.abs(first - render(tiny_pipe, "a", image=PIXELS[1])).max() > 0.01
    assert np.abs(first - render(tiny_pipe, "a")).max() > 0.01


@pytest.mark.parametrize("solver", ["ddim", "dpmsolver++"])
def test_an_image_is_the_same_alone_and_in_a_batch(tiny_pipe, solver):
    options = {"solver": solver, "guidance_scale": 3.0, "strength": 0.6}
    masks = [MASK, ~MASK]
    batch = render(tiny_pipe, ["a", "b"], image=list(PIXELS), mask_image=masks, **options)
    for i, prompt in enumerate(["a", "b"]):
        alone = render(
            tiny_pipe, prompt, image=PIXELS[i], mask_image=masks[i], seed=3 + i, **options
        )
        assert np.abs(alone[0] - batch[i]).max() < BATCH_TOLERANCE


def test_each_distinct_picture_is_encoded_once(tiny_bundle, monkeypatch):
    pipe = LDMTextToImagePipeline.from_pretrained(tiny_bundle.path)
    program, runs = pipe.programs["vae_encoder"], []
    run = program.run
    monkeypatch.setattr(program, "run", lambda *a, **k: runs.append(1) or run(*a, **k))
    one = render(pipe, ["a"] * 3, image=PIXELS[0], seed=[1, 1, 1])
    assert len(runs) == 1
    several = [PIXELS[0], PIXELS[1], PIXELS[0].copy()]
    other = render(pipe, ["a"] * 3, image=several, seed=[1, 1, 1])
    assert len(runs) == 2
    np.testing.assert_array_equal(other[[0, 2]], one[[0, 2]])
    render(pipe, ["a"] * 2, image=PIXELS[1], mask_image=[MASK, ~MASK])
    assert len(runs) == 2
    render(pipe, "a", image=PIXELS[0], height=128, width=128)
    assert len(runs) == 3


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_outside_of_the_mask_all_bytes_stay(tiny_pipe, eta, guidance_scale, strength):
    options = {"eta": eta, "guidance_scale": guidance_scale, "strength": strength}
    images = in_bytes(
        render(tiny_pipe, ["a", "b"], image=list(PIXELS), mask_image=[MASK, ~MASK], **options)
    )
    for image, given, mask in zip(images, PIXELS, (MASK, ~MASK), strict=True):
        inside = grown(mask, tiny_pipe.bundle.model.scale_factor)
        np.testing.assert_array_equal(image[~inside], given[~inside])
        assert (image[inside] != given[inside]).mean() > 0.5


def test_known_latents_are_at_the_noise_level_that_a_step_leads_to(tiny_pipe):
    seen = []
    render(
        tiny_pipe, "a", image=PIXELS[0], mask_image=MASK, num_inference_steps=4,
        callback_on_step_end=lambda i, t, x: seen.append((t, x.copy())) and None,
    )  # fmt: skip
    cell = tiny_pipe.bundle.model.scale_factor
    kept = ~grown(MASK, cell)[::cell, ::cell]
    noise = np.empty_like(seen[0][1])
    NoiseStream([3]).fill(noise)
    picture = seen[-1][1]  # what is known ends without noise
    alphas = tiny_pipe.schedule.alphas_cumprod()
    for (_, x), (timestep, _) in pairwise(seen):
        expected = np.sqrt(alphas[timestep]) * picture + np.sqrt(1 - alphas[timestep]) * noise
        np.testing.assert_allclose(x[..., kept], expected[..., kept], atol=1e-5)


def test_clones_and_programs_that_take_turns_give_the_same(tiny_pipe, tiny_bundle):
    options = {"image": PIXELS[0], "mask_image": MASK}
    expected = render(tiny_pipe, "a", **options)
    with tiny_pipe.clone() as clone:
        np.testing.assert_array_equal(render(clone, "a", **options), expected)
    with LDMTextToImagePipeline.from_pretrained(tiny_bundle.path, memory="sequential") as pipe:
        np.testing.assert_array_equal(render(pipe, "a", **options), expected)


def test_a_size_crops_and_resizes(tiny_pipe):
    large = np.zeros((128, 256, 3), np.uint8)
    large[:, 64:192] = PIXELS[0].repeat(2, 0).repeat(2, 1)
    image = render(tiny_pipe, "a", image=large, height=64, width=64, strength=0.2)
    assert image.shape == (1, 64, 64, 3)
    assert render(tiny_pipe, "a", image=large).shape == (1, 128, 256, 3)
    wide, square = np.zeros((64, 128, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(InvalidArgumentError, match="pictures of 64x64 and 128x64 pixels"):
        render(tiny_pipe, ["a", "b"], image=[wide, square])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image": [PIXELS[0], None]}, "lists None among its pictures"),
        ({"image": [PIXELS[0]]}, "lists 1 pictures for 2 images"),
        ({"image": PIXELS[0][:50]}, "Give `height` 64 and `width` 64, or others: it is cropped"),
        ({"image": PIXELS[0], "latents": np.zeros((2, 4, 8, 8), np.float32)}, "beside `image`"),
        ({"mask_image": MASK}, "without an `image`"),
        ({"image": PIXELS[0], "mask_image": np.zeros((64, 64))}, "nothing white"),
        ({"image": PIXELS[0], "strength": 0.1}, "less than one. Give a strength of 0.2"),
    ],
    ids=range(7),
)
def test_what_cannot_be_started_from_is_refused(tiny_pipe, options, says):
    with pytest.raises(InvalidArgumentError, match=says):
        render(tiny_pipe, ["a", "b"], **options)


def test_the_advice_for_a_strength_that_is_too_small_helps(tiny_pipe):
    for steps in range(2, 1001):
        settings = {"prompt": "a", "image": PIXELS[0], "num_inference_steps": steps}
        with pytest.raises(InvalidArgumentError) as caught:
            check(tiny_pipe, {**settings, "strength": 0.9 / steps})
        advice = re.search(r"strength of (\S+) or more", str(caught.value))
        assert check(tiny_pipe, {**settings, "strength": float(advice[1])})


def check(pipe, settings):
    values = {**{s.name: s.default for s in SETTINGS}, "seed": 0, **settings}
    return check_image(values, pipe.opened.limits)


def test_a_bundle_without_an_encoder_says_how_to_get_it(tiny_pipe, tiny_bundle):
    opened = replace(tiny_pipe.opened, bundle=without_optional(tiny_bundle))
    with pytest.raises(InvalidArgumentError, match="without --no-encoder"):
        opened.request({"prompt": "a", "image": PIXELS[0]})
    assert opened.request({"prompt": "a"}).inputs == ()


@pytest.fixture(scope="module")
def reference():
    pipe = diffusers.LDMTextToImagePipeline.from_pretrained(SHAPES, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(("strength", "guidance_scale"), [(0.8, 2.0), (0.5, 6.0), (1.0, 1.0)])
def test_images_are_those_of_a_loop_over_the_parts_of_diffusers(
    shapes_pipe, reference, strength, guidance_scale
):
    prompt, steps = "a large red star on the left, white background", 10
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[10:40, 20:50] = (200, 30, 40)
    ours = shapes_pipe(
        prompt, image=picture, strength=strength, guidance_scale=guidance_scale, seed=4,
        num_inference_steps=steps, output_type="np",
    ).images  # fmt: skip
    theirs = _loop_of_diffusers(reference, prompt, picture, strength, guidance_scale, steps, 4)
    assert np.abs(in_bytes(ours).astype(int) - in_bytes(theirs)).max() <= 1


def _loop_of_diffusers(pipe, prompt, picture, strength, guidance_scale, steps, seed):
    """Image to image, as diffusers' pipelines do it, from this one's VAE, UNet and scheduler."""
    factor = pipe.vqvae.config.scaling_factor
    pixels = torch.from_numpy(picture / np.float32(127.5) - 1).permute(2, 0, 1)[None]
    tokens = pipe.tokenizer(
        ["", prompt], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps[steps - min(int(steps * strength), steps) :]
    with torch.inference_mode():
        states = pipe.bert(tokens.input_ids)[0]
        first = pipe.vqvae.encode(pixels).latent_dist.mean * factor
        noise = np.empty(first.shape, np.float32)
        NoiseStream([seed]).fill(noise)
        latents = scheduler.add_noise(first, torch.from_numpy(noise), timesteps[:1])
        for timestep in timesteps:
            both = pipe.unet(torch.cat([latents] * 2), timestep, encoder_hidden_states=states)
            unconditional, conditional = both.sample.chunk(2)
            guided = unconditional + guidance_scale * (conditional - unconditional)
            latents = scheduler.step(guided, timestep, latents).prev_sample
        decoded = pipe.vqvae.decode(latents / factor).sample
    return (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
