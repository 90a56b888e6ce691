"""Rendering an image again from the recipe in its own file, pixel for pixel."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from ..bundle.bundle import Bundle
from ..bundle.manifest import open_bundle
from ..errors import ArgumentTypeError, InvalidArgumentError
from ..machine.device import Device
from ..machine.files import make_folder
from ..rendering.plan import MIN_ROWS
from ..runtimes.choice import choose_runtime, resolve_options
from ..sampling.pipeline import LDMTextToImagePipeline
from ..sampling.recipes import Recipe, read_recipe
from ..sampling.request import MAX_BATCH, check_request
from . import console
from .images import save_png, slug
from .memory import choose_memory

#: Options of ``generate`` that do not change the image.
_FREE = ("bundle", "output", "device", "gpu_pool_mb", "memory", "from_image", "debug")


def check_given(context: click.Context) -> None:
    """Raise ``UsageError`` if the command line says what the recipe says already."""
    given = [
        parameter.opts[-1] if isinstance(parameter, click.Option) else "PROMPT"
        for parameter in context.command.params
        if parameter.name not in _FREE
        and context.get_parameter_source(parameter.name or "") == ParameterSource.COMMANDLINE
        and context.params.get(parameter.name or "") != ()  # no prompts
    ]
    if given:
        raise click.UsageError(
            f"{', '.join(given)} cannot be given beside --from-image: the image's own recipe says "
            "how it was rendered. Leave them out, or render a new image without --from-image."
        )


def generate_again(
    bundle_path: Path,
    image_path: Path,
    output: Path,
    device: str,
    gpu_pool_mb: int | None,
    memory: str,
) -> Path:
    """Render the image of a file again and return where it was written.

    Raises:
        InvalidArgumentError: if the file has no recipe, or one of another bundle.
        RuntimeUnavailableError: if its runtime or precision is not to be had here.
    """
    recipe = read_recipe(image_path)
    bundle = open_bundle(bundle_path)
    _check(image_path, recipe, bundle)
    if Device.parse(device).kind != recipe.device:
        raise InvalidArgumentError(
            f"{image_path} was rendered on a {str(recipe.device)[:10]}, and the pixels would "
            f"differ on {device}. Give another --device."
        )
    choice = choose_runtime(bundle, recipe.runtime, recipe.precision, device)
    resolve_options(choice.runtime, device, recipe.precision, recipe.threads, gpu_pool_mb)
    make_folder(output)
    with console.busy(f"opening {bundle_path}"):
        pipe = LDMTextToImagePipeline.from_pretrained(
            bundle_path,
            device=device,
            runtime=recipe.runtime,
            precision=recipe.precision,
            threads=recipe.threads,
            memory=choose_memory(memory, bundle, choice, recipe.precision, device),
            gpu_pool_mb=gpu_pool_mb,
        )
    # A batch as large as the one it came from, where that decides about last bits.
    rows = recipe.batch_size
    if choice.runtime.rounds_alike(device):
        rows = min(rows, MIN_ROWS)
    with console.step_bar(recipe.num_inference_steps) as advance:
        rendered = pipe(
            [recipe.prompt] * rows,
            seed=[recipe.seed] * rows,
            callback_on_step_end=lambda *_: advance("rendering again"),
            **recipe.settings(),
        )
    return save_png(rendered.images[0], output, f"{slug(recipe.prompt)}-{recipe.seed}", recipe)


def _check(path: Path, recipe: Recipe, bundle: Bundle) -> None:
    if recipe.bundle != bundle.digest:
        raise InvalidArgumentError(
            f"{path} was rendered with the bundle {str(recipe.bundle)[:12]}… of "
            f"{str(recipe.model)[:200]}, and {bundle.path} is {bundle.digest[:12]}…: the pixels "
            "would differ. Give the bundle that it was made with; `ldm-engine info` shows digests."
        )
    try:
        if type(recipe.batch_size) is not int or not 1 <= recipe.batch_size <= MAX_BATCH:
            raise InvalidArgumentError(f"`batch_size` is {recipe.batch_size!r}.")
        check_request(bundle, prompt=[recipe.prompt], seed=[recipe.seed], **recipe.settings())
    except (InvalidArgumentError, ArgumentTypeError) as error:
        raise InvalidArgumentError(
            f"The recipe in {path} is not one that ldm-engine wrote: {error}"
        ) from error
