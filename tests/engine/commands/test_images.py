from __future__ import annotations

import io
import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from ldm_engine.commands.images import contact_sheet
from ldm_engine.errors import InvalidArgumentError
from ldm_engine.sampling.recipes import IMAGE_FORMATS, RECIPE_KEY, Recipe, encode_image, read_recipe
from ldm_engine.sampling.saving import save_image, slug
from ldm_engine.sampling.settings import PICTURE_SETTINGS

RECIPE = Recipe(
    settings={
        "prompt": 'a "quoted" 🐿 [bold]\nprompt',
        "negative_prompt": "é",
        "seed": 2**32 - 1,
        "num_inference_steps": 50,
        "guidance_scale": 6.5,
        "eta": 0.3,
        "solver": "ddim",
        "timesteps": None,
        "solver_table": None,
        **dict.fromkeys(PICTURE_SETTINGS),
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
    assert save_image(Image.fromarray(pixels), tmp_path, "a", RECIPE) == path
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
        names.append(save_image(Image.new("RGB", (8, 8)), tmp_path, "a-cat-7", RECIPE).name)
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


def _exif(comment, kind=7, is_big=True):
    """Exif data with a user comment, as TIFF's bytes of either order."""
    order = ">" if is_big else "<"
    padded = comment + b"\0" * (len(comment) % 2)

    def entry(tag, kind, count, value):
        return struct.pack(f"{order}HHII", tag, kind, count, value)

    first = struct.pack(f"{order}H", 1) + entry(0x8769, 4, 1, 26) + bytes(4)
    second = struct.pack(f"{order}H", 1) + entry(0x9286, kind, len(comment), 44) + bytes(4)
    header = (b"MM\0*" if is_big else b"II*\0") + struct.pack(f"{order}I", 8)
    return b"Exif\0\0" + header + first + second + padded


JSON = RECIPE.as_json()
IN_ASCII = json.dumps(json.loads(JSON))
COMMENTS = {
    "ASCII": b"ASCII\0\0\0" + IN_ASCII.encode(),
    "UTF-8 under ASCII": b"ASCII\0\0\0" + JSON.encode() + b"\0\0\0",
    "UTF-16-BE": b"UNICODE\0" + JSON.encode("utf-16-be"),
    "UTF-16-LE": b"UNICODE\0" + JSON.encode("utf-16-le") + b"\0\0",
    "UTF-16 with its mark": b"UNICODE\0" + JSON.encode("utf-16"),
    "UTF-8 under UNICODE": b"Unicode\0" + JSON.encode(),
    "undefined, spaces behind": bytes(8) + JSON.encode() + b"   \0",
    "no code": JSON.encode(),
}


@pytest.mark.parametrize("is_big", [True, False], ids=["big-endian", "little-endian"])
@pytest.mark.parametrize("image_format", ["jpeg", "webp", "png"])
@pytest.mark.parametrize("comment", COMMENTS)
def test_a_recipe_survives_exif_data_that_is_written_anew(tmp_path, comment, image_format, is_big):
    """In each form that exiftool and others give a comment, and in a PNG's chunk eXIf."""
    path = tmp_path / "a.image"
    for kind in (7, 2) if comment == "no code" else (7,):
        exif = _exif(COMMENTS[comment], kind, is_big)
        Image.new("RGB", (16, 16)).save(path, image_format, exif=exif)
        assert read_recipe(path) == RECIPE


@pytest.mark.parametrize("key", ["tEXt", "zTXt"])
def test_a_recipe_survives_text_chunks_of_other_kinds(tmp_path, key):
    """UTF-8 put where Latin-1 goes, as ImageMagick does."""
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, "PNG")
    text = JSON.encode() if key == "tEXt" else b"\0" + zlib.compress(JSON.encode())
    body = key.encode() + RECIPE_KEY.encode() + b"\0" + text
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    whole = content.getvalue()
    (tmp_path / "a.png").write_bytes(whole[:33] + chunk + whole[33:])
    assert read_recipe(tmp_path / "a.png") == RECIPE


@given(st.sampled_from(["jpeg", "png", "webp"]), st.binary(max_size=40), st.integers(0, 1500))
def test_a_foreign_picture_is_refused_in_a_sentence(image_format, noise, times):
    content = io.BytesIO()
    exif = _exif((noise * times)[:60_000] or b"x")
    Image.new("RGB", (8, 8)).save(content, image_format, exif=exif)
    for damaged in (content.getvalue(), content.getvalue()[: len(content.getvalue()) // 2]):
        with pytest.raises(InvalidArgumentError, match="recipe") as refused:
            read_recipe(io.BytesIO(damaged))
        assert len(str(refused.value)) < 300


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4))
def test_a_recipe_of_others_is_refused(held):
    info = PngImagePlugin.PngInfo()
    info.add_itxt(RECIPE_KEY, json.dumps(held))
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, format="PNG", pnginfo=info)
    content.seek(0)
    with pytest.raises(InvalidArgumentError, match="recipe"):
        read_recipe(content)
