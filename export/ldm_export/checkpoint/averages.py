"""The averaged weights (EMA) of a CompVis checkpoint: whether they are complete, and read.

CompVis' code (`LitEma` in ldm/modules/ema.py of github.com/CompVis/latent-diffusion) keeps the
average of each of the UNet's tensors under its name without dots, and samples from the averages.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ldm_engine.errors import CheckpointError

from .files import WRAPPING_MODULES
from .tensors import Tensors

TRAINED = "model.diffusion_model."
AVERAGED = "model_ema."
COUNTERS = ("model_ema.decay", "model_ema.num_updates")

# What a wrapped part of the model leaves in a name without dots.
WRAPPING = re.compile("|".join(sorted(WRAPPING_MODULES - {"module"})))

LISTED = 3


def choose_averages(
    path: Path, tensors: Tensors, said: Any, wanted: bool | None
) -> tuple[bool, str | None]:
    """Whether the averages are to be read, and what a user should hear of it.

    Args:
        path: the file to name in errors.
        tensors: all that it holds.
        said: `use_ema` of the yaml beside it; None without one.
        wanted: what the user asks for, which comes before the yaml.

    Raises:
        CheckpointError: averages are asked for, and are not there or not complete.
    """
    if said is not None and not isinstance(said, bool):
        raise CheckpointError(
            f"The yaml beside `{path}` has a value of an unknown form: `use_ema` is "
            f"{reprlib.repr(said)}; true and false are accepted.\n  Correct it."
        )
    averages = _averages(tensors)
    trained = [name for name in tensors if name.startswith(TRAINED)]
    missing = [n for n in trained if not _is_averaged(n, tensors, averages)]
    asked = said if wanted is None else wanted
    yaml_says = f"the yaml beside it says (use_ema: {str(said).lower()})"
    if not averages:
        if wanted:
            raise CheckpointError(
                f"`{path}` has no averaged weights (`{AVERAGED}*`), and `ema` asks for them.\n"
                "  Leave out `ema` (--ema)."
            )
        note = (
            f"unet: the file has no averaged weights, though {yaml_says}; its only ones are read."
        )
        return False, note if asked else None
    if asked and missing:
        raise CheckpointError(
            f"`{path}` has averaged weights (`{AVERAGED}*`) for {len(trained) - len(missing)} of "
            f"the UNet's {len(trained)} tensors; {_listing(missing)} missing or of another shape.\n"
            "  Pass ema=False (--no-ema) to read the weights as they were trained last."
        )
    if asked is None:
        return not missing, _default_note(trained, missing)
    return asked, f"unet: {_taken(asked)}{f', as {yaml_says}' if wanted is None else ''}."


def with_averages(tensors: Tensors) -> Tensors:
    """`tensors` with the UNet's averages in the place of its weights."""
    averages = _averages(tensors)
    return {
        name: tensors[averages[_flat(name)]] if name.startswith(TRAINED) else tensor
        for name, tensor in tensors.items()
    }


def _taken(averaged: bool) -> str:
    kinds = [f"averaged weights (EMA, `{AVERAGED}*`)", "weights as they were trained last"]
    taken, left = kinds if averaged else kinds[::-1]
    return f"the {taken} are read, not the {left}"


def _default_note(trained: list[str], missing: list[str]) -> str:
    if not missing:
        return f"unet: {_taken(True)}; --no-ema (ema=False) reads those."
    return (
        f"unet: {_taken(False)}, which are incomplete: {len(missing)} of {len(trained)} are "
        f"missing or of another shape, such as {_listing(missing[:1])}."
    )


def _averages(tensors: Iterable[str]) -> dict[str, str]:
    """Name without dots -> stored name of the average."""
    names = (name for name in tensors if name.startswith(AVERAGED) and name not in COUNTERS)
    return {WRAPPING.sub("", _flat(name.removeprefix(AVERAGED))): name for name in names}


def _is_averaged(name: str, tensors: Tensors, averages: dict[str, str]) -> bool:
    average = averages.get(_flat(name))
    return average is not None and tensors[average].shape == tensors[name].shape


def _flat(name: str) -> str:
    return name.removeprefix("model.").replace(".", "")


def _listing(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:LISTED])
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown
