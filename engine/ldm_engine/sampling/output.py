"""What a call returns: images that take their recipes with them into files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ArgumentTypeError, InvalidArgumentError
from ..machine.files import make_folder
from .pixels import to_pil
from .recipes import IMAGE_FORMATS, RECIPE_KEY, Recipe, metadata
from .saving import file_stem, save_image

ArrayType = Literal["np", "latent"]
OUTPUT_TYPES = ("pil", "np", "latent")

Images = TypeVar("Images")


class RecipeImage(Image.Image):
    """A PIL image whose ``save`` puts the recipe in ``info["ldm-engine"]`` into the file.

    What PIL derives from it (``resize()``, ``crop()``, ``convert()``, ``copy()``, ...) is a plain
    image, which PIL saves without.
    """

    @classmethod
    def of(cls, image: Image.Image, recipe: Recipe) -> RecipeImage:
        """The same picture with a `recipe`."""
        made = cls()
        made.__setstate__(image.__getstate__())
        made.info[RECIPE_KEY] = recipe.as_json()
        return made

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """As PIL does; PNG, JPEG and WebP carry the recipe, unless metadata of one's own is given.

        That is ``pnginfo=`` of PNG, ``exif=`` of the others.
        """
        super().save(fp, format, **{**self._metadata(format or _format_of(fp)), **params})

    def _metadata(self, image_format: str) -> Mapping[str, Any]:
        if RECIPE_KEY not in self.info or image_format.lower() not in IMAGE_FORMATS:
            return {}
        return metadata(Recipe.from_json(self.info[RECIPE_KEY]), image_format.lower())


def _format_of(fp: Any) -> str:
    """The format in which PIL saves to this path or file, by its name; "" if that says nothing."""
    name = fp if isinstance(fp, (str, os.PathLike)) else getattr(fp, "name", "")
    suffix = Path(os.fsdecode(name)).suffix if isinstance(name, (str, bytes, os.PathLike)) else ""
    return Image.registered_extensions().get(suffix.lower(), "")


@dataclass(frozen=True)
class ImagePipelineOutput(Generic[Images]):
    """What a call returns."""

    #: PIL images; for "np" [B, H, W, 3] in [0, 1]; for "latent" [B, 4, h, w]; both float32.
    images: Images
    seeds: tuple[int, ...]  #: the seed of each image, also when none was given
    num_steps_run: int  #: fewer than requested if a callback stopped the run
    prompts: tuple[str, ...]  #: the prompt of each image
    #: By which `ldm-engine generate --from-image` renders each image again; None where initial
    #: latents were given, or a callback stopped the run or wrote to the latents.
    recipes: tuple[Recipe, ...] | None
    output_type: str
    origin: str  #: the digital source type of the images

    def save(
        self, folder: str | os.PathLike[str], image_format: str = "png", mark: bool = True
    ) -> list[Path]:
        """Write each image into `folder`, which is made, under a name of its prompt and seed.

        No file is ever overwritten. Each carries its recipe, if there is one.

        Args:
            folder: where to.
            image_format: "png", "jpeg" or "webp".
            mark: whether the files state that a model made the images.

        Returns:
            The paths, in the order of the images.

        Raises:
            InvalidArgumentError: if these are latents, or there is no such format.
            OutputError: if a file cannot be written.
        """
        if not isinstance(image_format, str) or image_format not in IMAGE_FORMATS:
            raise InvalidArgumentError(
                f"`image_format` is {image_format!r}; {', '.join(IMAGE_FORMATS)} are accepted."
            )
        if not isinstance(mark, bool):
            raise ArgumentTypeError(f"`mark` is {mark!r}; True or False is accepted.")
        images, folder = self.pictures(), Path(folder)
        make_folder(folder)
        origin = self.origin if mark else None
        recipes: list[Recipe | None] = [None] * len(images)
        if self.recipes is not None:
            recipes = [replace(recipe, mark=mark) for recipe in self.recipes]
        stems = map(file_stem, self.prompts, self.seeds)
        return [
            save_image(image, folder, stem, recipe, image_format, origin)
            for image, stem, recipe in zip(images, stems, recipes, strict=True)
        ]

    def pictures(self) -> list[Image.Image]:
        """The images as PIL's.

        Raises:
            InvalidArgumentError: if these are latents.
        """
        if self.output_type == "latent":
            raise InvalidArgumentError(
                "`output_type` was 'latent', and latents are no pictures; images of 'pil' or 'np' "
                "can be saved. Render with one of these, or keep the latents with numpy.save()."
            )
        images: Any = self.images
        return images if self.output_type == "pil" else to_pil(images)


def as_images(
    values: NDArray[np.float32], output_type: str, recipes: tuple[Recipe, ...] | None
) -> list[Image.Image] | NDArray[np.float32]:
    """Pixels or latents as a call gives them."""
    if output_type != "pil":
        return values
    images = to_pil(values)
    if recipes is None:
        return images
    return [RecipeImage.of(image, r) for image, r in zip(images, recipes, strict=True)]
