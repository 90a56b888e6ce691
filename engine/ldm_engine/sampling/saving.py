"""Pictures on disk, of ``generate`` and of Python: safe file names that are never taken twice."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from PIL import Image

from ..machine.files import write_new
from .recipes import IMAGE_FORMATS, Recipe, encode_image

_MAX_SLUG = 60


def save_image(
    image: Image.Image,
    folder: Path,
    stem: str,
    recipe: Recipe | None = None,
    image_format: str = "png",
    origin: str | None = None,
) -> Path:
    """Write an image file called `stem` into `folder` and return its path.

    It carries `recipe`, or without one states the digital source type `origin`.

    It appears whole or not at all, under another number if the name is taken.

    Raises:
        OutputError: if it cannot be written.
    """
    content = encode_image(image, recipe, image_format, origin=origin)
    return write_new(folder, stem, IMAGE_FORMATS[image_format], content)


def file_stem(prompt: str, seed: int) -> str:
    """What the file of a picture is called, without its suffix."""
    return f"{slug(prompt)}-{seed}"


def slug(text: str) -> str:
    """Letters, digits and hyphens that remind of `text`; safe as a file name anywhere."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")
    return words[:_MAX_SLUG].rstrip("-") or "image"
