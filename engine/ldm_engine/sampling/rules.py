"""An image's settings checked: each by itself, then the rules between them.

Its twin in C++ is a part of ``cpp/src/sampling/request.cpp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bundle.bundle import SOLVERS as SOLVERS_FILE
from ..bundle.model import MAX_SIZE, ModelInfo
from ..errors import InvalidArgumentError, ShapeError
from .fitted import Table
from .pictures import Given
from .settings import AUTO, SETTINGS, Limits, default_values
from .solvers import FITTED, SOLVERS
from .values import shown

SETTING = {setting.name: setting for setting in SETTINGS}
_DEFAULT_STEPS = default_values()["num_inference_steps"]


def check_image(values: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """The checked values of one image, which has all settings.

    Raises:
        InvalidArgumentError: if a value is outside its range (``ShapeError`` for sizes).
        ArgumentTypeError: if a text is none.
    """
    picture = SETTING["image"].checked(values["image"], limits)
    values = {**values, "image": picture, **_own_size(values, picture, limits.model)}
    checked = {s.name: s.checked(values[s.name], limits) for s in SETTINGS}
    _check_solver(checked, limits)
    _check_pictures(checked, limits.no_pictures)
    return checked


def steps_to_run(values: Mapping[str, Any]) -> int:
    """Calls of the UNet: of a picture's steps the last ones."""
    steps: int = values["num_inference_steps"]
    return steps if values["image"] is None else int(steps * values["strength"])


def _own_size(values: Mapping[str, Any], picture: Given | None, model: ModelInfo) -> dict[str, int]:
    """The sides that are not given and that a picture has.

    Raises:
        ShapeError: if the model does not render them.
    """
    if picture is None:
        return {}
    sides = dict(zip(("height", "width"), picture.size, strict=True))
    own = {name: side for name, side in sides.items() if values[name] is None}
    multiple = model.pixel_multiple
    if all(side % multiple == 0 and side <= MAX_SIZE for side in own.values()):
        return own
    nearest = {
        name: min(max((side + multiple // 2) // multiple, 1), MAX_SIZE // multiple) * multiple
        for name, side in own.items()
    }
    raise ShapeError(
        f"`image` has {picture.size[1]}x{picture.size[0]} pixels (width x height), and sides that "
        f"are multiples of {multiple} up to {MAX_SIZE} are accepted. Give "
        f"{' and '.join(f'`{name}` {side}' for name, side in nearest.items())}, or others: it is "
        "cropped and resized to them."
    )


def _check_solver(values: dict[str, Any], limits: Limits) -> None:
    _choose_steps(values, limits)
    solver, eta, timesteps = (values[name] for name in ("solver", "eta", "timesteps"))
    if eta and solver != "ddim":
        raise InvalidArgumentError(
            f"`eta` is {eta} with the solver {solver}, which adds no noise; 0 is accepted, or the "
            "solver ddim."
        )
    table = None
    if solver == FITTED:
        table = limits.tables.find(values["guidance_scale"], values["num_inference_steps"])
    _check_table(values, table)
    if timesteps is None:
        return
    if table is not None:
        raise InvalidArgumentError(
            "`timesteps` is given with the solver fitted, which brings its own; leave it out."
        )
    steps = values["num_inference_steps"]
    if steps not in (_DEFAULT_STEPS, len(timesteps)):
        raise InvalidArgumentError(
            f"`timesteps` lists {len(timesteps)} and `num_inference_steps` is {steps}; give the "
            "same number, or leave one of them out."
        )
    values["num_inference_steps"] = len(timesteps)


def _choose_steps(values: dict[str, Any], limits: Limits) -> None:
    """Put solver and steps in the place of "auto"."""
    if values["num_inference_steps"] != AUTO:
        return
    for name, accepted in (("solver", (SOLVERS[0], FITTED)), ("timesteps", (None,))):
        if values[name] not in accepted:
            raise InvalidArgumentError(
                f"`num_inference_steps` is auto and `{name}` is {shown(values[name])}; auto "
                f"chooses it. Leave `{name}` out, or give a number of steps."
            )
    table = limits.tables.fewest(values["guidance_scale"])
    values["num_inference_steps"], values["solver"] = table.steps, FITTED


def _check_table(values: dict[str, Any], table: Table | None) -> None:
    """Note which table makes the picture; what was noted of a picture made before must hold."""
    digest, noted = table.digest if table else None, values["solver_table"]
    if noted not in (None, digest):
        had = f"the bundle's own is {digest}" if table else f"the solver is {values['solver']}"
        raise InvalidArgumentError(
            f"`solver_table` is {noted}, and {had}: the pixels would differ. Leave it out if it "
            f"was given, or bring back the {SOLVERS_FILE} that the picture was made with."
        )
    values["solver_table"] = digest


def _check_pictures(values: dict[str, Any], no_pictures: str) -> None:
    """Fill in the strength, and note which pictures were given; what was noted must hold."""
    picture, mask, strength = (values[name] for name in ("image", "mask_image", "strength"))
    for name, given in (("image", picture), ("mask", mask)):
        _check_noted(values, f"{name}_sha256", given)
    if picture is None:
        for name in ("mask_image", "strength"):
            if values[name] is not None:
                field = SETTING[name].field
                raise InvalidArgumentError(
                    f"`{field}` is given without an `image`. Give the picture that it is about."
                )
        return
    if no_pictures:
        raise InvalidArgumentError(f"`image` is given, and cannot be encoded. {no_pictures}")
    if mask is not None and mask.size != picture.size:
        height, width = mask.size
        raise ShapeError(
            f"The mask has {width}x{height} pixels and `image` {picture.size[1]}x"
            f"{picture.size[0]}; a mask of the same size is accepted."
        )
    if strength is None:
        values["strength"] = 0.8 if mask is None else 1.0
    solver, steps, strength = (values[n] for n in ("solver", "num_inference_steps", "strength"))
    if solver == FITTED and strength < 1:
        raise InvalidArgumentError(
            f"`strength` is {strength} with the solver fitted, whose steps belong together; 1 is "
            "accepted, or the solver dpmsolver++ or ddim with a number of steps."
        )
    if steps_to_run(values) < 1:
        raise InvalidArgumentError(
            f"`strength` is {strength} of {steps} steps, which is less than one. Give a strength "
            f"of {-(-1000 // steps) / 1000:g} or more, or more steps."
        )


def _check_noted(values: dict[str, Any], name: str, given: Given | None) -> None:
    found, noted = given.sha256 if given else None, values[name]
    if noted not in (None, found):
        is_found = f"what is given has {found}" if found else "none is given"
        raise InvalidArgumentError(
            f"`{name}` is {noted}, and {is_found}: the pixels would differ. Give the file that the "
            "picture was made from."
        )
    values[name] = found
