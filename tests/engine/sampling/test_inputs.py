"""Pictures at the size to render, and what of them stays."""

from __future__ import annotations

import numpy as np
import pytest

from ldm_engine.bundle.model import ModelInfo
from ldm_engine.errors import LDMEngineError
from ldm_engine.sampling.inputs import Input, in_memory, read_inputs
from ldm_engine.sampling.pictures import Picture

MODEL = ModelInfo("m", 4, 8, 2, 8, 77, 100, 1280, 2048)  # a cell is 8 pixels
PIXELS = np.random.RandomState(0).randint(0, 256, (32, 48, 3)).astype(np.uint8)


def _values(picture, mask=None, size=(32, 48)):
    return {
        "image": Picture(picture), "mask_image": None if mask is None else Picture(mask),
        "height": size[0], "width": size[1], "image_sha256": Picture(picture).sha256,
        "mask_sha256": None if mask is None else Picture(mask).sha256,
    }  # fmt: skip


def test_the_middle_is_kept_and_resized():
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, 24:40] = 255  # the middle 16
    loaded = in_memory(_values(wide, wide[..., 0], (32, 32)))
    assert loaded["image"].size == (32, 32)
    assert (loaded["image"].pixels[:, 1:-1] > 240).all()  # those beside know of what was cut off
    assert (loaded["mask_image"].pixels == 255).all()
    assert loaded["image"].sha256 == Picture(wide).sha256


def test_cells_that_hold_anything_white_are_painted_anew():
    mask = np.zeros((32, 48), np.uint8)
    mask[7, 8] = mask[31, 47] = 255
    keep = Input.of(_values(PIXELS, mask), MODEL).keep
    assert keep.shape == (4, 6)
    assert np.argwhere(~keep).tolist() == [[0, 1], [3, 5]]


def test_what_stays_is_pasted_byte_for_byte():
    mask = np.zeros((32, 48), np.uint8)
    mask[:8, :8] = 255
    given = Input.of(_values(PIXELS, mask), MODEL)
    image = np.full((32, 48, 3), 0.5, np.float32)
    given.paste(image)
    assert (image[:8, :8] == 0.5).all()
    pasted = (image * 255).round().astype(np.uint8)
    pasted[:8, :8] = PIXELS[:8, :8]
    np.testing.assert_array_equal(pasted, PIXELS)
    whole = np.full((32, 48, 3), 0.5, np.float32)
    Input.of(_values(PIXELS), MODEL).paste(whole)
    assert (whole == 0.5).all()


def test_every_byte_survives_as_a_float():
    every = np.arange(256, dtype=np.uint8)
    floats = every / np.float32(255)
    assert ((floats * 255).round().astype(np.uint8) == every).all()


def test_a_black_mask_is_refused():
    with pytest.raises(LDMEngineError, match="nothing white"):
        Input.of(_values(PIXELS, np.zeros((32, 48), np.uint8)), MODEL)


def test_equal_pictures_are_read_once():
    one, same, other = _values(PIXELS), _values(PIXELS.copy()), _values(255 - PIXELS)
    found = read_inputs([one, other, same], MODEL)
    assert found[0] is found[2] is not found[1]
    assert read_inputs([{"image": None}], MODEL) == ()
