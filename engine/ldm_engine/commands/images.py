"""Pictures of ``generate`` on disk: safe file names that are never taken twice, contact sheets."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..machine.files import write_new
from ..sampling.recipes import Recipe, encode_image

_MAX_SLUG = 60


def save_png(
    image: Image.Image,
    folder: Path,
    stem: str,
    recipe: Recipe | None = None,
    origin: str | None = None,
) -> Path:
    """Write `stem`.png into `folder` with `recipe` or `origin` as metadata, and return its path.

    It appears whole or not at all, under another number if the name is taken.

    Raises:
        OutputError: if it cannot be written.
    """
    return write_new(folder, stem, ".png", encode_image(image, recipe, origin=origin))


def file_stem(recipe: Recipe) -> str:
    """What the file of a picture is called, without its suffix."""
    return f"{slug(recipe.settings['prompt'])}-{recipe.settings['seed']}"


def slug(text: str) -> str:
    """Letters, digits and hyphens that remind of `text`; safe as a file name anywhere."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")
    return words[:_MAX_SLUG].rstrip("-") or "image"


def contact_sheet(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """All `images`, of one size, in rows from left to right on white; default: about square."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    gap = max(2, width // 32)
    size = (columns * (width + gap) + gap, rows * (height + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet
