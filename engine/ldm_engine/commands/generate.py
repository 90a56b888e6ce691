"""The command ``ldm-engine generate``: its options, and pictures of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from PIL.Image import Image

from ..runtimes.choice import MAPPED, MAX_THREADS, check_mapped, require
from ..sampling.opening import open_to_run
from ..sampling.outpainting import outpainting
from ..sampling.pictures import read_mask, read_picture
from ..sampling.pipeline import LDMTextToImagePipeline
from ..sampling.programs import MEMORY_CHOICES
from ..sampling.recipes import Recipe
from ..sampling.request import MAX_BATCH, Request, require_effect
from ..sampling.saving import file_stem, save_image
from ..sampling.screening import Check, require_accepted
from . import console
from .bundles import bundle_folder
from .from_image import check_given, generate_from_image
from .images import contact_sheet
from .memory import opened_pipeline, prefer_mapped
from .options import Margins, check_option, mark_option, named, runtime_options, settings_options

MAX_IMAGES = 100_000  #: a prompt; `render` is for more
_FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("bundle", type=_FOLDER)
@click.argument("prompts", nargs=-1, metavar="PROMPT...")
@click.option(
    "--from-image",
    type=_FOLDER,
    metavar="FILE",
    help="Instead of a PROMPT: render the image FILE again from its recipe, pixel for pixel; with "
    "the --image, --mask and --outpaint that it was made from.",
)
@click.option(
    *named("output"),
    type=_FOLDER,
    default=Path(),
    help="Folder for the pictures. Default: the working directory.",
)
@settings_options
@click.option(
    "--outpaint",
    type=Margins(),
    help="Paint on beyond the sides of --image: left=64,top=..., right=..., bottom=....",
)
@click.option(*named("seed"), type=int, help="Images get the seeds S, S+1, ... Default: at random.")
@click.option(
    *named("num-images"),
    type=click.IntRange(1, MAX_IMAGES),
    default=1,
    show_default=True,
    help="Images a prompt.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, MAX_BATCH),
    default=4,
    show_default=True,
    help="Images rendered at a time.",
)
@mark_option
@check_option
@click.option("--grid", is_flag=True, help="Write a contact sheet, grid.png, too.")
@runtime_options
@click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    help="Threads. Default: all cores of this process.",
)
@click.option(
    "--memory",
    type=click.Choice(("auto", *MEMORY_CHOICES)),
    default="auto",
    show_default=True,
    help="sequential holds one program at a time, which takes less memory and more time; mapped "
    "computes straight from the files, in fp32 by ONNX Runtime, with least memory and slower "
    "steps; auto takes mapped for few steps of a large model, or where its weights are larger than "
    "the free memory, and sequential where they are larger than half of it.",
)
@console.output_options
def generate(
    bundle: Path,
    prompts: tuple[str, ...],
    from_image: Path | None,
    output: Path,
    outpaint: dict[str, int] | None,
    seed: int | None,
    num_images: int,
    batch_size: int,
    mark: bool,
    check: Check | None,
    grid: bool,
    runtime: str,
    precision: str,
    device: str,
    threads: int | None,
    memory: str,
    **settings: Any,
) -> None:
    """Render a picture of each PROMPT with BUNDLE.

    Pictures are PNG files that carry their recipe; no file is ever overwritten.
    """
    settings |= _pictures(settings, outpaint)
    if from_image is not None:
        check_given(click.get_current_context())
        pictures = {name: settings[name] for name in ("image", "mask_image")}
        path = generate_from_image(bundle, from_image, pictures, output, device, memory, check)
        console.print_result(str(path))
        return
    if not prompts:
        raise click.UsageError("Missing argument 'PROMPT...'.")
    wanted = runtime
    if memory == "mapped":
        require(check_mapped(runtime))
        wanted = MAPPED
    opened = open_to_run(
        bundle_folder(bundle),
        runtime=wanted,
        precision=precision,
        device=device,
        threads=threads,
    )
    texts = [prompt for prompt in prompts for _ in range(num_images)]
    request = require_effect(opened.request({**settings, "prompt": texts, "seed": seed}))
    require_accepted(check, prompts)
    if (memory, runtime) == ("auto", "auto"):
        opened = prefer_mapped(opened, len(request) * len(request.rows))
    images = []
    with (
        opened_pipeline(opened, output, memory) as pipe,
        console.step_bar(len(request) * len(request.rows)) as advance,
    ):
        for image, recipe in _rendered(pipe, request, batch_size, mark, advance):
            require_accepted(check, [recipe.settings["prompt"]], [image])
            stem = file_stem(recipe.settings["prompt"], recipe.settings["seed"])
            console.print_result(str(save_image(image, output, stem, recipe)))
            if grid:
                images.append(image)
    if grid:
        sheet = contact_sheet(images, columns=num_images if num_images > 1 else None)
        path = save_image(sheet, output, "grid", origin=recipe.origin)
        console.print_result(str(path))


def _pictures(settings: Mapping[str, Any], margins: Mapping[str, int] | None) -> dict[str, Any]:
    """Picture and mask, read once for all images, by the settings' names."""
    image, mask = settings["image"], settings["mask_image"]
    if margins and (image is None or mask is not None):
        raise click.UsageError(
            "--outpaint is for an --image, and makes the mask for it: give it with --image, "
            "without --mask."
        )
    if margins:
        image, mask = outpainting(image, **margins)
    return {
        "image": image if image is None else read_picture("image", image),
        "mask_image": mask if mask is None else read_mask("mask", mask),
    }


def _rendered(
    pipe: LDMTextToImagePipeline,
    request: Request,
    batch_size: int,
    mark: bool,
    advance: Callable[[str], None],
) -> Iterator[tuple[Image, Recipe]]:
    """Pictures in order, rendered a batch at a time; `advance` is called once an image's step."""
    done = 0
    for part in request.parts(batch_size):
        shown = f"images {done + 1}-{done + len(part)} of {len(request)}"

        def on_step(*step: Any, shown: str = shown, size: int = len(part)) -> None:
            for _ in range(size):
                advance(shown)

        rendered = pipe.render(part, callback_on_step_end=on_step)
        for i, image in enumerate(rendered.images):
            yield image, Recipe.of(part.values(i), pipe.opened, len(part), mark)
        done += len(part)
