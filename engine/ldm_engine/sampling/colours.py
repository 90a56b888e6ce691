"""A picture as people have it into RGB or grey of 8 bits, as its colours are meant, or refused."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageCms

from ..errors import InvalidArgumentError

#: Numbers of each channel that profiles are tried on, and how far one may be from sRGB to be taken
#: for it: the many that are called so differ from each other by as much.
_STEPS, _ALIKE = 17, 2


class PictureWarning(UserWarning):
    """A picture was changed before it was used."""


def to_rgb(name: str, image: Image.Image) -> Image.Image:
    """The picture called `name` in errors as RGB.

    Raises:
        InvalidArgumentError: if its numbers or its colour profile are none that are accepted.

    Warns:
        PictureWarning: if it has transparent parts.
    """
    image = _in_8_bits(name, image)
    alpha = None
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        image = image.convert("L" if image.mode == "LA" else "RGB")
    elif image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    colours = _in_srgb(name, image).convert("RGB")
    if alpha is None or not _is_transparent(alpha):
        return colours
    warnings.warn(
        PictureWarning(f"`{name}` has transparent parts, which are laid on white."), stacklevel=2
    )
    ground = Image.new("RGB", image.size, "white")
    ground.paste(colours, mask=alpha)
    return ground


def to_grey(name: str, image: Image.Image) -> Image.Image:
    """The mask called `name` in errors as grey; transparent parts are refused too."""
    image = _in_8_bits(name, image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if _is_transparent(image.getchannel("A")):
            raise InvalidArgumentError(
                f"`{name}` has transparent parts; a mask is white where is to be painted anew and "
                "black elsewhere. Save it without transparency."
            )
        image = image.convert("RGB")
    return image.convert("L")


def _is_transparent(alpha: Image.Image) -> bool:
    """Whether any part of a picture with this `alpha` is."""
    return alpha.getextrema()[0] < 255  # type: ignore[operator]  # of one channel


def _in_8_bits(name: str, image: Image.Image) -> Image.Image:
    """Of a channel 8 bits, not multiplied with alpha; Pillow would cut 16 of grey off at 255."""
    if image.mode == "F":
        raise InvalidArgumentError(
            f"`{name}` holds floating-point numbers; a picture of 8 or 16 bits is accepted."
        )
    if image.mode in ("La", "RGBa"):
        return image.convert(image.mode.upper())
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise InvalidArgumentError(
            f"`{name}` holds numbers from {values.min()} to {values.max()}; a picture of 8 or 16 "
            "bits is accepted."
        )
    rounded = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    rounded.info = image.info
    return rounded


def _in_srgb(name: str, image: Image.Image) -> Image.Image:
    """Colours as they are meant, where a profile says so."""
    content = image.info.get("icc_profile")
    if not content:
        return image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        srgb = ImageCms.createProfile("sRGB")
        to_srgb = ImageCms.buildTransform(profile, srgb, image.mode, "RGB")
        if image.mode == "RGB" and _changes_little(to_srgb):
            return image
        return ImageCms.applyTransform(image, to_srgb) or image
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise InvalidArgumentError(
            f"`{name}` has a colour profile that cannot be applied: {error}. Save it as sRGB."
        ) from error


def _changes_little(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether colours from all over RGB stay as they are, or nearly so."""
    steps = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(_STEPS, -1, 3)
    changed = ImageCms.applyTransform(Image.fromarray(colours), transform)
    return int(np.abs(np.asarray(changed, int) - colours).max()) <= _ALIKE
