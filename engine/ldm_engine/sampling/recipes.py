"""The recipe that an image file carries: all that is needed to render it again, pixel for pixel."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ..bundle.bundle import Bundle
from ..errors import InvalidArgumentError
from ..machine.device import Device
from ..machine.files import reason
from ..version import __version__
from .opening import Opened
from .origin import XMP_KEY, source_type, xmp_packet
from .settings import SETTINGS, Values, recorded

RECIPE_KEY = "ldm-engine"  #: the PNG text chunk that holds the recipe as JSON
IMAGE_FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
QUALITY = 95  #: of jpeg and webp, by default

# Exif tags: https://www.cipa.jp/std/documents/e/DC-X008-Translation-2019-E.pdf, 4.6.
_SOFTWARE, _EXIF_FOLDER, _USER_COMMENT = 0x0131, 0x8769, 0x9286
_COMMENT_CODE = b"\0" * 8  # "undefined", which here is UTF-8
_CODE_BYTES = 8
#: What programs that write Exif data anew make of that, and the encodings to try.
_COMMENT_CODES = {
    _COMMENT_CODE: ("utf-8",), b"ASCII\0\0\0": ("utf-8",),
    b"UNICODE\0": ("utf-16-be", "utf-16-le", "utf-8"),
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """All that is needed to render an image again."""

    settings: Values  #: of the image
    model: str
    bundle: str  #: the bundle's digest
    runtime: str
    precision: str
    threads: int | None = None  #: of the process; bf16 rounds differently with another count
    batch_size: int = 1  #: rows of the UNet; some runtimes round differently with another count
    device: str = "cpu"  #: or "gpu", which rounds differently
    version: str = __version__
    encoder: str | None = None  #: the digest of the program that encoded a picture, if one did
    mark: bool = True  #: whether the file says that a model made it

    @classmethod
    def of(cls, values: Values, opened: Opened, batch_size: int, mark: bool = True) -> Recipe:
        """The recipe of an image with these `values` that was rendered by what was opened."""
        return cls(
            settings=values,
            model=opened.bundle.model.source,
            bundle=opened.bundle.digest,
            runtime=opened.choice.runtime.name,
            precision=opened.options.precision,
            threads=opened.options.threads,
            batch_size=batch_size,
            device=Device.parse(opened.options.device).kind,
            encoder=encoder_of(values, opened.bundle),
            mark=mark,
        )

    @property
    def origin(self) -> str | None:
        """The digital source type that the file states, or None."""
        return source_type(self.settings) if self.mark else None

    def as_json(self) -> str:
        """One flat object, as image files carry it."""
        facts = {name: value for name, value in vars(self).items() if name != "settings"}
        if self.encoder is None:
            del facts["encoder"]
        if not self.mark:
            del facts["mark"]
        return json.dumps({**recorded(self.settings), **facts}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read what ``as_json`` wrote, also of an earlier version.

        Raises:
            TypeError, ValueError, KeyError, AttributeError: if it is something else.
        """
        facts = {"mark": False, **json.loads(text)}  # earlier versions marked none
        settings = {
            s.name: facts.pop(s.name, s.default) if s.is_later else facts.pop(s.name)
            for s in SETTINGS
        }
        return cls(settings, **facts)


def encoder_of(values: Values, bundle: Bundle) -> str | None:
    """The digest of the program that encodes the picture of an image with these `values`."""
    if values["image_sha256"] is None or "vae_encoder" not in bundle.programs:
        return None
    return bundle.program_digest("vae_encoder")


def encode_image(
    image: Image.Image,
    recipe: Recipe | None = None,
    image_format: str = "png",
    quality: int = QUALITY,
    origin: str | None = None,
) -> bytes:
    """A file of one of ``IMAGE_FORMATS`` that carries `recipe` and states its origin.

    PNG holds the recipe in a text chunk, the others in the user comment of their Exif data. A
    picture without a recipe states the digital source type `origin`, if any.
    """
    content = io.BytesIO()
    options = metadata(recipe, image_format, origin)
    if image_format != "png":
        options["quality"] = quality
    if image_format == "jpeg":
        options["subsampling"] = 0
    Image.Image.save(image, content, format=image_format, **options)  # not as a `RecipeImage`
    return content.getvalue()


def metadata(recipe: Recipe | None, image_format: str, origin: str | None = None) -> dict[str, Any]:
    """What PIL's ``save`` is to be given so that a file of `image_format` carries `recipe`.

    Without a recipe it states the digital source type `origin`, if any.
    """
    term = recipe.origin if recipe else origin
    packet = xmp_packet(term) if term else ""
    if image_format == "png":
        return {"pnginfo": _png_text(recipe, packet)}
    return {"exif": _exif(recipe), **({"xmp": packet.encode()} if packet else {})}


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file, also where another program has written its metadata anew.

    Raises:
        InvalidArgumentError: if the file is no image with one.
    """
    remedy = "Give an image file as `ldm-engine generate` or `render` wrote it."
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # about the metadata of others
            image.load()
            for text in _texts(image):
                with suppress(TypeError, ValueError, KeyError, AttributeError, RecursionError):
                    return Recipe.from_json(text.strip("\0\ufeff \t\r\n"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise InvalidArgumentError(
            f"The image {path} cannot be read: {reason(error)}. {remedy}"
        ) from error
    except Exception as error:  # each decoder raises its own, some with all that they read
        raise InvalidArgumentError(
            f"{path} is no image that can be read for a recipe of ldm-engine. {remedy}"
        ) from error
    raise InvalidArgumentError(f"{path} carries no recipe of ldm-engine. {remedy}")


def _texts(image: Image.Image) -> Iterator[str]:
    """What may be the recipe: the text chunk of a PNG, the user comment of Exif data."""
    text = image.info.get(RECIPE_KEY)
    if isinstance(text, str):
        if not isinstance(text, PngImagePlugin.iTXt):  # UTF-8 that was put where Latin-1 goes
            with suppress(UnicodeError):
                yield text.encode("latin-1").decode()
        yield text
    comment = image.getexif().get_ifd(_EXIF_FOLDER).get(_USER_COMMENT, b"")
    if isinstance(comment, str):  # as Pillow reads it where the type was changed to text
        comment = comment.encode("latin-1", "replace")
    code = bytes(comment[:_CODE_BYTES]).upper()
    for encoding in _COMMENT_CODES.get(code, ("utf-8",)):
        with suppress(UnicodeError):
            yield comment[_CODE_BYTES if code in _COMMENT_CODES else 0 :].decode(encoding)


def _png_text(recipe: Recipe | None, packet: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    if recipe is not None:
        info.add_itxt("Description", recipe.settings["prompt"])
        info.add_itxt("Software", f"ldm-engine {recipe.version}")
        info.add_itxt(RECIPE_KEY, recipe.as_json())
    if packet:
        info.add_itxt(XMP_KEY, packet)
    return info


def _exif(recipe: Recipe | None) -> Image.Exif:
    exif = Image.Exif()
    if recipe is not None:
        exif[_SOFTWARE] = f"ldm-engine {recipe.version}"
        exif.get_ifd(_EXIF_FOLDER)[_USER_COMMENT] = _COMMENT_CODE + recipe.as_json().encode()
    return exif
