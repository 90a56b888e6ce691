"""The opened programs of a pipeline: all of them from the start, or one at a time; closable."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import ClosedError
from ..machine import forks
from ..runtimes.base import Program, inherited

MEMORY_MODES = ("resident", "sequential")
MEMORY_CHOICES = (*MEMORY_MODES, "mapped")  #: the last by a runtime of its own, that is resident


class Programs:
    """Opened programs by name."""

    def __init__(
        self,
        names: Sequence[str],
        open_program: Callable[[str], Program],
        memory: str,
        optional: Sequence[str] = (),
    ):
        """`memory` is one of ``MEMORY_MODES``; "resident" opens all `names` now.

        The `optional` ones are opened when they are used first.
        """
        self._names, self._open, self._memory = names, open_program, memory
        self._optional = optional
        self._is_closed = False
        self._process = forks.guard(self)
        self._opened: dict[str, Program] = {}
        if memory == "resident":
            self._open_all()

    def __getitem__(self, name: str) -> Program:
        """The program called `name`; in "sequential" mode the last one is freed for it.

        Raises:
            ClosedError: after ``close()``.
            KeyError: if this pipeline has no such program.
        """
        self.require_open()
        is_sequential = self._memory == "sequential" and name in self._names
        if name not in self._opened and (is_sequential or name in self._optional):
            if self._memory == "sequential":
                self._close_all()  # frees the last program's weights before the next ones come
            self._opened[name] = self._open(name)
        return self._opened[name]

    @property
    def is_closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._is_closed

    @property
    def are_inherited(self) -> bool:
        """Whether this process was forked from the one that made them; nothing can be used."""
        return self._process != forks.number()

    def require_open(self) -> None:
        """Raise ``ClosedError`` after ``close()``, or in a forked child."""
        if self.are_inherited:
            raise ClosedError(inherited("This pipeline"))
        if self._is_closed:
            raise ClosedError(
                "This pipeline was closed, and its programs are gone. Open the bundle again with "
                "LDMTextToImagePipeline.from_pretrained()."
            )

    def clone(self) -> Programs:
        """Other handles for another thread."""
        self.require_open()
        if self._memory != "resident":
            return Programs(self._names, self._open, self._memory, self._optional)

        def clone_or_open(name: str) -> Program:
            return self[name].clone() if name in self._names else self._open(name)

        return Programs(self._names, clone_or_open, "resident", self._optional)

    def close(self) -> None:
        """Free all programs; a second call does nothing."""
        self._is_closed = True
        self._close_all()

    def _open_all(self) -> None:
        try:
            for name in self._names:
                self._opened[name] = self._open(name)
        except BaseException:
            self.close()
            raise

    def _close_all(self) -> None:
        while self._opened:
            _, program = self._opened.popitem()
            program.close()
