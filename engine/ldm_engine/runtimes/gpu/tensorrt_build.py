"""What a bundle's TensorRT programs were built for: read, compared with a machine, built again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...bundle.bundle import MANIFEST, Bundle
from ...bundle.contract import OPTIONAL_PROGRAMS, TABLE, shapes
from ...bundle.formats import INT8_FORMAT
from ...bundle.model import ModelInfo
from ...errors import BundleError, RuntimeUnavailableError

FORMAT = "tensorrt"
#: What TensorRT programs are built in.
BUILT_PRECISIONS = ("fp16", "fp32")

#: The smallest, best and largest of a tensor's shape.
Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
_ENDS = ("min", "opt", "max")  # of a range, as the export's options call them
_TIMESTEPS = (1, 50, 1000)
_SINGLES = (1, 1, 2)  # texts and pictures are one at a time in use, two where they are checked


@dataclass(frozen=True)
class TensorRTBuild:
    """What the bundle's TensorRT programs were built for, and where: they run there alone."""

    precision: str  #: "fp16" or "fp32"
    gpu: str  #: its name
    tensorrt: str  #: version
    cuda: str  #: version
    batch: tuple[int, int, int]  #: fewest, usual and most images at once
    size: tuple[int, int, int]  #: least, usual and largest height and width, in pixels

    @classmethod
    def parse(cls, facts: Mapping[str, Any]) -> TensorRTBuild:
        """What ``facts()`` gave.

        Raises:
            KeyError, TypeError, ValueError: if it is something else.
        """
        texts = {name: facts[name] for name in ("precision", "gpu", "tensorrt", "cuda")}
        for name, value in texts.items():
            if not isinstance(value, str):
                raise TypeError(f"`{name}` is {value!r}, not text")
        if texts["precision"] not in BUILT_PRECISIONS:
            raise ValueError(f"they cannot be in {texts['precision']!r}")
        return cls(**texts, batch=_range("batch", facts), size=_range("size", facts))

    def facts(self) -> dict[str, Any]:
        """The format's section of the manifest."""
        return {**asdict(self), "batch": [*self.batch], "size": [*self.size]}

    def __str__(self) -> str:
        batch, size = self.batch, self.size
        return (
            f"{self.precision} for {self.gpu}, TensorRT {self.tensorrt}, CUDA {self.cuda}; "
            f"{batch[0]} to {batch[2]} images at once, best {batch[1]}; "
            f"{size[0]} to {size[2]} pixels, best {size[1]}"
        )


def read_build(bundle: Bundle) -> TensorRTBuild:
    """How the bundle's TensorRT programs were built.

    Raises:
        RuntimeUnavailableError: if it has none.
        BundleError: if its manifest does not say how.
    """
    if FORMAT not in bundle.formats:
        raise RuntimeUnavailableError(
            f"{bundle.path} has no TensorRT programs. Export again with --formats "
            f"{','.join([*bundle.formats, FORMAT])}."
        )
    try:
        _check_programs(bundle)
        return TensorRTBuild.parse(bundle.format_facts[FORMAT])
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise BundleError(
            f"{bundle.path / MANIFEST} does not say how the TensorRT programs were built: "
            f"{reason}. Copy the bundle again, or export it again."
        ) from error


def _range(name: str, facts: Mapping[str, Any]) -> tuple[int, int, int]:
    values = facts[name]
    are_numbers = isinstance(values, (list, tuple)) and all(type(v) is int for v in values)
    if not are_numbers or len(values) != 3 or not 0 < values[0] <= values[1] <= values[2]:
        raise ValueError(f"`{name}` is {values!r}, no range of three whole numbers")
    least, best, most = values
    return least, best, most


def _check_programs(bundle: Bundle) -> None:
    """Raise ``ValueError`` unless they can have been built from the bundle's other programs."""
    if "paddle" not in bundle.formats:  # made from these, which also do what they cannot
        raise ValueError("there are TensorRT programs without Paddle's")
    for name, program in bundle.programs.items():
        if FORMAT not in program.formats:  # an optional one, as `bundle.formats` shows
            continue
        weights = program.formats[FORMAT].weights
        if weights not in BUILT_PRECISIONS:
            raise ValueError(f"the program {name} cannot be in {weights!r}")


def shape_ranges(program: str, model: ModelInfo, build: TensorRTBuild) -> dict[str, Range]:
    """The shapes of the inputs of `program` that a `build` is for, by name."""
    contract = TABLE[program]
    least, best, most = build.batch
    cells = [size // model.scale_factor for size in build.size]
    free = {
        "N": _SINGLES,
        "S": _TIMESTEPS,
        "B": build.batch if contract.runs_once_per == "step" else _SINGLES,
        "rows": (least, 2 * best, 2 * most),  # guidance doubles them
        "h": cells,
        "w": cells,
    }
    first, second, third = (
        shapes(program, model, **{name: sizes[end] for name, sizes in free.items()})
        for end in range(len(_ENDS))
    )
    return {t.name: (first[t.name], second[t.name], third[t.name]) for t in contract.inputs}


def rebuild_command(bundle: Bundle, build: TensorRTBuild) -> str:
    """The command that makes the bundle again on this machine as it was made."""
    formats = [f for f in bundle.formats if f != FORMAT]
    unet = bundle.programs["unet"].formats
    folder = shlex.quote(str(bundle.path))
    options = [
        f"--formats {','.join([*formats, FORMAT])}",
        f"--precision {build.precision}",
        *(f"--{end}-batch {n}" for end, n in zip(_ENDS, build.batch, strict=True)),
        *(f"--{end}-size {n}" for end, n in zip(_ENDS, build.size, strict=True)),
        *(["--weights fp16"] if unet["paddle"].weights == "fp16" else []),
        *(["--int8"] if INT8_FORMAT in unet else []),
        *(TABLE[name].left_out_by for name in OPTIONAL_PROGRAMS if name not in bundle.programs),
    ]
    return f"ldm-engine export CHECKPOINT {folder} --force {' '.join(options)}"


def difference(build: TensorRTBuild, here: Mapping[str, str], command: str) -> str | None:
    """How this machine differs from the one of a `build`, with the `command` to repeat it, or None.

    `here` are the facts of this machine: "gpu", "tensorrt" and "cuda".
    """
    names = {"gpu": "GPU", "tensorrt": "TensorRT", "cuda": "CUDA"}
    others = [
        f"{name} {getattr(build, fact)}, and here is {here[fact]}"
        for fact, name in names.items()
        if getattr(build, fact) != here[fact]
    ]
    if not others:
        return None
    return (
        f"its TensorRT programs were built with another {'; '.join(others)}. They run on what they "
        f"were built with alone; build them again on this machine with: {command}"
    )
