"""Rendering an image once more from the recipe in its own file, pixel for pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from ..bundle.bundle import SOLVERS, Bundle
from ..bundle.manifest import open_bundle
from ..errors import ArgumentTypeError, InvalidArgumentError
from ..machine.device import Device
from ..rendering.plan import MIN_ROWS
from ..sampling.opening import Opened, choose_for
from ..sampling.pictures import Picture
from ..sampling.recipes import Recipe, encoder_of, read_recipe
from ..sampling.request import MAX_BATCH, Request
from ..sampling.saving import file_stem, save_image
from ..sampling.screening import Check, require_accepted
from ..sampling.settings import SETTINGS, as_call
from ..sampling.values import is_number, is_whole, shown
from . import console
from .bundles import bundle_folder
from .memory import opened_pipeline


class OtherSolverError(InvalidArgumentError):
    """The image was rendered by a fitted solver that the bundle does not have."""


#: Options of ``generate`` that do not change the image.
_FREE = ("bundle", "output", "device", "memory", "from_image", "image", "mask_image",
         "outpaint", "check", "debug", "quiet", "log_file")  # fmt: skip


def check_given(context: click.Context) -> None:
    """Raise ``UsageError`` if the command line says what the recipe says already."""
    given = [
        _option_name(parameter) if isinstance(parameter, click.Option) else "PROMPT"
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


def _option_name(option: click.Option) -> str:
    return "/".join([option.opts[-1], *option.secondary_opts[-1:]])


def generate_from_image(
    bundle_path: Path,
    image_path: Path,
    pictures: Mapping[str, Picture | None],
    output: Path,
    device: str,
    memory: str,
    check: Check | None,
) -> Path:
    """Render the image of a file once more and return where it was written.

    Its `pictures` are those that it was made from, by the settings' names.

    Raises:
        InvalidArgumentError: if the file has no recipe, or one of another bundle, or if it was made
            from other pictures.
        RefusedError: if `check` refuses it.
        RuntimeUnavailableError: if its runtime or precision is not available here.
    """
    recipe = read_recipe(image_path)
    bundle = open_bundle(bundle_folder(bundle_path))
    _check_origin(image_path, recipe, bundle, device)
    _check_pictures(image_path, recipe, pictures)
    try:
        opened = choose_for(bundle, recipe.runtime, recipe.precision, device, recipe.threads)
        _check_solver(image_path, recipe, opened)
        request = _request(replace(recipe, settings={**recipe.settings, **pictures}), opened)
    except OtherSolverError:
        raise
    except (InvalidArgumentError, ArgumentTypeError) as error:
        raise InvalidArgumentError(
            f"The recipe in {image_path} is not one that ldm-engine wrote: {str(error)[:500]}"
        ) from error
    require_accepted(check, request.columns["prompt"][:1])
    with (
        opened_pipeline(opened, output, memory) as pipe,
        console.step_bar(len(request.rows)) as advance,
    ):
        rendered = pipe.render(request, callback_on_step_end=lambda *_: advance("rendering again"))
    require_accepted(check, request.columns["prompt"][:1], list(rendered.images[:1]))
    stem = file_stem(recipe.settings["prompt"], recipe.settings["seed"])
    return save_image(rendered.images[0], output, stem, recipe)


def _check_origin(path: Path, recipe: Recipe, bundle: Bundle, device: str) -> None:
    """Raise ``InvalidArgumentError`` unless `bundle` on `device` is what made the image."""
    if recipe.bundle != bundle.digest:
        raise InvalidArgumentError(
            f"{path} was rendered with the bundle {str(recipe.bundle)[:12]}… of "
            f"{str(recipe.model)[:200]}, and {bundle.path} is {bundle.digest[:12]}…: the pixels "
            "would differ. Give the bundle that it was made with; `ldm-engine info` shows digests."
        )
    made_by = encoder_of(recipe.settings, bundle)
    if recipe.encoder != made_by:
        raise InvalidArgumentError(
            f"{path} was made from a picture by the encoder {shown(recipe.encoder)}, and "
            f"{bundle.path} has {made_by or 'none'}: the pixels would differ. Give the bundle that "
            "it was made with."
        )
    if Device.parse(device).kind != recipe.device:
        raise InvalidArgumentError(
            f"{path} was rendered on a {str(recipe.device)[:10]}, and the pixels would "
            f"differ on {device}. Give another --device."
        )


def _check_pictures(path: Path, recipe: Recipe, pictures: Mapping[str, Picture | None]) -> None:
    """Raise ``InvalidArgumentError`` unless the image was made from these `pictures`."""
    for setting in (s for s in SETTINGS if s.is_picture):
        picture, noted = pictures[setting.name], recipe.settings[f"{setting.field}_sha256"]
        if noted != (picture.sha256 if picture else None):
            option = f"--{setting.field}"
            was = f"{option} with the sha256 {shown(noted)}" if noted else f"no {option}"
            now = f"the one given has {picture.sha256}" if picture else "none is given"
            raise InvalidArgumentError(
                f"{path} was made with {was}, and {now}: the pixels would differ. Give what it was "
                "made from."
            )


def _check_solver(path: Path, recipe: Recipe, opened: Opened) -> None:
    """Raise ``OtherSolverError`` unless the bundle has the fitted solver that made the image."""
    names = ("solver_table", "guidance_scale", "num_inference_steps")
    noted, guidance, steps = (recipe.settings.get(name, "") for name in names)
    if not noted or not (is_number(guidance) and is_whole(steps)):
        return
    try:
        found = opened.tables.find(guidance, steps).digest
    except InvalidArgumentError:
        found = "none for its guidance and steps"
    if found != noted:
        raise OtherSolverError(
            f"{path} was rendered by the fitted solver {shown(noted)}, and {opened.bundle.path} "
            f"has {found}: the pixels would differ. Bring back the {SOLVERS} that it had then."
        )


def _request(recipe: Recipe, opened: Opened) -> Request:
    """The image, in as many rows as decide about its last bits."""
    rows = recipe.batch_size
    if type(rows) is not int or not 1 <= rows <= MAX_BATCH:
        raise InvalidArgumentError(f"`batch_size` is {rows!r}.")
    if opened.choice.runtime.rounds_alike(opened.options.device):
        rows = min(rows, MIN_ROWS)
    return opened.request(as_call([recipe.settings] * rows))
