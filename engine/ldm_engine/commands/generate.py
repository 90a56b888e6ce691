"""The command ``ldm-engine generate``: its options, and pictures of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from PIL.Image import Image

from ..bundle.manifest import open_bundle
from ..machine.device import Device
from ..machine.files import make_folder
from ..runtimes.choice import MAX_THREADS, choose_runtime, resolve_options
from ..sampling.noise import resolve_seeds
from ..sampling.pipeline import MEMORY_MODES, LDMTextToImagePipeline
from ..sampling.recipes import Recipe
from ..sampling.request import MAX_BATCH, check_request
from . import console
from .again import check_given, generate_again
from .images import contact_sheet, save_png, slug
from .memory import choose_memory
from .options import runtime_options

MAX_IMAGES = 100_000  #: a prompt; `render` is for more
_FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("bundle", type=_FOLDER)
@click.argument("prompts", nargs=-1, metavar="PROMPT...")
@click.option(
    "--from-image",
    type=_FOLDER,
    metavar="FILE",
    help="Instead of a PROMPT: render the image FILE again from its recipe, pixel for pixel.",
)
@click.option("-o", "--output", type=_FOLDER, default=Path(), help="Folder for the pictures.")
@click.option("--num-inference-steps", type=int, default=50, show_default=True)
@click.option(
    "--guidance-scale",
    type=float,
    default=6.0,
    show_default=True,
    help="How closely to follow the prompt; 1.0 is off, which is Python's default.",
)
@click.option("--eta", type=float, default=0.0, show_default=True)
@click.option("--negative-prompt", help="What to guide away from.")
@click.option("--seed", type=int, help="Images get the seeds S, S+1, ... Default: at random.")
@click.option(
    "--num-images",
    type=click.IntRange(1, MAX_IMAGES),
    default=1,
    show_default=True,
    help="Images a prompt.",
)
@click.option("--height", type=int, help="Pixels. Default: as trained.")
@click.option("--width", type=int, help="Pixels. Default: as trained.")
@click.option("--batch-size", type=click.IntRange(1, MAX_BATCH), default=4, show_default=True)
@click.option("--grid", is_flag=True, help="Write a contact sheet, grid.png, too.")
@runtime_options
@click.option(
    "--threads", type=click.IntRange(1, MAX_THREADS), help="Default: all cores of this process."
)
@click.option(
    "--memory",
    type=click.Choice(("auto", *MEMORY_MODES)),
    default="auto",
    show_default=True,
    help="sequential holds one program at a time, which takes less memory and more time; auto "
    "does so where the programs' weights are larger than half of the free memory.",
)
@console.debug_option
def generate(
    bundle: Path,
    prompts: tuple[str, ...],
    from_image: Path | None,
    output: Path,
    seed: int | None,
    num_images: int,
    batch_size: int,
    grid: bool,
    runtime: str,
    precision: str,
    device: str,
    gpu_pool_mb: int | None,
    threads: int | None,
    memory: str,
    **settings: Any,
) -> None:
    """Render a picture of each PROMPT with BUNDLE.

    Pictures are PNG files that carry their recipe; no file is ever overwritten.
    """
    if from_image is not None:
        check_given(click.get_current_context())
        path = generate_again(bundle, from_image, output, device, gpu_pool_mb, memory)
        console.out.print(str(path), markup=False)
        return
    if not prompts:
        raise click.UsageError("Missing argument 'PROMPT...'.")
    jobs = [prompt for prompt in prompts for _ in range(num_images)]
    seeds = resolve_seeds(seed, len(jobs))
    opened = open_bundle(bundle)
    check_request(opened, prompt=list(prompts), **settings)
    choice = choose_runtime(opened, runtime, precision, device)
    resolve_options(choice.runtime, device, precision, threads, gpu_pool_mb)
    memory = choose_memory(memory, opened, choice, precision, device)
    make_folder(output)
    with console.busy(f"opening {bundle}"):
        pipe = LDMTextToImagePipeline.from_pretrained(
            bundle,
            device=device,
            runtime=choice.runtime.name,
            precision=precision,
            threads=threads,
            memory=memory,
            gpu_pool_mb=gpu_pool_mb,
        )
    images = []
    with console.step_bar(len(jobs) * settings["num_inference_steps"]) as advance:
        for image, recipe in _rendered(pipe, jobs, seeds, batch_size, settings, advance):
            path = save_png(image, output, f"{slug(recipe.prompt)}-{recipe.seed}", recipe)
            console.out.print(str(path), markup=False)
            if grid:
                images.append(image)
    if grid:
        sheet = contact_sheet(images, columns=num_images if num_images > 1 else None)
        console.out.print(str(save_png(sheet, output, "grid")), markup=False)


def _rendered(
    pipe: LDMTextToImagePipeline,
    prompts: list[str],
    seeds: list[int],
    batch_size: int,
    settings: dict[str, Any],
    advance: Callable[[str], None],
) -> Iterator[tuple[Image, Recipe]]:
    """Pictures in order, rendered a batch at a time; `advance` is called once an image's step."""
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        stop = start + len(batch)
        shown = f"images {start + 1}-{stop} of {len(prompts)}"

        def on_step(*step: Any, shown: str = shown, size: int = len(batch)) -> None:
            for _ in range(size):
                advance(shown)

        rendered = pipe(batch, seed=seeds[start:stop], callback_on_step_end=on_step, **settings)
        for prompt, seed, image in zip(batch, seeds[start:stop], rendered.images, strict=True):
            yield image, _recipe(pipe, prompt, seed, image.size, settings, len(batch))


def _recipe(
    pipe: LDMTextToImagePipeline,
    prompt: str,
    seed: int,
    size: tuple[int, int],
    settings: dict[str, Any],
    batch_size: int,
) -> Recipe:
    return Recipe(
        prompt=prompt,
        negative_prompt=settings["negative_prompt"] or "",
        seed=seed,
        num_inference_steps=settings["num_inference_steps"],
        guidance_scale=settings["guidance_scale"],
        eta=settings["eta"],
        height=size[1],
        width=size[0],
        model=pipe.bundle.model.source,
        bundle=pipe.bundle.digest,
        runtime=pipe.runtime,
        precision=pipe.options.precision,
        threads=pipe.options.threads,
        batch_size=batch_size,
        device=Device.parse(pipe.options.device).kind,
    )
