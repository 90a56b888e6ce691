from __future__ import annotations

import numpy as np
import pytest

from ldm_engine import outpainting
from ldm_engine.errors import InvalidArgumentError, LDMEngineError, ShapeError

PIXELS = np.random.RandomState(0).randint(0, 256, (16, 24, 3)).astype(np.uint8)


def test_the_picture_stands_where_its_sides_leave_it():
    image, mask = outpainting(PIXELS, left=1, top=2, right=3, bottom=4)
    assert image.size == mask.size == (28, 22)
    pixels, white = np.asarray(image), np.asarray(mask)
    np.testing.assert_array_equal(pixels[2:18, 1:25], PIXELS)
    np.testing.assert_array_equal(pixels[0, 0], PIXELS[0, 0])  # the colours of the edge
    assert not white[2:18, 1:25].any()
    assert (white == 255).sum() == 28 * 22 - 16 * 24


@pytest.mark.parametrize(
    ("margins", "kind", "says"),
    [
        ({}, InvalidArgumentError, "Nothing is added"),
        ({"left": -8}, InvalidArgumentError, "`left` is -8"),
        ({"top": 8.5}, InvalidArgumentError, "`top` is 8.5"),
        ({"right": True}, InvalidArgumentError, "`right` is True"),
        ({"bottom": 10**9}, ShapeError, "64 million"),
    ],
)
def test_other_margins_are_refused(margins, kind, says):
    with pytest.raises(kind, match=says):
        outpainting(PIXELS, **margins)


def test_what_is_no_picture_is_refused():
    with pytest.raises(LDMEngineError, match="does not exist"):
        outpainting("no/such/file.png", left=8)
