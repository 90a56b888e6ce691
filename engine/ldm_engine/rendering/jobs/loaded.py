"""Images to render with the pictures that they start from, as far as they are there and allowed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import LDMEngineError
from ...sampling.colours import PictureWarning
from ...sampling.inputs import in_memory
from .rows import Task

_PICTURES = ("image", "mask_image")


@dataclass(frozen=True)
class Loaded:
    """An image whose pictures were read, or why they cannot be."""

    task: Task  #: with them in memory
    source: Task  #: with their places
    fault: str
    notice: str  #: what was done to them
    is_refused: bool = False  #: whether the fault is that a check refused the prompt


def load(tasks: Iterable[Task], refusal: Callable[[str], str]) -> Iterator[Loaded]:
    """Each of `tasks` with its pictures, if it has any; those that several have are read once.

    `refusal` gives why a prompt is refused, if it is; it is called once with each.
    """
    known: dict[Hashable, tuple[Mapping[str, Any], str, str]] = {}
    reasons: dict[str, str] = {}
    for task in tasks:
        prompt = task.values["prompt"]
        if prompt not in reasons:
            reasons[prompt] = refusal(prompt)
        if reasons[prompt]:
            yield Loaded(task, task, reasons[prompt], "", is_refused=True)
            continue
        key = tuple(task.values[name] for name in (*_PICTURES, "height", "width"))
        if key not in known:
            known[key] = _read(task)
        pictures, fault, notice = known[key]
        yield Loaded(replace(task, values={**task.values, **pictures}), task, fault, notice)


def _read(task: Task) -> tuple[Mapping[str, Any], str, str]:
    """The pictures of `task`, what is wrong with them, and what was done to them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PictureWarning)
        try:
            values = in_memory(task.values)
        except LDMEngineError as error:
            return {}, str(error), ""
    notices = [str(w.message) for w in caught if isinstance(w.message, PictureWarning)]
    return {name: values[name] for name in _PICTURES}, "", " ".join(notices)
