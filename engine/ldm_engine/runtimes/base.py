"""The runtime contract: how a library executes the programs of a bundle.

A runtime opens one program of a bundle. The loop writes into the program's named input arrays,
calls ``run()``, and reads its named output arrays. A runtime must not choose a precision of its
own, must not make NumPy arrays in ``run()`` (what its library does inside is its own affair), and
must not import its library before it opens a program.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import Bundle
from ..errors import ClosedError, LDMEngineError, RuntimeUnavailableError, ShapeError
from ..machine import forks
from ..machine.cpu import processor, supports_bf16
from ..machine.device import Device
from ..machine.gpu import find_gpu
from .by_shape import describe

Array = NDArray[Any]
AUTOENCODER_PROGRAMS = ("vae_decoder", "vae_encoder")
_NIGHTLY = (0, 0, 0)  # the version that nightly builds report


@dataclass(frozen=True)
class RuntimeOptions:
    """Where and how programs run."""

    device: str = "cpu"  #: or "gpu:N"
    precision: str = "fp32"
    threads: int = 1
    cache: bool = True  #: keep compiled models in the user's cache folder


def program_precision(program: str, precision: str) -> str:
    """What `program` runs in under a `precision`: "fp32", "fp16", "bf16" or "int8".

    The time encoder always runs in fp32: in bf16 its frequencies are off by whole units. Under
    fp16 so do the autoencoder's programs: those of this kind overflow in it. Under int8 the UNet
    alone is quantized, and all else runs in bf16 where the CPU has it.
    """
    if program == "time_encoder" or (program in AUTOENCODER_PROGRAMS and precision == "fp16"):
        return "fp32"
    if precision == "int8" and program != "unet":
        return "bf16" if supports_bf16() else "fp32"
    return precision


class Program(ABC):
    """One opened program. **The arrays in ``outputs`` are overwritten by the next ``run()``.**

    Call ``allocate`` first. A program is not thread-safe; give each thread a ``clone()``.
    ``close()``, or the end of a ``with`` block, frees what it holds.
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
        self._is_closed = False
        self._process = forks.guard(self)
        self.inputs = {}
        self.outputs = {}

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the arrays and all that the library made for them; a second call does nothing.

        What clones share, such as weights, is freed when the last of them is closed. In a process
        forked after the program was opened nothing can be freed.
        """
        self._is_closed = True
        if self._process != forks.number():
            return
        self.inputs, self.outputs, self._shapes = {}, {}, {}
        self._release()

    @abstractmethod
    def _release(self) -> None:
        """Drop every object of the library; also called when there are none any more."""

    def _require_open(self) -> None:
        if self._process != forks.number():
            raise ClosedError(inherited(f"The program {self.name}"))
        if self._is_closed:
            raise ClosedError(
                f"The program {self.name} was closed. Open the bundle again, and close it when "
                "nothing uses it any more."
            )

    def allocate(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make the arrays for these `shapes`, of every input and output by name.

        Does nothing when the shapes are those of the last call. Otherwise earlier arrays lose
        their connection to the program.

        Raises:
            ShapeError: if a name or a fixed dimension does not fit the program.
            ClosedError: after ``close()``, or in a forked child.
        """
        self._require_open()
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
        self._shapes = {}  # until all is bound
        arrays = {s.name: np.zeros(wanted[s.name], dtype=s.dtype) for s in self._specs}
        self.inputs = {n: a for n, a in arrays.items() if n not in self._output_names}
        self.outputs = {n: a for n, a in arrays.items() if n in self._output_names}
        self._bind()
        self._shapes = wanted

    @abstractmethod
    def _bind(self) -> None:
        """Connect ``inputs`` and ``outputs`` to the library, without copies where it can."""

    def run(self, unchanged: Collection[str] = ()) -> None:
        """Compute ``outputs`` from ``inputs``.

        Inputs named in `unchanged` were not written since the last ``run()`` with these arrays: on
        a device with memory of its own they are there already.

        Raises:
            ClosedError: after ``close()``, or in a forked child.
            LDMEngineError: if the library fails.
        """
        self._require_open()
        self._run(unchanged)

    @abstractmethod
    def _run(self, unchanged: Collection[str]) -> None:
        """What ``run()`` does, on a program that is open."""

    def _failure(self, library: str, reason: str) -> LDMEngineError:
        """What ``run()`` raises where `library` fails for that `reason`."""
        shapes = describe({n: a.shape for n, a in self.inputs.items()})
        return LDMEngineError(
            f"{library} could not run the program {self.name} on {shapes}: {reason} If these are "
            "large for this machine, choose a smaller height, width or batch; else check the "
            "bundle with `ldm-engine verify`."
        )

    def clone(self) -> Program:
        """Another handle for another thread; call it in one thread only.

        Weights are shared where the library can do that.

        Raises:
            ClosedError: after ``close()``, or in a forked child.
        """
        self._require_open()
        return self._clone()

    @abstractmethod
    def _clone(self) -> Program:
        """What ``clone()`` does, on a program that is open."""


def inherited(what: str) -> str:
    """Why a forked child cannot use `what`, and what to do."""
    return (
        f"{what} was opened before this process was forked, and the threads of its library do not "
        "exist here. Open the bundle in each process after the fork, or start processes with "
        'multiprocessing\'s "spawn".'
    )


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
    #: What it computes in, by the kind of device.
    precisions: ClassVar[Mapping[str, tuple[str, ...]]]
    gpu_distribution: ClassVar[str]  #: of `distributions`, the one that runs on GPUs
    gpu_oldest: ClassVar[str]  #: version of that one that will do
    gpu_install: ClassVar[str]  #: how to get that one, as a clause
    #: The name of the runtime that computes in fp32 from the same bundle; None: this one itself.
    fp32_runtime: ClassVar[str | None] = None

    def version(self, device: str = "cpu") -> str | None:
        """The version of the library installed for `device` without importing it, or None."""
        on_gpu = Device.parse(device).kind == "gpu"
        names = (self.gpu_distribution,) if on_gpu else self.distributions
        return next(filter(None, map(installed_version, names)), None)

    def format_of(self, program: str, precision: str) -> str:
        """The bundle format that `program` is opened in under a `precision`."""
        return self.format

    def computes_in(self, bundle: Bundle, program: str, precision: str) -> str:
        """What `program` of `bundle` runs in under a `precision`."""
        return program_precision(program, precision)

    def missing(self, precision: str, device: Device) -> list[str]:
        """What this machine lacks for that, and the remedy of each; nothing is imported."""
        if device.kind == "gpu":
            return self._missing_for_gpu(precision, device)
        if self.version() is None:
            return [f"it is not installed; install it with: {self.install}"]
        if precision == "bf16" and not supports_bf16():
            fault = "this CPU has no" if processor() else "this system reports no CPU with"
            return [f"{fault} bf16 instructions (avx512_bf16 or amx_bf16); use fp32"]
        return []

    def _missing_for_gpu(self, precision: str, device: Device) -> list[str]:
        lacks = []
        try:
            gpu = find_gpu(device.index)
        except RuntimeUnavailableError as error:
            lacks.append(str(error))
        else:
            if precision == "bf16" and not gpu.supports_bf16:
                lacks.append(f"the {gpu.name} has no bf16; use fp16 or fp32")
        version = installed_version(self.gpu_distribution)
        if version is None:
            other = self.version()
            instead = "" if other is None else f" (the installed one, {other}, is for CPUs)"
            lacks.append(f"{self.gpu_distribution} is not installed{instead}; {self.gpu_install}")
        elif _NIGHTLY < _numbers(version) < _numbers(self.gpu_oldest):
            lacks.append(
                f"{self.gpu_distribution} {version} is installed, and {self.gpu_oldest} or later "
                f"is needed; {self.gpu_install}"
            )
        return lacks

    def rounds_alike(self, device: str) -> bool:
        """Whether an image has the same last bit in batches of two rows or more, as was measured.

        On GPUs nothing was.
        """
        return Device.parse(device).kind == "cpu"

    def mismatch(self, bundle: Bundle, precision: str, device: Device) -> str | None:
        """Why this bundle's programs cannot run in that, and what to do, or None."""
        return None

    def offers(self, bundle: Bundle, kind: str) -> tuple[str, ...]:
        """The precisions in which it runs this bundle on that `kind` of device."""
        return self.precisions[kind]

    def format_facts(self, bundle: Bundle) -> dict[str, str]:
        """What ``ldm-engine info`` shows of this bundle's programs for it, by title."""
        return {}

    def covers(self, bundle: Bundle, program: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether `program` can be run on inputs of these `shapes`."""
        return True

    def stored_weights(self, bundle: Bundle, program: str, precision: str) -> str:
        """How the weights were stored that `program` computes with: "fp32", "fp16" or "int8"."""
        return bundle.programs[program].formats[self.format_of(program, precision)].weights

    @abstractmethod
    def open(self, bundle: Bundle, program: str, options: RuntimeOptions) -> Program:
        """Load one program with its weights."""


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def weight_bytes(bundle: Bundle, runtime: Runtime, program: str, precision: str) -> int:
    """About what one copy of a program's weights takes in memory."""
    format_name = runtime.format_of(program, precision)
    stored = sum(p.stat().st_size for p in bundle.program_files(program, format_name))
    becomes_fp32 = bundle.programs[program].formats[format_name].weights == "fp16" and (
        runtime.computes_in(bundle, program, precision) == "fp32"
    )
    return 2 * stored if becomes_fp32 else stored
