"""The runtime contract: what the loop asks of a library that executes programs.

A runtime opens one program of a bundle. The loop writes into the program's named input arrays,
calls ``run()``, and reads its named output arrays. A runtime must not choose a precision of its
own, must not make NumPy arrays in ``run()`` (what its library does inside is its own affair), and
must not import its library before it is asked to open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..cpu import supports_bf16
from ..errors import ShapeError

Array = NDArray[Any]


@dataclass(frozen=True)
class RuntimeOptions:
    """Where and how programs run."""

    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 1
    cache: bool = True  #: keep compiled models in the user's cache folder


def program_precision(program: str, precision: str) -> str:
    """What `program` runs in where `precision` was asked for: "fp32", "bf16" or "int8".

    The time encoder always runs in fp32: in bf16 its frequencies are off by whole units. In int8
    only the UNet does, and all else runs in bf16 where the CPU has it.
    """
    if program == "time_encoder":
        return "fp32"
    if precision == "int8" and program != "unet":
        return "bf16" if supports_bf16() else "fp32"
    return precision


class Program(ABC):
    """One opened program. **The arrays in ``outputs`` are overwritten by the next ``run()``.**

    Call ``allocate`` first. A program is not thread-safe; give each thread a ``clone()``.
    """

    inputs: dict[str, Array]
    outputs: dict[str, Array]

    def __init__(self, name: str, bundle: Bundle) -> None:
        info = bundle.programs[name]
        self.name = name
        self._bundle = bundle
        self._specs = info.inputs + info.outputs
        self._output_names = {t.name for t in info.outputs}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.inputs = {}
        self.outputs = {}

    def allocate(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make the arrays for these `shapes`, of every input and output by name.

        Does nothing when the shapes are those of the last call. Otherwise earlier arrays lose
        their connection to the program.

        Raises:
            ShapeError: if a name or a fixed dimension does not fit the program.
        """
        wanted = {name: tuple(shape) for name, shape in shapes.items()}
        if wanted == self._shapes:
            return
        for spec in self._specs:
            given = wanted.get(spec.name)
            if given is None or not _fits(given, spec.shape):
                raise ShapeError(
                    f"`{spec.name}` of program {self.name} has shape {given}; "
                    f"{spec.shape} is accepted, -1 meaning any size."
                )
        self._shapes = {}  # until all is bound again
        arrays = {s.name: np.zeros(wanted[s.name], dtype=s.dtype) for s in self._specs}
        self.inputs = {n: a for n, a in arrays.items() if n not in self._output_names}
        self.outputs = {n: a for n, a in arrays.items() if n in self._output_names}
        self._bind()
        self._shapes = wanted

    @abstractmethod
    def _bind(self) -> None:
        """Connect ``inputs`` and ``outputs`` to the library, without copies where it can."""

    @abstractmethod
    def run(self) -> None:
        """Compute ``outputs`` from ``inputs``."""

    @abstractmethod
    def clone(self) -> Program:
        """Another handle over the same weights, for another thread; call it in one thread only."""


def _fits(given: tuple[int, ...], accepted: tuple[int, ...]) -> bool:
    return len(given) == len(accepted) and all(
        g >= 1 and a in (-1, g) for g, a in zip(given, accepted, strict=True)
    )


class Runtime(ABC):
    """A way to execute programs."""

    name: ClassVar[str]
    format: ClassVar[str]  #: the bundle format it reads
    distributions: ClassVar[tuple[str, ...]]  #: names it is installed under
    install: ClassVar[str]  #: the command that installs it
    devices: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]]
    #: An image has the same last bit in batches of two rows or more, as far as was measured.
    rounds_alike: ClassVar[bool] = True

    def version(self) -> str | None:
        """The installed library's version without importing it, or None."""
        for distribution in self.distributions:
            try:
                return metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
        return None

    def format_of(self, program: str, precision: str) -> str:
        """The bundle format that `program` is opened in when `precision` is asked for."""
        return self.format

    @abstractmethod
    def open(self, bundle: Bundle, program: str, options: RuntimeOptions) -> Program:
        """Load one program with its weights."""


def weight_bytes(bundle: Bundle, runtime: Runtime, program: str, precision: str) -> int:
    """About what one copy of a program's weights takes in memory."""
    format_name = runtime.format_of(program, precision)
    stored = sum(p.stat().st_size for p in bundle.program_files(program, format_name))
    widened = bundle.programs[program].formats[format_name].weights == "fp16" and (
        program_precision(program, precision) == "fp32"
    )
    return 2 * stored if widened else stored
