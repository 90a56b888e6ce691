"""Pictures on disk: PNG files that carry their recipe, safe file names, contact sheets."""

from __future__ import annotations

import io
import json
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, PngImagePlugin

from .errors import InvalidArgumentError
from .files import write_new
from .version import __version__

RECIPE_KEY = "ldm-engine"  #: the PNG text chunk that holds the recipe as JSON
_MAX_SLUG = 60


@dataclass(frozen=True)
class Recipe:
    """All that is needed to render an image again."""

    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    eta: float
    height: int
    width: int
    model: str
    bundle: str  #: the bundle's digest
    runtime: str
    precision: str
    version: str = __version__


def save_png(image: Image.Image, folder: Path, stem: str, recipe: Recipe | None = None) -> Path:
    """Write `stem`.png into `folder` with `recipe` in its text metadata, and return its path.

    It appears whole or not at all, under another number if the name is taken.

    Raises:
        OutputError: if it cannot be written.
    """
    info = PngImagePlugin.PngInfo()
    if recipe is not None:
        info.add_itxt("Description", recipe.prompt)
        info.add_itxt("Software", f"ldm-engine {recipe.version}")
        info.add_itxt(RECIPE_KEY, json.dumps(asdict(recipe), ensure_ascii=False))
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=info)
    return write_new(folder, stem, ".png", content.getvalue())


def read_recipe(path: Path) -> Recipe:
    """The recipe that ``save_png`` put into a file.

    Raises:
        InvalidArgumentError: if the file is no such image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return Recipe(**json.loads(image.info[RECIPE_KEY]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"{path} carries no recipe of ldm-engine ({error!r}); give a PNG file as "
            "`ldm-engine generate` wrote it."
        ) from error


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
