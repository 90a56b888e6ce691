"""Arrays that were computed, kept on disk so that work that was stopped goes on where it was."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..machine.files import make_folder, write_atomically


class Saved:
    """Named groups of arrays in a folder, or none that are kept without one."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def arrays(
        self, name: str, make: Callable[[], Mapping[str, NDArray[np.generic]]]
    ) -> dict[str, NDArray[np.generic]]:
        """The group called `name`, made and kept if it is not there.

        Raises:
            OutputError: if it cannot be kept.
        """
        path = self._folder / f"{name}.npz" if self._folder else None
        if path is None:
            return dict(make())
        try:
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile):
            made = dict(make())
        content = io.BytesIO()
        arrays: dict[str, Any] = made
        np.savez(content, **arrays)
        make_folder(path.parent)  # which another process may have done with
        write_atomically(path, content.getvalue())
        return made
