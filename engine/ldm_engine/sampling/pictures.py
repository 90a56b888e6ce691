"""Pictures and masks as input: from whatever people have to 8 bits, in their own size.

A file is known by the hash of its bytes, and read anew whenever its pixels are needed: of a million
jobs none is held. What changes pixels on the way is done by rule or refused: an orientation in Exif
data is applied, of an animation no frame is chosen, and ``colours.py`` has the rest.

The twin in C++ is ``cpp/src/sampling/image.cpp``, which reads PNG alone.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import ArgumentTypeError, InputError, InvalidArgumentError, LDMEngineError, ShapeError
from ..machine.files import reason
from ..machine.remote import absolute, fetch, is_url
from .colours import to_grey, to_rgb
from .values import shown

Pixels = NDArray[np.uint8]
MIN_SIDE = 8  #: pixels of a picture that is given
MAX_PIXELS = 1 << 26  #: of a picture before it is cropped; of a file that says more nothing is read
MAX_FILE_BYTES = 256 << 20
_FETCH_S = 60.0  #: that a URL may take to answer
#: Formats that are read: of pixels alone. Others are programs or drawings (EPS runs Ghostscript).
#: AVIF comes last: a Pillow that has it not takes its name for a failure to read.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
#: Whose files hold several pictures of which the first is the one that people see.
_FIRST_OF_SEVERAL = ("MPO",)
#: Orientations of Exif data that swap height and width.
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
_TIFF_SIZE = 0x0100, 0x0101
_PICTURE = (
    "a PIL image, the path of a picture, or an array [H, W, 3] of 8 bits or of floats from 0 to 1"
)
_MASK = (
    "a PIL image, the path of a picture, or an array [H, W] of 8 bits, of floats from 0 to 1 or of "
    "booleans, white where is to be painted anew"
)
_FILE = "Give the path or URL of a picture (PNG, JPEG, WebP, ...)."
_WHITE_FROM = 128  #: of 255; what is as light as that is painted anew


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture [H, W, 3], or a mask [H, W] of 0 and 255, that nobody writes to."""

    pixels: Pixels
    source_sha256: str | None = None  #: of what it was made from, if that is something else

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.pixels.shape[:2]
        return height, width

    @cached_property
    def sha256(self) -> str:
        """Of the file that it came from, or of the pixels that were given and their shape."""
        if self.source_sha256 is not None:
            return self.source_sha256
        shape = "x".join(map(str, self.pixels.shape))
        return hashlib.sha256(f"{shape}\n".encode() + self.pixels.tobytes()).hexdigest()


@dataclass(frozen=True)
class PictureFile:
    """A picture or mask in a file, whose pixels are read when they are needed."""

    place: str  #: absolute path, or URL
    size: tuple[int, int]  #: height and width in pixels, upright
    sha256: str  #: of the file


#: What a setting of an image holds.
Given = Picture | PictureFile


def find_picture(name: str, value: Any) -> Given:
    """The picture that `value`, called `name` in errors, is or names; of a file only its size.

    Raises:
        ArgumentTypeError: if it is nothing of the kind.
        InvalidArgumentError: if its values or its size are not accepted (``ShapeError``).
        InputError: if a file cannot be read, or is no picture.

    Warns:
        PictureWarning: if it has transparent parts, and is no file.
    """
    return _find(name, value, read_picture)


def find_mask(name: str, value: Any) -> Given:
    """The mask that `value` is or names: white where is to be painted anew; else likewise."""
    return _find(name, value, read_mask)


def _find(name: str, value: Any, read: Callable[[str, Any], Picture]) -> Given:
    if isinstance(value, PictureFile):
        return value
    if isinstance(value, (str, os.PathLike)):
        return _opened(name, absolute(os.fspath(value)))[0]
    return read(name, value)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as the metadata before the pixels say, which are not decoded."""
    width, height = image.size
    with suppress(Exception):  # each format raises its own
        if image.format == "TIFF":  # whose size is upright already in some versions of Pillow
            width, height = (image.tag_v2[tag] for tag in _TIFF_SIZE)  # type: ignore[attr-defined]
        if Image.Image.getexif(image).get(_ORIENTATION) in _TURNED:
            return height, width
    return width, height


def read_picture(name: str, value: Any) -> Picture:
    """The pixels of what ``find_picture`` accepts or gave.

    Raises:
        InputError: also if a file was changed since it was found.
    """
    return _read(name, value, to_rgb, 3, _PICTURE)


def read_mask(name: str, value: Any) -> Picture:
    """The mask of what ``find_mask`` accepts or gave: 255 where it is white, 0 elsewhere."""
    if isinstance(value, Picture):
        return value
    mask = _read(name, value, to_grey, 1, _MASK)
    return replace(mask, pixels=np.where(mask.pixels < _WHITE_FROM, 0, 255).astype(np.uint8))


def _read(
    name: str,
    value: Any,
    convert: Callable[[str, Image.Image], Image.Image],
    channels: int,
    accepted: str,
) -> Picture:
    if isinstance(value, Picture):
        return value
    file, place = None, "a PIL image"
    if isinstance(value, (str, os.PathLike, PictureFile)):
        where = value.place if isinstance(value, PictureFile) else absolute(os.fspath(value))
        place = _named(where)
        file, image = _opened(name, where)
        if isinstance(value, PictureFile) and file.sha256 != value.sha256:
            raise InputError(
                f"`{name}` is {place}, which was changed since it was looked at. Leave it alone, "
                "and start again."
            )
    elif isinstance(value, Image.Image):
        image = value
        with _decoding(name, place):
            _check_kind(name, image)
    else:
        return Picture(_of_array(name, value, channels, accepted))
    with _decoding(name, place):
        image.load()
        image = ImageOps.exif_transpose(image)
    try:
        picture = Picture(np.asarray(convert(name, image)), file.sha256 if file else None)
    except ValueError as error:
        if isinstance(error, LDMEngineError):
            raise
        raise InvalidArgumentError(
            f"`{name}` is {place} of the mode {image.mode}, which cannot be converted; RGB, grey, "
            "palettes and CMYK are accepted."
        ) from error
    if file and picture.size != file.size:
        raise InputError(
            f"`{name}` is turned by metadata that stand behind its pixels. Save it upright."
        )
    return picture


@contextmanager
def _decoding(name: str, place: str) -> Iterator[None]:
    """Of what is wrong with a picture's bytes, whatever its decoder raises is an ``InputError``."""
    try:
        yield
    except LDMEngineError:
        raise
    except Exception as error:
        raise InputError(
            f"`{name}` is {place}, which cannot be decoded: {reason(error)}. It may be cut off or "
            "damaged; save it again."
        ) from error


def _named(place: str) -> str:
    """A path or URL as messages show it."""
    return place if place.isprintable() else shown(place)


def _content(name: str, place: str) -> bytes:
    """The bytes at a path or URL."""
    if is_url(place):
        try:
            content = fetch(place, MAX_FILE_BYTES + 1, _FETCH_S)
        except InputError as error:
            raise InputError(f"`{name}`: {error}") from error
    else:
        content = _content_here(name, Path(place))
    if len(content) > MAX_FILE_BYTES:
        raise InputError(
            f"`{name}` is {_named(place)}, which has more than {MAX_FILE_BYTES >> 20} MiB; less is "
            "accepted."
        )
    return content


def _content_here(name: str, path: Path) -> bytes:
    try:
        if not path.is_file():
            what = "is no regular file" if path.exists() else "does not exist"
            raise InputError(f"`{name}` is {_named(str(path))}, which {what}. {_FILE}")
        with path.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, LDMEngineError):
            raise
        raise InputError(
            f"`{name}` is {shown(str(path))}, which cannot be read: {reason(error)}."
        ) from error


def _opened(name: str, place: str) -> tuple[PictureFile, Image.Image]:
    """The picture at a path or URL, of which no more than its head has been decoded."""
    content = _content(name, place)
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise InputError(
            f"`{name}` is {_named(place)}, whose picture has more than {MAX_PIXELS >> 20} million "
            "pixels; up to so many are accepted."
        ) from error
    except Exception as error:
        raise InputError(
            f"`{name}` is {_named(place)}, which is no picture that can be read. {_FILE}"
        ) from error
    with _decoding(name, _named(place)):
        _check_kind(name, image)
    width, height = _upright_size(image)
    return PictureFile(place, (height, width), hashlib.sha256(content).hexdigest()), image


def _check_kind(name: str, image: Image.Image) -> None:
    """Refuse what is no single picture of 8 bits or 16 bits that Pillow reads wholly."""
    width, height = image.size
    _check_size(name, height, width)
    is_cut = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if is_cut and "transparency" in image.info:
        raise InvalidArgumentError(
            f"`{name}` has 16 bits and a transparent colour, which cannot be told from others; an "
            "alpha channel or 8 bits are accepted. Save it so."
        )
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format not in _FIRST_OF_SEVERAL:
        raise InvalidArgumentError(
            f"`{name}` holds {count} pictures, an animation or pages; one is accepted. "
            "Save the one that is meant by itself."
        )


def _check_size(name: str, height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE or height * width > MAX_PIXELS:
        raise ShapeError(
            f"`{name}` has {width}x{height} pixels; from {MIN_SIDE} a side to {MAX_PIXELS >> 20} "
            "million in all are accepted."
        )


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
    _check_size(name, *array.shape[:2])
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
