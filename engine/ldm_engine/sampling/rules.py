"""An image's settings checked: each by itself, then the rules between them.

Its twin in C++ is a part of ``cpp/src/sampling/request.cpp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bundle.bundle import SOLVERS as SOLVERS_FILE
from ..errors import InvalidArgumentError
from .fitted import Table
from .settings import AUTO, SETTINGS, Limits, default_values
from .solvers import FITTED, SOLVERS
from .values import shown

_DEFAULT_STEPS = default_values()["num_inference_steps"]


def check_image(values: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """The checked values of one image, which has all settings.

    Raises:
        InvalidArgumentError: if a value is outside its range (``ShapeError`` for sizes).
        ArgumentTypeError: if a text is none.
    """
    checked = {s.name: s.checked(values[s.name], limits) for s in SETTINGS}
    _check_together(checked, limits)
    return checked


def _check_together(values: dict[str, Any], limits: Limits) -> None:
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
