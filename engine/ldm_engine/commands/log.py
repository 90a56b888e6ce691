"""The file of ``--log-file``: what a command says beside its results, a line each with its time."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..errors import OutputError
from ..machine.files import reason


class Log:
    """A file that lines are appended to; without one they go nowhere."""

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a file."""
        return self._file is not None

    def open(self, path: Path) -> None:
        """Append to the file `path`, which may be new.

        Raises:
            OutputError: if it cannot be opened.
        """
        try:
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        except OSError as error:
            raise OutputError(
                f"The log file {path} cannot be written: {reason(error)}. Name a file in a folder "
                "that is there."
            ) from error

    def write(self, text: str) -> None:
        """Append `text`; what runs does not depend on whether there is room for it."""
        if self._file is not None:
            with suppress(OSError):
                for line in text.splitlines():
                    self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


#: Of this process's command.
LOG = Log()
