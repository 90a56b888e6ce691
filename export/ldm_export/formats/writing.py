"""Formats: which there are, what each needs installed, and how one program is written in them."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from ldm_engine.bundle.formats import FORMAT_FILES
from ldm_engine.errors import InvalidArgumentError, RuntimeUnavailableError
from ldm_engine.runtimes.choice import RUNTIMES

from ..programs import ProgramSpec

#: Format to the modules that writing it needs, in the order in which they are written.
NEEDS = {
    "onnx": ("onnx", "paddle2onnx"),
    "openvino": ("onnx", "paddle2onnx", "openvino"),
    "paddle": ("paddle",),
    "tensorrt": ("paddle",),  # and a GPU: see tensorrt_programs.py
}
WEIGHTS = ("fp32", "fp16")  #: how weights can be stored
_SCRATCH = "onnx-scratch"


def default_formats() -> tuple[str, ...]:
    """Paddle, and OpenVINO where all that it needs is installed."""
    return ("paddle",) if _missing("openvino") else ("paddle", "openvino")


def check_formats(formats: Sequence[str], weights: str) -> None:
    """Refuse what cannot be written here, before any work.

    Raises:
        InvalidArgumentError: if there is no format or no way to store weights of that name.
        RuntimeUnavailableError: if what a format needs is not installed.
    """
    for name in formats:
        if name not in NEEDS:
            raise InvalidArgumentError(
                f"`formats` names {name!r}; any of {', '.join(sorted(NEEDS))} is accepted, "
                "separated by commas."
            )
        missing = _missing(name)
        if missing:
            raise RuntimeUnavailableError(
                f"The format {name} needs {' and '.join(missing)}, which is not installed. "
                "Install it with: pip install 'ldm-engine[export]' (Python 3.10 to 3.12; "
                "paddle2onnx has no package for 3.13 yet)."
            )
        for runtime in (r for r in RUNTIMES.values() if r.format == name and r.version() is None):
            raise RuntimeUnavailableError(
                f"The format {name} cannot be checked without {runtime.name}, which is not "
                f"installed. Install it with: {runtime.install}"
            )
    if not formats:
        raise InvalidArgumentError(f"`formats` is empty; any of {', '.join(NEEDS)} is accepted.")
    if weights not in WEIGHTS:
        raise InvalidArgumentError(f"`weights` is {weights!r}; {' or '.join(WEIGHTS)} is accepted.")


def write_program(spec: ProgramSpec, folder: Path, formats: Sequence[str], weights: str) -> None:
    """Write one program into `folder`, which exists, in all `formats` but OpenVINO's.

    For that, ``convert_program`` finds what it needs.
    """
    if "onnx" in formats or "openvino" in formats:
        from .onnx import write_onnx

        onnx_folder = _onnx_folder(folder, formats)
        onnx_folder.mkdir(exist_ok=True)
        write_onnx(spec, onnx_folder, weights)
    if "paddle" in formats:  # last: the layer does not run as dygraph after it
        from .paddle import write_paddle

        write_paddle(spec, folder, weights)


def convert_program(folder: Path, formats: Sequence[str], weights: str) -> None:
    """Write one program as OpenVINO's, which is among `formats`, from its ONNX files."""
    from .openvino import write_openvino

    onnx_folder = _onnx_folder(folder, formats)
    write_openvino(onnx_folder / FORMAT_FILES["onnx"][0], folder, weights)
    if onnx_folder != folder:
        shutil.rmtree(onnx_folder)


def _onnx_folder(folder: Path, formats: Sequence[str]) -> Path:
    """Where ONNX files go: `folder`, or for a time one in it if they are only to be converted."""
    return folder if "onnx" in formats else folder / _SCRATCH


def _missing(format_name: str) -> list[str]:
    return [n for n in NEEDS[format_name] if importlib.util.find_spec(n) is None]
