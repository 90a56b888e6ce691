"""An image to render with the pictures that it starts from, which may be gone or changed by now."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

from ...errors import LDMEngineError
from ...sampling.colours import PictureWarning
from ...sampling.inputs import in_memory
from .rows import Task


@dataclass(frozen=True)
class Loaded:
    """An image whose pictures were read, or why they cannot be."""

    task: Task  #: with them in memory
    source: Task  #: with their places
    fault: str = ""
    notice: str = ""  #: what was done to them

    @classmethod
    def of(cls, task: Task) -> Loaded:
        """Read the pictures of `task`, if it has any."""
        if task.values["image"] is None:
            return cls(task, task)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PictureWarning)
            try:
                loaded = replace(task, values=in_memory(task.values))
            except LDMEngineError as error:
                return cls(task, task, fault=str(error))
        notices = [str(w.message) for w in caught if isinstance(w.message, PictureWarning)]
        return cls(loaded, task, notice=" ".join(notices))
