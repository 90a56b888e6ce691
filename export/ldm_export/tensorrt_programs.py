"""Adding TensorRT programs to a bundle in the making: the options, and the conversion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from ldm_engine.bundle.bundle import Bundle, FormatInfo, ProgramInfo
from ldm_engine.bundle.model import MAX_SIZE, ModelInfo
from ldm_engine.checks.cases import END_TO_END_PROMPTS
from ldm_engine.errors import ArgumentTypeError, InvalidArgumentError, RuntimeUnavailableError
from ldm_engine.machine.device import Device
from ldm_engine.runtimes.base import program_precision
from ldm_engine.runtimes.choice import RUNTIMES
from ldm_engine.runtimes.gpu.tensorrt import facts_here
from ldm_engine.runtimes.gpu.tensorrt_build import (
    BUILT_PRECISIONS,
    FORMAT,
    TensorRTBuild,
    shape_ranges,
)

from .formats.tensorrt import run_in_process, write_tensorrt
from .formats.tensorrt_conversion import Request
from .progress import Progress

#: The GPU that Paddle converts on, always its first; CUDA_VISIBLE_DEVICES chooses it.
DEVICE = Device("gpu", 0)
_CHECKED_BATCH = len(END_TO_END_PROMPTS)
MAX_BATCH = 1024


@dataclass(frozen=True)
class BuildOptions:
    """The precision and the shapes to build engines for; None: the default."""

    precision: str | None = None  #: fp16
    min_batch: int | None = None  #: 1
    opt_batch: int | None = None  #: 1, or `min_batch` if that is more
    max_batch: int | None = None  #: 4, or `opt_batch` if that is more
    min_size: int | None = None  #: the model's own, in pixels
    opt_size: int | None = None  #: the model's own, or `min_size` if that is more
    max_size: int | None = None  #: twice the model's own, or `opt_size` if that is more

    @property
    def is_empty(self) -> bool:
        """Whether no option was given."""
        return self == BuildOptions()

    @property
    def chosen_precision(self) -> str:
        """The precision that they compute in."""
        return BUILT_PRECISIONS[0] if self.precision is None else self.precision

    def batch(self) -> tuple[int, int, int]:
        """Fewest, usual and most images at once."""
        return _range(self.min_batch, self.opt_batch, self.max_batch, defaults=(1, 1, 4))

    def size(self, model: ModelInfo) -> tuple[int, int, int]:
        """Least, usual and largest height and width in pixels.

        Raises:
            InvalidArgumentError: if the model cannot make them, or its own size is not among them.
        """
        own, multiple = model.default_size, model.pixel_multiple
        size = _range(self.min_size, self.opt_size, self.max_size, defaults=(own, own, 2 * own))
        if any(side % multiple for side in size) or not size[0] <= own <= size[2]:
            raise InvalidArgumentError(
                f"--min-size, --opt-size and --max-size are {_listing(size)}; multiples of "
                f"{multiple} pixels are accepted, with {own} among them, which the check renders."
            )
        return size


def _range(
    least: int | None, best: int | None, most: int | None, defaults: tuple[int, int, int]
) -> tuple[int, int, int]:
    if least is None:
        least = min(n for n in (defaults[0], best, most) if n is not None)
    if best is None:
        best = max(least, defaults[1] if most is None else min(defaults[1], most))
    return least, best, max(best, defaults[2]) if most is None else most


def _listing(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def check_tensorrt(formats: Sequence[str], options: BuildOptions) -> None:
    """Refuse TensorRT programs that could not be built or checked here, before any work.

    Raises:
        ArgumentTypeError: if an option is not text, or not a whole number.
        InvalidArgumentError: if options are given without the format tensorrt, the format without
            paddle, or values that make no range.
        RuntimeUnavailableError: if this machine lacks the GPU or a library.
    """
    _check_types(options)
    if "tensorrt" not in formats:
        if not options.is_empty:
            raise InvalidArgumentError(
                "A precision, batches or sizes were given without the format tensorrt, which alone "
                "is built for them. Add tensorrt to --formats, or leave them out."
            )
        return
    if "paddle" not in formats:
        raise InvalidArgumentError(
            f"The format tensorrt was given with the formats {', '.join(formats)}; it is made "
            "from paddle, which is also its fallback. Add paddle to --formats."
        )
    precision = options.chosen_precision
    if precision not in BUILT_PRECISIONS:
        raise InvalidArgumentError(
            f"--precision is {precision!r}; {' or '.join(BUILT_PRECISIONS)} is accepted for "
            "TensorRT programs (Paddle's conversion uses fp32 for bf16)."
        )
    _check_ranges(options)
    runtime = RUNTIMES["tensorrt"]
    missing = runtime.missing(precision, DEVICE)
    if missing:
        raise RuntimeUnavailableError(
            f"The format tensorrt cannot be built here: {'; '.join(missing)}."
        )
    facts_here(DEVICE.index)


def _check_types(options: BuildOptions) -> None:
    for field in fields(options):
        value, option = getattr(options, field.name), f"--{field.name.replace('_', '-')}"
        if value is None:
            continue
        if field.name == "precision" and not isinstance(value, str):
            raise ArgumentTypeError(f"{option} is {value!r}; the name of a precision is accepted.")
        if field.name != "precision" and type(value) is not int:
            raise ArgumentTypeError(f"{option} is {value!r}; a whole number (int) is accepted.")


def _check_ranges(options: BuildOptions) -> None:
    batch = options.batch()
    if not 0 < batch[0] <= batch[1] <= batch[2] <= MAX_BATCH or not (
        batch[0] <= _CHECKED_BATCH <= batch[2]
    ):
        raise InvalidArgumentError(
            f"--min-batch, --opt-batch and --max-batch are {_listing(batch)}; whole numbers from 1 "
            f"to {MAX_BATCH} are accepted, each at least the one before, with {_CHECKED_BATCH} "
            "among them, which the check renders at once."
        )
    sizes = {"min": options.min_size, "opt": options.opt_size, "max": options.max_size}
    given = {f"--{end}-size": n for end, n in sizes.items() if n is not None}
    size = list(given.values())
    if size != sorted(size) or any(not 0 < n <= MAX_SIZE for n in size):
        listing = ", ".join(f"{option} is {n}" for option, n in given.items())
        raise InvalidArgumentError(
            f"{listing}; whole numbers of pixels up to {MAX_SIZE} are accepted, each at least the "
            "one before."
        )


def plan_build(options: BuildOptions, model: ModelInfo) -> TensorRTBuild:
    """The build that these options lead to on this machine.

    Raises:
        InvalidArgumentError: if the model cannot make images of these sizes.
        RuntimeUnavailableError: if this machine lacks the GPU or a library.
    """
    size = options.size(model)
    facts = facts_here(DEVICE.index)
    return TensorRTBuild(options.chosen_precision, batch=options.batch(), size=size, **facts)


def add_tensorrt(
    draft: Bundle,
    build: TensorRTBuild,
    progress: Progress,
    run: Callable[[Request], None] = run_in_process,
) -> Bundle:
    """Convert every program of `draft`, and return the bundle with them; `run` does one.

    Raises:
        LDMEngineError: if a program cannot be converted.
    """
    programs: dict[str, ProgramInfo] = {}
    for name, info in draft.programs.items():
        progress(f"building TensorRT engines of {name}")
        precision = program_precision(name, build.precision)
        files = write_tensorrt(
            name,
            draft.path / name,
            info,
            shape_ranges(name, draft.model, build),
            precision,
            draft.model.vocab_size,
            run,
        )
        formats = {**info.formats, FORMAT: FormatInfo(files, precision)}
        programs[name] = replace(info, formats=formats)
    return replace(draft, programs=programs, format_facts={FORMAT: build.facts()})
