"""The recipe that an image file carries: all that is needed to render it again, pixel for pixel."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ..errors import InvalidArgumentError
from ..machine.files import reason
from ..version import __version__

RECIPE_KEY = "ldm-engine"  #: the PNG text chunk that holds the recipe as JSON
IMAGE_FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_SETTINGS = (
    "negative_prompt", "num_inference_steps", "guidance_scale", "eta", "height", "width",
)  # fmt: skip
QUALITY = 95  #: of jpeg and webp where none is asked for

# Exif tags: https://www.cipa.jp/std/documents/e/DC-X008-Translation-2019-E.pdf, 4.6.
_SOFTWARE, _EXIF_FOLDER, _USER_COMMENT = 0x0131, 0x8769, 0x9286
_COMMENT_CODE = b"\0" * 8  # "undefined", which here is UTF-8


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
    threads: int | None = None  #: of the process; bf16 rounds differently with another count
    batch_size: int = 1  #: rows of the UNet; some runtimes round differently with another count
    device: str = "cpu"  #: or "gpu", which rounds differently
    version: str = __version__

    def settings(self) -> dict[str, Any]:
        """What to call the pipeline with, beside the prompt and the seed."""
        return {name: getattr(self, name) for name in _SETTINGS}


def encode_image(
    image: Image.Image,
    recipe: Recipe | None = None,
    image_format: str = "png",
    quality: int = QUALITY,
) -> bytes:
    """A file of one of ``IMAGE_FORMATS`` that carries `recipe`.

    PNG holds it in a text chunk, the others in the user comment of their Exif data.
    """
    content = io.BytesIO()
    if image_format == "png":
        image.save(content, format="PNG", pnginfo=_png_text(recipe))
    else:
        subsampling = {"subsampling": 0} if image_format == "jpeg" else {}
        exif = _exif(recipe).tobytes()
        image.save(content, format=image_format, quality=quality, exif=exif, **subsampling)
    return content.getvalue()


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        InvalidArgumentError: if the file is no image with one.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.format == "PNG":
                held = image.info[RECIPE_KEY]
            else:
                comment = image.getexif().get_ifd(_EXIF_FOLDER)[_USER_COMMENT]
                held = comment[len(_COMMENT_CODE) :].decode()
            return Recipe(**json.loads(held))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise InvalidArgumentError(
            f"The image {path} cannot be read: {reason(error)}. Give an image file as "
            "`ldm-engine generate` or `render` wrote it."
        ) from error
    except (
        OSError, KeyError, TypeError, ValueError, SyntaxError, AttributeError,
        Image.DecompressionBombError, RecursionError,
    ) as error:  # fmt: skip
        raise InvalidArgumentError(
            f"{path} carries no recipe of ldm-engine ({error!r}); give an image file as "
            "`ldm-engine generate` or `render` wrote it."
        ) from error


def _png_text(recipe: Recipe | None) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    if recipe is not None:
        info.add_itxt("Description", recipe.prompt)
        info.add_itxt("Software", f"ldm-engine {recipe.version}")
        info.add_itxt(RECIPE_KEY, json.dumps(asdict(recipe), ensure_ascii=False))
    return info


def _exif(recipe: Recipe | None) -> Image.Exif:
    exif = Image.Exif()
    if recipe is not None:
        held = json.dumps(asdict(recipe), ensure_ascii=False).encode()
        exif[_SOFTWARE] = f"ldm-engine {recipe.version}"
        exif.get_ifd(_EXIF_FOLDER)[_USER_COMMENT] = _COMMENT_CODE + held
    return exif
