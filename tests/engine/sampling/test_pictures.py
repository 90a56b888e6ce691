"""Pictures and masks as people have them: read as they are meant, or refused by name."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from ldm_engine.bundle.model import ModelInfo
from ldm_engine.errors import LDMEngineError, ShapeError
from ldm_engine.sampling.pictures import (
    MAX_PIXELS,
    Picture,
    PictureWarning,
    fit_pictures,
    read_mask,
    read_picture,
)

MODEL = ModelInfo("m", 4, 8, 2, 8, 77, 100, 1280, 2048)  # sides are multiples of 16
PIXELS = np.random.RandomState(0).randint(0, 256, (16, 32, 3)).astype(np.uint8)
ORIENTATION = 0x0112


def _saved(image, image_format="PNG", **options):
    content = io.BytesIO()
    image.save(content, format=image_format, **options)
    return content.getvalue()


def _read(value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_picture("image", value).pixels


@pytest.mark.parametrize("kind", ["path", "text", "image", "array", "floats", "list"])
def test_pictures_of_any_kind(tmp_path, kind):
    path = tmp_path / "a.png"
    path.write_bytes(_saved(Image.fromarray(PIXELS)))
    value = {
        "path": path,
        "text": str(path),
        "image": Image.fromarray(PIXELS),
        "array": PIXELS,
        "floats": PIXELS / np.float32(255),
        "list": PIXELS.tolist(),
    }[kind]
    if kind == "list":  # of whole numbers that nobody said to be bytes
        with pytest.raises(LDMEngineError, match="an array of int64"):
            _read(value)
        return
    np.testing.assert_array_equal(_read(value), PIXELS)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("L", (77, 77, 77)), ("1", (255, 255, 255)), ("P", (10, 20, 30)), ("CMYK", (245, 235, 225))],
)
def test_modes_become_rgb(mode, expected):
    image = Image.new("RGB", (16, 16), (10, 20, 30)).quantize(4)
    if mode == "L":
        image = Image.new("L", (16, 16), 77)
    if mode == "1":
        image = Image.new("1", (16, 16), 1)
    if mode == "CMYK":
        image = Image.new("CMYK", (16, 16), (10, 20, 30, 0))
    assert tuple(_read(image)[0, 0]) == expected


def test_16_bits_are_rounded_and_not_cut_off(tmp_path):
    values = np.array([[0, 257, 128, 129, 65535, 32896, 300, 65406]] * 8, np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(_saved(Image.fromarray(values)))
    assert _read(path)[0, :, 0].tolist() == [0, 1, 0, 1, 255, 128, 1, 254]


def test_transparent_parts_are_laid_on_white_and_told():
    image = Image.new("RGBA", (16, 16), (200, 0, 0, 255))
    assert tuple(_read(image)[0, 0]) == (200, 0, 0)
    image.putpixel((0, 0), (200, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    with pytest.warns(PictureWarning, match="laid on white"):
        pixels = read_picture("image", image).pixels
    assert pixels[0, :3].tolist() == [[255] * 3, [127] * 3, [200, 0, 0]]
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([9, 9, 9, 50, 60, 70])
    transparent = Image.open(io.BytesIO(_saved(palette, transparency=1)))
    with pytest.warns(PictureWarning):
        assert tuple(read_picture("image", transparent).pixels[0, 0]) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turned = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1),
    }[orientation](PIXELS)  # fmt: skip
    path = tmp_path / "a.png"
    path.write_bytes(_saved(Image.fromarray(np.ascontiguousarray(turned)), exif=exif))
    np.testing.assert_array_equal(_read(path), PIXELS)


def test_colours_of_a_profile_are_brought_to_srgb(tmp_path):
    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "a.png"
    path.write_bytes(_saved(Image.fromarray(PIXELS), icc_profile=srgb))
    np.testing.assert_array_equal(_read(path), PIXELS)
    wrong = ImageCms.ImageCmsProfile(lab).tobytes()
    for profile in (wrong, b"none"):
        path.write_bytes(_saved(Image.fromarray(PIXELS), icc_profile=profile))
        with pytest.raises(LDMEngineError, match="profile that cannot be applied"):
            _read(path)


ANIMATION = _saved(
    Image.new("RGB", (16, 16), "red"), "GIF", save_all=True,
    append_images=[Image.new("RGB", (16, 16), "blue")],
)  # fmt: skip
PNG, JPEG = _saved(Image.fromarray(PIXELS)), _saved(Image.fromarray(PIXELS), "JPEG")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no picture that can be read"),
        (b"{}", "no picture that can be read"),
        (PNG[:200], "cut off or damaged"),
        (JPEG[:-60], "cut off or damaged"),
        (PNG[:10], "no picture that can be read"),
        (ANIMATION, "2 pictures, an animation or pages"),
        (_saved(Image.new("L", (1, 1))), "1x1 pixels; from 8"),
        (_saved(Image.new("1", (20_000, 20_000))), "more than 64 million pixels"),
        (_saved(Image.new("F", (16, 16)), "TIFF"), "floating-point"),
    ],
    ids=range(9),
)
def test_files_that_are_no_such_picture_are_refused(tmp_path, content, says):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(LDMEngineError, match=says) as caught:
        _read(path)
    assert "`image`" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "NoneType"), (3, "int"), ({}, "dict"), (b"\x89PNG", "bytes"), (object(), "object"),
        (np.zeros((3, 16, 16), np.uint8), r"\(3, 16, 16\)"), (np.zeros((16, 16)), r"\(16, 16\)"),
        (np.zeros((1, 16, 16, 3)), r"\(1, 16, 16, 3\)"), (np.zeros((0, 0, 3)), "0x0 pixels"),
        (np.zeros((4, 16, 3)), "16x4 pixels"), (np.full((16, 16, 3), 1.1), "outside of 0 to 1"),
        (np.full((16, 16, 3), np.nan), "outside of 0 to 1"), (-np.ones((16, 16, 3)), "outside"),
        (np.zeros((16, 16, 3), np.int32), "int32"), (np.zeros((16, 16, 3), bool), "bool"),
        ("/no/such/file.png", "no such file"), ("/", "no such file"), ("a\0b", "no such file"),
        ("http://localhost/a.png", "no such file"), (np.zeros((16, 16, 3), complex), "complex"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_picture_is_refused(value, says):
    with pytest.raises(LDMEngineError, match=says):
        _read(value)


@given(st.binary(max_size=300), st.sampled_from([b"", PNG[:60], JPEG[:100], ANIMATION[:40]]))
def test_no_file_ends_in_a_traceback(tmp_path_factory, content, begin):
    path = tmp_path_factory.mktemp("any") / "a"
    path.write_bytes(begin + content)
    with warnings.catch_warnings(), contextlib.suppress(LDMEngineError):
        warnings.simplefilter("ignore")
        read_picture("image", path)


def test_a_mask_is_black_or_white():
    grey = np.tile(np.array([0, 127, 128, 255], np.uint8), (8, 4))
    expected = [0, 0, 255, 255]
    for value in (grey, Image.fromarray(grey), grey / 255, grey >= 128):
        assert read_mask("mask_image", value).pixels[0, :4].tolist() == expected
    rgb = Image.merge("RGB", [Image.fromarray(grey)] * 3)
    assert read_mask("mask_image", rgb).pixels[0, :4].tolist() == expected
    rgb.putalpha(Image.new("L", rgb.size, 100))
    with pytest.raises(LDMEngineError, match="without transparency"):
        read_mask("mask_image", rgb)


def test_a_size_crops_the_middle_and_resizes():
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, 24:40] = 255  # the middle 16
    picture, mask = Picture(wide), Picture(wide[..., 0])
    fitted, fitted_mask = fit_pictures("image", picture, mask, (32, 32), MODEL)
    assert fitted.pixels.shape == (32, 32, 3)
    assert (fitted.pixels[:, 1:-1] > 240).all()  # those beside know of what was cut off
    assert (fitted_mask.pixels == 255).all()
    same = fit_pictures("image", picture, None, (None, None), MODEL)
    assert same == (picture, None)
    narrower, _ = fit_pictures("image", picture, None, (None, 32), MODEL)
    assert narrower.pixels.shape == (16, 32, 3)


def test_sizes_that_the_model_does_not_render_are_told_with_the_nearest():
    picture = Picture(np.zeros((70, 100, 3), np.uint8))
    with pytest.raises(ShapeError, match="height=64 and width=96"):
        fit_pictures("image", picture, None, (None, None), MODEL)
    mask = Picture(np.zeros((70, 101), np.uint8))
    with pytest.raises(ShapeError, match="101x70 pixels and the picture 100x70"):
        fit_pictures("image", picture, mask, (64, 64), MODEL)


def test_digests_are_of_pixels_and_shape():
    one, other = Picture(PIXELS), Picture(PIXELS.reshape(32, 16, 3))
    assert one == Picture(PIXELS.copy())
    assert len({one, other, Picture(PIXELS.copy())}) == 2
    assert MAX_PIXELS == 64 << 20
