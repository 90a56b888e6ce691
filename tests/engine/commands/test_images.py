from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from ldm_engine.commands.images import contact_sheet, save_png, slug
from ldm_engine.errors import InvalidArgumentError
from ldm_engine.sampling.recipes import IMAGE_FORMATS, RECIPE_KEY, Recipe, encode_image, read_recipe

RECIPE = Recipe(
    settings={
        "prompt": 'a "quoted" 🐿 [bold]\nprompt',
        "negative_prompt": "é",
        "seed": 2**32 - 1,
        "num_inference_steps": 50,
        "guidance_scale": 6.5,
        "eta": 0.3,
        "height": 64,
        "width": 128,
    },
    model="m",
    bundle="0" * 64,
    runtime="paddle",
    precision="fp32",
)


def test_a_picture_carries_its_recipe(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (64, 128, 3)).astype(np.uint8)
    path = tmp_path / "a.png"
    assert save_png(Image.fromarray(pixels), tmp_path, "a", RECIPE) == path
    assert read_recipe(path) == RECIPE
    with Image.open(path) as image:
        assert image.info["Description"] == RECIPE.settings["prompt"]
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_a_file_without_a_recipe_is_refused(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InvalidArgumentError, match="recipe"):
        read_recipe(path)


def test_a_plain_picture_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(InvalidArgumentError, match="recipe"):
        read_recipe(tmp_path / "a.png")


def test_no_picture_is_overwritten(tmp_path):
    names = []
    for _ in range(3):
        names.append(save_png(Image.new("RGB", (8, 8)), tmp_path, "a-cat-7", RECIPE).name)
    assert names == ["a-cat-7.png", "a-cat-7-2.png", "a-cat-7-3.png"]
    assert sorted(names) == sorted(p.name for p in tmp_path.iterdir())


@given(st.text(max_size=300))
def test_any_prompt_makes_a_safe_name(text):
    name = slug(text)
    assert 0 < len(name) <= 60
    assert all(c.isascii() and (c.isalnum() or c == "-") for c in name)


def test_a_contact_sheet_shows_every_image_in_order():
    images = [Image.new("RGB", (32, 16), (i * 40, 0, 0)) for i in range(5)]
    sheet = contact_sheet(images)  # three columns, two rows, gaps of 2
    for i in range(5):
        x, y = 2 + (i % 3) * 34 + 16, 2 + (i // 3) * 18 + 8
        assert sheet.getpixel((x, y)) == (i * 40, 0, 0)
    assert sheet.size == (3 * 34 + 2, 2 * 18 + 2)


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_every_format_carries_a_recipe(tmp_path, image_format):
    pixels = np.random.RandomState(0).randint(0, 256, (64, 128, 3)).astype(np.uint8)
    long = {"prompt": "é🐿\0" * 1000, "negative_prompt": "\x01" * 5000}
    recipe = replace(RECIPE, settings={**RECIPE.settings, **long})
    path = tmp_path / f"a{IMAGE_FORMATS[image_format]}"
    path.write_bytes(encode_image(Image.fromarray(pixels), recipe, image_format, 90))
    assert read_recipe(path) == recipe
    with Image.open(path) as image:
        assert image.format == image_format.upper()
        assert image.size == (128, 64)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4))
def test_a_recipe_of_others_is_refused(held):
    info = PngImagePlugin.PngInfo()
    info.add_itxt(RECIPE_KEY, json.dumps(held))
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, format="PNG", pnginfo=info)
    content.seek(0)
    with pytest.raises(InvalidArgumentError, match="recipe"):
        read_recipe(content)
