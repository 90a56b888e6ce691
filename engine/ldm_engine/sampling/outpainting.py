"""What a call paints beyond the sides of a picture: that made larger, and a mask for it."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InvalidArgumentError, ShapeError
from .pictures import MAX_PIXELS, read_picture
from .values import is_whole, shown

SIDES = ("left", "top", "right", "bottom")


def outpainting(
    image: str | os.PathLike[str] | Image.Image | NDArray[np.generic],
    *,
    left: int = 0,
    top: int = 0,
    right: int = 0,
    bottom: int = 0,
) -> tuple[Image.Image, Image.Image]:
    """The `image` and `mask_image` of a call that paints on beyond the sides of a picture.

    The new parts are filled with the colours of the edge, from which little remains at a strength
    of 1, and the mask is white there.

    Args:
        image: as a call takes it, H x W pixels.
        left: pixels to add at this side; at the others likewise.
        top: above.
        right: at the right.
        bottom: below.

    Returns:
        An RGB image and an L image of H + top + bottom by W + left + right pixels.

    Raises:
        InvalidArgumentError: if nothing is added, or not whole pixels (``ShapeError``: too many).
        LDMEngineError: if `image` is not accepted as one.
    """
    added = {"left": left, "top": top, "right": right, "bottom": bottom}
    for side, pixels in added.items():
        if not is_whole(pixels) or pixels < 0:
            raise InvalidArgumentError(
                f"`{side}` is {shown(pixels)}; whole pixels from 0 are accepted."
            )
    if not any(added.values()):
        raise InvalidArgumentError(
            f"Nothing is added to the picture. Give pixels for {', '.join(SIDES)}."
        )
    picture = read_picture("image", image).pixels
    height, width = picture.shape[0] + top + bottom, picture.shape[1] + left + right
    if height * width > MAX_PIXELS:
        raise ShapeError(
            f"The picture would have {width}x{height} pixels; up to {MAX_PIXELS >> 20} million in "
            "all are accepted."
        )
    margins = (top, bottom), (left, right)
    mask = np.pad(np.zeros(picture.shape[:2], np.uint8), margins, constant_values=255)
    larger = np.pad(picture, (*margins, (0, 0)), mode="edge")
    return Image.fromarray(larger), Image.fromarray(mask)
