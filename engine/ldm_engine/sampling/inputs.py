"""Pictures to start from, at the size to render: what of them stays, as latents and as pixels.

The twin in C++ is ``cpp/src/sampling/inputs.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..bundle.model import ModelInfo
from ..errors import InvalidArgumentError
from .pictures import Picture, Pixels, read_mask, read_picture


@dataclass(frozen=True)
class Input:
    """What one image starts from."""

    picture: Pixels  #: [H, W, 3] as large as the image
    sha256: str  #: of what it was made from
    keep: NDArray[np.bool_] | None  #: [h, w], the latent cells that stay as they are; None: none

    @classmethod
    def of(cls, values: Mapping[str, Any], model: ModelInfo) -> Input:
        """The input of an image with these checked settings.

        Cells that hold anything white are painted anew.

        Raises:
            InputError: if a file cannot be read, or was changed since it was looked at.
            InvalidArgumentError: if it is of a kind that is not accepted.
        """
        values = in_memory(values)
        picture, mask = values["image"], values["mask_image"]
        if mask is None:
            return cls(picture.pixels, picture.sha256, None)
        height, width = mask.size
        cell = model.scale_factor
        cells = mask.pixels.reshape(height // cell, cell, width // cell, cell)
        return cls(picture.pixels, picture.sha256, ~cells.any(axis=(1, 3)))

    def paste(self, pixels: NDArray[np.float32]) -> None:
        """Put what stays into the image `pixels` [H, W, 3], as the bytes of the picture."""
        if self.keep is None:
            return
        cell = pixels.shape[0] // len(self.keep)
        where = self.keep.repeat(cell, 0).repeat(cell, 1)[..., None]
        np.copyto(pixels, self.picture / np.float32(255), where=where)


def in_memory(values: Mapping[str, Any]) -> dict[str, Any]:
    """An image's checked settings with its pictures read, at the size to render.

    What is of another size is cut off at both ends alike and resized: the picture by Lanczos; of
    the mask a pixel is white that holds anything white.

    Raises:
        InputError: if a file cannot be read, or was changed since it was looked at.
        InvalidArgumentError: if it is of a kind that is not accepted.
    """
    loaded, size = dict(values), (values["height"], values["width"])
    if values["image"] is not None:
        picture = read_picture("image", values["image"])
        loaded["image"] = _fitted(picture, size, _resized)
    if values["mask_image"] is not None:
        mask = read_mask("mask", values["mask_image"])
        loaded["mask_image"] = _fitted(mask, size, _resized_mask)
        if not loaded["mask_image"].pixels.any():
            where = "" if mask.size == size else " within what is left when it is cropped"
            raise InvalidArgumentError(
                f"`mask` has nothing white{where}, so nothing would be painted. Make white what is "
                "to be painted anew, and black what stays."
            )
    return loaded


def _fitted(
    picture: Picture, size: tuple[int, int], resized: Callable[[Pixels, tuple[int, int]], Pixels]
) -> Picture:
    if picture.size == size:
        return picture
    return Picture(resized(picture.pixels, size), picture.sha256)


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    fitted = ImageOps.fit(Image.fromarray(pixels), size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(fitted)


def _resized_mask(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    means = ImageOps.fit(Image.fromarray(pixels).convert("F"), size[::-1], Image.Resampling.BOX)
    return np.where(np.asarray(means) > 0, 255, 0).astype(np.uint8)


def read_inputs(images: Sequence[Mapping[str, Any]], model: ModelInfo) -> tuple[Input, ...]:
    """The inputs of some images, which all have a picture or none; each distinct one read once."""
    if not images or images[0]["image"] is None:
        return ()
    found: dict[tuple[str, str | None], Input] = {}
    for values in images:
        key = values["image_sha256"], values["mask_sha256"]
        if key not in found:
            found[key] = Input.of(values, model)
    return tuple(found[v["image_sha256"], v["mask_sha256"]] for v in images)
