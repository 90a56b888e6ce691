"""``bundle.json``: written last and sealed with its own hash, read with distrust.

The format is documented in ``docs/bundle-format.md``. The twin in C++ is ``cpp/src/manifest.cpp``;
``tests/data/manifests.json`` holds what both accept and refuse.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ArgumentTypeError, BundleError, BundleNotFoundError
from ..machine.files import write_atomically
from .bundle import (
    BUILT_PRECISIONS,
    FORMAT_FILES,
    MANIFEST,
    MAX_SIZE,
    PROGRAMS,
    REFERENCE,
    SCHEDULER_CONFIG,
    VOCABULARY,
    Bundle,
    Contract,
    FileInfo,
    FormatInfo,
    ModelInfo,
    Parity,
    ProgramInfo,
    TensorRTBuild,
    TensorSpec,
    are_program_files,
    manifest_stamp,
    program_tensors,
    read_json_object,
)

FORMAT_VERSION = 1
_SEAL = "manifest_sha256"
_MAX_NAME_BYTES = 255  # more, file systems do not take
_UNSEALED = f'"{_SEAL}": "{"0" * 64}"'


def save_manifest(bundle: Bundle) -> None:
    """Write ``bundle.json``, whole or not at all; do this after every other file."""
    content = {
        "format_version": FORMAT_VERSION,
        _SEAL: "0" * 64,
        "model": asdict(bundle.model),
        "programs": {name: asdict(info) for name, info in bundle.programs.items()},
        "files": {name: asdict(info) for name, info in sorted(bundle.files.items())},
        "parity": {
            runtime: {
                precision: {name: asdict(parity) for name, parity in programs.items()}
                for precision, programs in precisions.items()
            }
            for runtime, precisions in bundle.parity.items()
        },
        "versions": bundle.versions,
    }
    if bundle.tensorrt is not None:
        content["tensorrt"] = asdict(bundle.tensorrt)
    write_atomically(bundle.path / MANIFEST, seal(content))


def seal(content: Mapping[str, Any]) -> bytes:
    """The text of a manifest with its own hash in it.

    That is the sha256 of the whole text with zeros for the hash's 64 digits.
    """
    content = {**content, _SEAL: "0" * 64}
    text = json.dumps(content, indent=2) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text.replace(_UNSEALED, f'"{_SEAL}": "{digest}"', 1).encode()


def _check_seal(path: Path, raw: Mapping[str, Any]) -> None:
    told = raw.get(_SEAL)
    sealed = f'"{_SEAL}": "{told}"'.encode()
    content = path.read_bytes().replace(sealed, _UNSEALED.encode(), 1)
    if hashlib.sha256(content).hexdigest() != told:
        raise BundleError(
            f"{path} was altered after it was written: it does not have the sha256 that it tells. "
            "Copy the bundle again from its source, or export it again."
        )


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and validate ``bundle.json``; the files it lists are not opened yet.

    Raises:
        BundleNotFoundError: if there is no such folder.
        BundleError: if the manifest is missing, broken, or of another format version.
    """
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise ArgumentTypeError(f"The bundle's path is {path!r}; text or a Path is accepted.")
    folder = Path(path)
    if not _is_folder(folder):
        raise BundleNotFoundError(
            f"There is no bundle folder {str(folder)!r}. "
            "Make one with: ldm-engine export CHECKPOINT BUNDLE"
        )
    if not (folder / MANIFEST).is_file():
        raise BundleError(
            f"{folder} is not a finished bundle: it has no {MANIFEST}, which an export writes "
            "last. Make one with: ldm-engine export CHECKPOINT BUNDLE"
        )
    stamp = manifest_stamp(folder)
    raw = read_json_object(folder / MANIFEST)
    version = raw.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(
            f"{folder / MANIFEST} has format version {version!r}; this version of ldm-engine "
            f"reads {FORMAT_VERSION}. Upgrade ldm-engine if the bundle is newer, "
            "else export it again."
        )
    _check_seal(folder / MANIFEST, raw)
    return replace(_parse(folder, raw), manifest_stamp=stamp)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _parse(folder: Path, raw: dict[str, Any]) -> Bundle:
    try:
        model = _parse_model(raw["model"])
        tensors = program_tensors(model)
        bundle = Bundle(
            path=folder,
            model=model,
            programs={
                name: _parse_program(name, raw["programs"][name], tensors[name])
                for name in PROGRAMS
            },
            files={_safe(n): _parse_file(f) for n, f in raw["files"].items()},
            parity={
                _typed(runtime, str): {
                    _typed(precision, str): {n: _parse_parity(p) for n, p in programs.items()}
                    for precision, programs in precisions.items()
                }
                for runtime, precisions in raw["parity"].items()
            },
            versions={_typed(n, str): _typed(v, str) for n, v in raw["versions"].items()},
            tensorrt=_parse_tensorrt(raw["tensorrt"]) if "tensorrt" in raw else None,
        )
        _check_tensorrt(bundle)
        for name in (SCHEDULER_CONFIG, VOCABULARY, REFERENCE, *bundle.program_files_listed):
            bundle.files[name]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise BundleError(
            f"{folder / MANIFEST} is not a valid manifest: {reason}. "
            "Copy the bundle again, or export it again."
        ) from error
    return bundle


def _parse_model(raw: dict[str, Any]) -> ModelInfo:
    values = {}
    for name, kind in ModelInfo.__annotations__.items():
        value = _typed(raw[name], {"str": str, "int": int, "bool": bool}[kind])
        if kind == "int" and not 0 < value < 2**31:
            raise ValueError(f"`{name}` is {value}, not a positive number")
        values[name] = value
    model = ModelInfo(**values)
    check_sizes(model)
    return model


def check_sizes(model: ModelInfo) -> None:
    """Raise ``ValueError`` if the model's own default image is not one that it can make."""
    if model.default_size > MAX_SIZE:
        raise ValueError(f"images of {model.default_size} pixels are larger than {MAX_SIZE}")
    if model.sample_size % model.size_multiple:
        raise ValueError(
            f"latents of {model.sample_size} (`sample_size`) do not divide by "
            f"{model.size_multiple}, as the UNet's levels need"
        )


def _parse_program(name: str, raw: dict[str, Any], expected: Contract) -> ProgramInfo:
    inputs, outputs = (tuple(_parse_tensor(t) for t in raw[k]) for k in ("inputs", "outputs"))
    if (inputs, outputs) != expected:
        raise ValueError(f"the tensors of {name} are not those that the model's facts lead to")
    formats = {}
    for format_name, entry in raw["formats"].items():
        files = tuple(_safe(n) for n in entry["files"])
        if format_name in FORMAT_FILES and not are_program_files(name, format_name, files):
            raise ValueError(f"the {format_name} files of {name} are {files}")
        formats[_typed(format_name, str)] = FormatInfo(files, _typed(entry["weights"], str))
    return ProgramInfo(inputs, outputs, formats)


def _parse_tensor(raw: dict[str, Any]) -> TensorSpec:
    shape = tuple(_typed(s, int) for s in raw["shape"])
    return TensorSpec(_typed(raw["name"], str), _typed(raw["dtype"], str), shape)


def _parse_parity(raw: dict[str, Any]) -> Parity:
    return Parity(float(raw["relative_l2_error"]), float(raw["tolerance"]))


def _parse_tensorrt(raw: dict[str, Any]) -> TensorRTBuild:
    values: dict[str, Any] = {
        name: _typed(raw[name], str) for name in ("precision", "gpu", "tensorrt", "cuda")
    }
    if values["precision"] not in BUILT_PRECISIONS:
        raise ValueError(f"TensorRT programs cannot be in {values['precision']!r}")
    for name in ("batch", "size"):
        least, best, most = (_typed(value, int) for value in raw[name])
        if not 0 < least <= best <= most:
            raise ValueError(f"`{name}` of the TensorRT programs is {raw[name]}, no range")
        values[name] = (least, best, most)
    return TensorRTBuild(**values)


def _check_tensorrt(bundle: Bundle) -> None:
    """Raise ``ValueError`` unless there are TensorRT programs and how they were built, or neither.

    With them Paddle's are there too, which they were made from and which do what they cannot.
    """
    has_programs = "tensorrt" in bundle.formats
    if has_programs != (bundle.tensorrt is not None):
        raise ValueError("there are TensorRT programs without how they were built, or it alone")
    if not has_programs:
        return
    if "paddle" not in bundle.formats:
        raise ValueError("there are TensorRT programs without Paddle's")
    for name, program in bundle.programs.items():
        weights = program.formats["tensorrt"].weights
        if weights not in BUILT_PRECISIONS:
            raise ValueError(f"the TensorRT program {name} cannot be in {weights!r}")


def _parse_file(raw: dict[str, Any]) -> FileInfo:
    return FileInfo(_typed(raw["sha256"], str), _typed(raw["bytes"], int))


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{value!r} is a {type(value).__name__}, not a {kind.__name__}")
    return value


def _safe(name: Any) -> str:
    """A file name that stays inside the bundle."""
    path = PurePosixPath(_typed(name, str))
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"file name {name!r} leads outside the bundle")
    if len(str(path).encode()) > _MAX_NAME_BYTES:
        raise ValueError(f"file name {name[:100]!r}… is longer than {_MAX_NAME_BYTES} bytes")
    return str(path)
