"""Pictures and masks as people have them: read as they are meant, or refused by name."""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import threading
import warnings

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from ldm_engine.errors import InputError, LDMEngineError
from ldm_engine.machine import remote
from ldm_engine.sampling import pictures
from ldm_engine.sampling.colours import PictureWarning
from ldm_engine.sampling.pictures import (
    Picture,
    PictureFile,
    find_picture,
    read_mask,
    read_picture,
)

PIXELS = np.random.RandomState(0).randint(0, 256, (16, 32, 3)).astype(np.uint8)
ORIENTATION = 0x0112
FINE = {"quality": 100, "subsampling": 0}  # of JPEG


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


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turned = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1),
    }[orientation](PIXELS)  # fmt: skip
    path = tmp_path / "a"
    path.write_bytes(_saved(Image.fromarray(np.ascontiguousarray(turned)), kind, exif=exif, **FINE))
    found = find_picture("image", path)
    assert isinstance(found, PictureFile)
    assert found.size == PIXELS.shape[:2]
    assert np.abs(_read(path).astype(int) - PIXELS).max() <= (8 if kind == "JPEG" else 0)


def _linear(space, tags):
    """A profile by which numbers are light itself."""
    curve = b"curv" + bytes(8)
    names = [*tags, *{"RGB ": ("rTRC", "gTRC", "bTRC"), "GRAY": ("kTRC",)}[space]]
    values = [*tags.values(), *[curve] * (len(names) - len(tags))]
    at, table = 132 + 12 * len(names), struct.pack(">I", len(names))
    for name, value in zip(names, values, strict=True):
        table += name.encode() + struct.pack(">II", at, len(value))
        at += len(value)
    head = bytearray(128)
    head[8:24] = b"\x02\x10\0\0mntr" + space.encode() + b"XYZ "
    head[36:40] = b"acsp"
    head[68:80] = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    head[:4] = struct.pack(">I", at)
    return bytes(head) + table + b"".join(values)


def _xyz(*values):
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))


LINEAR = _linear("RGB ", {
    "wtpt": _xyz(0.9642, 1, 0.8249), "rXYZ": _xyz(0.4361, 0.2225, 0.0139),
    "gXYZ": _xyz(0.3851, 0.7169, 0.0971), "bXYZ": _xyz(0.1431, 0.0606, 0.7139),
})  # fmt: skip
GREY = _linear("GRAY", {"wtpt": _xyz(0.9642, 1, 0.8249)})


def test_colours_of_a_profile_are_brought_to_srgb(tmp_path):
    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "a.png"
    path.write_bytes(_saved(Image.fromarray(PIXELS), icc_profile=srgb))
    np.testing.assert_array_equal(_read(path), PIXELS)
    for image in (Image.new("L", (16, 16), 90), Image.new("P", (16, 16), 1)):
        if image.mode == "P":
            image.putpalette([9, 9, 9, 90, 90, 90])
        path.write_bytes(_saved(image, icc_profile=LINEAR if image.mode == "P" else GREY))
        assert np.abs(_read(path) - 162.0).max() <= 2  # 255 * srgb(90 / 255): 90 is linear
    path.write_bytes(_saved(Image.new("RGB", (16, 16), (90, 90, 90)), icc_profile=LINEAR))
    assert np.abs(_read(path) - 162.0).max() <= 2
    grey = Image.new("LA", (16, 16), (90, 255))
    grey.putpixel((0, 0), (90, 0))
    path.write_bytes(_saved(grey, icc_profile=GREY))
    with pytest.warns(PictureWarning):
        pixels = read_picture("image", path).pixels[0, :2]
    np.testing.assert_allclose(pixels, [[255] * 3, [162] * 3], atol=2)
    deep = np.full((16, 16), 90 * 257, np.uint16)
    path.write_bytes(_saved(Image.fromarray(deep), icc_profile=GREY))
    assert np.abs(_read(path) - 162.0).max() <= 2
    wrong = ImageCms.ImageCmsProfile(lab).tobytes()
    for profile in (wrong, b"none"):
        path.write_bytes(_saved(Image.fromarray(PIXELS), icc_profile=profile))
        with pytest.raises(LDMEngineError, match="profile that cannot be applied"):
            _read(path)


ANIMATION = _saved(
    Image.new("RGB", (16, 16), "red"), "GIF", save_all=True,
    append_images=[Image.new("RGB", (16, 16), "blue")],
)  # fmt: skip
PAGES = _saved(
    Image.new("RGB", (16, 16), "red"), "TIFF", save_all=True,
    append_images=[Image.new("RGB", (16, 16), "blue")],
)  # fmt: skip
EPS = _saved(Image.new("RGB", (16, 16)), "EPS")  # to read it, Pillow would start Ghostscript
DEEP = _saved(Image.fromarray(np.full((16, 16), 300, np.uint16)), transparency=300)
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
        (EPS, "no picture that can be read"),
        (DEEP, "16 bits and a transparent colour"),
        (_saved(Image.new("L", (1, 1))), "1x1 pixels; from 8"),
        (_saved(Image.new("1", (20_000, 20_000))), "more than 64 million pixels"),
        (_saved(Image.new("F", (16, 16)), "TIFF"), "floating-point"),
    ],
    ids=range(11),
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
        ("/no/such/file.png", "does not exist"), ("/", "is no regular file"),
        ("/dev/zero", "is no regular file"), ("a\0b", r"a\\x00b.*does not exist"),
        (np.zeros((16, 16, 3), complex), "complex"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused(value, says):
    with pytest.raises(LDMEngineError, match=says):
        _read(value)


@pytest.mark.parametrize("content", [ANIMATION, PAGES, PNG, JPEG], ids=range(4))
def test_a_file_that_is_cut_off_anywhere_ends_in_no_traceback(tmp_path, content):
    path = tmp_path / "a"
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with contextlib.suppress(LDMEngineError):  # a GIF may have lost just its second picture
            _read(path)


BEGINNINGS = (b"", PNG[:60], JPEG[:100], ANIMATION[:40], PAGES[:99])


@given(st.binary(max_size=300), st.sampled_from(BEGINNINGS))
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


def test_digests_are_of_pixels_and_shape_or_of_the_file(tmp_path):
    one, other = Picture(PIXELS), Picture(PIXELS.reshape(32, 16, 3))
    assert one.sha256 == Picture(PIXELS.copy()).sha256 != other.sha256
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    found = find_picture("image", path)
    assert found == PictureFile(str(path), (16, 32), hashlib.sha256(PNG).hexdigest())
    assert read_picture("image", found).sha256 == found.sha256


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_size_of_a_file_is_that_of_the_upright_picture(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "a.jpg"
    path.write_bytes(_saved(Image.fromarray(PIXELS), "JPEG", exif=exif))
    found = find_picture("image", path)
    assert found.size == read_picture("image", found).size
    assert found.size == ((16, 32) if orientation == 1 else (32, 16))


def test_a_file_that_was_changed_since_it_was_found_is_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    found = find_picture("image", path)
    path.write_bytes(_saved(Image.fromarray(255 - PIXELS)))
    with pytest.raises(InputError, match="was changed since it was looked at"):
        read_picture("image", found)
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        read_picture("image", found)


def test_a_picture_at_a_url_is_read_and_one_that_hangs_is_given_up(monkeypatch):
    fsspec.filesystem("memory").pipe_file("/pictures/a.png", PNG)
    found = find_picture("image", "memory://pictures/a.png")
    np.testing.assert_array_equal(read_picture("image", found).pixels, PIXELS)
    with pytest.raises(InputError, match="cannot be opened or read"):
        find_picture("image", "memory://pictures/b.png")
    with pytest.raises(InputError, match="cannot be opened or read"):
        find_picture("image", "nosuchscheme://a.png")
    asked = threading.Event()
    monkeypatch.setattr(pictures, "_FETCH_S", 0.1)
    monkeypatch.setattr(remote, "open_to_read", lambda url: asked.wait(60))
    with pytest.raises(InputError, match=r"did not come within 0\.1 s"):
        find_picture("image", "memory://pictures/a.png")
    asked.set()
