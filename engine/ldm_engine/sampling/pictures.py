"""Pictures and masks as input: from whatever people have to RGB of 8 bits, of the size to render.

What changes pixels on the way is done by rule or refused: an orientation in Exif data is applied,
colours of a profile are brought to sRGB, transparent parts are laid on white with a
``PictureWarning``, 16 bits are rounded to 8, and of an animation no frame is chosen.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from ..bundle.model import ModelInfo
from ..errors import ArgumentTypeError, InputError, InvalidArgumentError, LDMEngineError, ShapeError
from ..machine.files import reason
from .values import shown

Pixels = NDArray[np.uint8]
MIN_SIDE = 8  #: pixels of a picture that is given
MAX_PIXELS = 1 << 26  #: of a picture before it is cropped; of a file that says more nothing is read
MAX_FILE_BYTES = 256 << 20
#: Whose files hold several pictures of which the first is the one that people see.
_FIRST_OF_SEVERAL = ("MPO",)
_PICTURE = (
    "a PIL image, the path of a picture, or an array [H, W, 3] of 8 bits or of floats from 0 to 1"
)
_MASK = (
    "a PIL image, the path of a picture, or an array [H, W] of 8 bits, of floats from 0 to 1 or of "
    "booleans, white where is to be painted anew"
)
_WHITE_FROM = 128  #: of 255; what is as light as that is painted anew


class PictureWarning(UserWarning):
    """A picture was changed before it was used."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture [H, W, 3], or a mask [H, W] of 0 and 255, that nobody writes to."""

    pixels: Pixels

    @cached_property
    def digest(self) -> str:
        """sha256 of the pixels and their shape."""
        shape = "x".join(map(str, self.pixels.shape))
        return hashlib.sha256(f"{shape}\n".encode() + self.pixels.tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def read_picture(name: str, value: Any) -> Picture:
    """The picture that `value`, called `name` in errors, is or names, of its own size.

    Raises:
        ArgumentTypeError: if it is nothing of the kind.
        InvalidArgumentError: if its values or its size are not accepted (``ShapeError``).
        InputError: if a file cannot be read, or is no picture.

    Warns:
        PictureWarning: if it has transparent parts.
    """
    return _read(name, value, _to_rgb, 3, _PICTURE)


def read_mask(name: str, value: Any) -> Picture:
    """The mask that `value` is or names: 255 where it is white, 0 elsewhere; else likewise."""
    mask = _read(name, value, _to_grey, 1, _MASK)
    return Picture(np.where(mask.pixels < _WHITE_FROM, 0, 255).astype(np.uint8))


def fit_pictures(
    name: str,
    picture: Picture,
    mask: Picture | None,
    size: tuple[int | None, int | None],
    model: ModelInfo,
) -> tuple[Picture, Picture | None]:
    """Picture and mask at the `size` (height, width) to render.

    Where a side is None it is the picture's own. What does not fit is cut off at both ends alike,
    and the rest resized (Lanczos; the mask to the nearest).

    Raises:
        ShapeError: if the mask has another size than the picture, or the picture one that the model
            does not render and none was given.
    """
    height, width = picture.pixels.shape[:2]
    if mask is not None and mask.pixels.shape != (height, width):
        raise ShapeError(
            f"The mask of `{name}` has {_size(mask)} pixels and the picture {_size(picture)}; a "
            "mask of the same size is accepted."
        )
    wanted = _wanted_size(name, picture, size, model)
    if wanted == (height, width):
        return picture, mask
    return (
        _fitted(picture, wanted, Image.Resampling.LANCZOS),
        None if mask is None else _fitted(mask, wanted, Image.Resampling.NEAREST),
    )


def _wanted_size(
    name: str, picture: Picture, size: tuple[int | None, int | None], model: ModelInfo
) -> tuple[int, int]:
    own = picture.pixels.shape[:2]
    wanted = tuple(own[i] if side is None else side for i, side in enumerate(size))
    multiple = model.pixel_multiple
    if any(side % multiple for side in wanted):
        nearest = [max(multiple, round(side / multiple) * multiple) for side in wanted]
        raise ShapeError(
            f"`{name}` has {_size(picture)} pixels (width x height), and sides that are multiples "
            f"of {multiple} are accepted. Give height={nearest[0]} and width={nearest[1]}, or "
            "others: it is cropped and resized to them."
        )
    return wanted[0], wanted[1]


def _fitted(picture: Picture, size: tuple[int, int], method: Image.Resampling) -> Picture:
    image = ImageOps.fit(Image.fromarray(picture.pixels), (size[1], size[0]), method)
    return Picture(np.asarray(image))


def _size(picture: Picture) -> str:
    height, width = picture.pixels.shape[:2]
    return f"{width}x{height}"


def _read(
    name: str,
    value: Any,
    convert: Callable[[str, Image.Image], Image.Image],
    channels: int,
    accepted: str,
) -> Picture:
    if isinstance(value, Picture):
        return value
    if isinstance(value, (str, os.PathLike)):
        image = _open(name, Path(value))
    elif isinstance(value, Image.Image):
        image = value
    else:
        return Picture(_of_array(name, value, channels, accepted))
    width, height = image.size
    if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
        raise ShapeError(
            f"`{name}` has {width}x{height} pixels; from {MIN_SIDE} a side to {MAX_PIXELS >> 20} "
            "million in all are accepted."
        )
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format not in _FIRST_OF_SEVERAL:
        raise InvalidArgumentError(
            f"`{name}` holds {count} pictures, an animation or pages; one is accepted. "
            "Save the one that is meant by itself."
        )
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        return Picture(np.asarray(convert(name, upright)))
    except LDMEngineError:
        raise
    except Exception as error:  # each decoder raises its own
        raise InputError(
            f"`{name}` is a picture that cannot be read: {reason(error)}. It may be cut off or "
            "damaged; save it again."
        ) from error


def _open(name: str, path: Path) -> Image.Image:
    """The picture in a file, of which no more than its size has been read."""
    remedy = f"{_PICTURE[0].upper()}{_PICTURE[1:]} is accepted."
    try:
        if not path.is_file():
            raise InputError(f"`{name}` is {path}, and there is no such file. {remedy}")
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, LDMEngineError):
            raise
        raise InputError(
            f"`{name}` is {shown(str(path))}, which cannot be read: {reason(error)}."
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise InputError(
            f"`{name}` is {path}, which has more than {MAX_FILE_BYTES >> 20} MiB; pictures of less "
            "are accepted."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # sizes are checked
            return Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise InputError(
            f"`{name}` is {path}, whose picture has more than {MAX_PIXELS >> 20} million pixels; "
            "up to so many are accepted."
        ) from error
    except Exception as error:
        raise InputError(
            f"`{name}` is {path}, which is no picture that can be read (PNG, JPEG, WebP, ...). "
            f"{remedy}"
        ) from error


def _to_rgb(name: str, image: Image.Image) -> Image.Image:
    image = _in_8_bits(name, image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if _is_transparent(image):
            warnings.warn(
                PictureWarning(f"`{name}` has transparent parts, which are laid on white."),
                stacklevel=2,
            )
        ground = Image.new("RGBA", image.size, "white")
        ground.info = image.info
        ground.alpha_composite(image)
        image = ground
    return _in_srgb(name, image).convert("RGB")


def _to_grey(name: str, image: Image.Image) -> Image.Image:
    image = _in_8_bits(name, image)
    if image.has_transparency_data:
        if _is_transparent(image.convert("RGBA")):
            raise InvalidArgumentError(
                f"`{name}` has transparent parts; a mask is white where is to be painted anew and "
                "black elsewhere. Save it without transparency."
            )
        image = image.convert("RGB")
    return image.convert("L")


def _is_transparent(image: Image.Image) -> bool:
    """Whether any part of an RGBA image is."""
    return image.getchannel("A").getextrema()[0] < 255  # type: ignore[operator]  # of one channel


def _in_8_bits(name: str, image: Image.Image) -> Image.Image:
    """Pillow would cut 16 bits off at 255."""
    if image.mode == "F":
        raise InvalidArgumentError(
            f"`{name}` holds floating-point numbers; a picture of 8 or 16 bits is accepted."
        )
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise InvalidArgumentError(
            f"`{name}` holds numbers from {values.min()} to {values.max()}; a picture of 8 or 16 "
            "bits is accepted."
        )
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _in_srgb(name: str, image: Image.Image) -> Image.Image:
    """Colours as they are meant, where a profile says so."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    if image.mode == "RGBA":
        image = image.convert("RGB")
    try:
        meant = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(meant):
            return image
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, meant, srgb, outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError) as error:
        raise InvalidArgumentError(
            f"`{name}` has a colour profile that cannot be applied: {error}. Save it as sRGB."
        ) from error


def _of_array(name: str, value: Any, channels: int, accepted: str) -> Pixels:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _no_picture(name, value, accepted) from error
    if array.dtype == object or array.ndim == 0:
        raise _no_picture(name, value, accepted)
    is_right = array.ndim == (3 if channels == 3 else 2) and (channels == 1 or array.shape[2] == 3)
    if not is_right:
        raise ShapeError(f"`{name}` is an array of shape {array.shape}; {accepted} is accepted.")
    height, width = array.shape[:2]
    if min(height, width) < MIN_SIDE or height * width > MAX_PIXELS:
        raise ShapeError(
            f"`{name}` has {width}x{height} pixels; from {MIN_SIDE} a side to {MAX_PIXELS >> 20} "
            "million in all are accepted."
        )
    if array.dtype == np.bool_ and channels == 1:
        return np.where(array, 255, 0).astype(np.uint8)
    if array.dtype == np.uint8:
        return np.array(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ArgumentTypeError(f"`{name}` is an array of {array.dtype}; {accepted} is accepted.")
    if not ((array >= 0) & (array <= 1)).all():  # which NaN is not
        raise InvalidArgumentError(
            f"`{name}` holds numbers outside of 0 to 1, or NaN; {accepted} is accepted."
        )
    return np.asarray((array.astype(np.float64) * 255).round(), np.uint8)


def _no_picture(name: str, value: Any, accepted: str) -> ArgumentTypeError:
    return ArgumentTypeError(
        f"`{name}` is {shown(value)} ({type(value).__name__}); {accepted} is accepted."
    )
