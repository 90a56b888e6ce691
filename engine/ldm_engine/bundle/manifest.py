"""``bundle.json``: written last and sealed with its own hash, read with distrust.

The format is documented in ``docs/bundle-format.md``. Its twins are
``cpp/src/bundle/manifest.cpp`` and ``examples/browser/bundle.mjs``; ``tests/data/manifests.json``
holds what they accept and refuse.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ArgumentTypeError, BundleError, BundleNotFoundError
from ..machine.files import write_atomically
from .bundle import (
    MANIFEST,
    REFERENCE,
    SCHEDULER_CONFIG,
    VOCABULARY,
    Bundle,
    FileInfo,
    FormatInfo,
    Parity,
    ProgramInfo,
    manifest_stamp,
    parse_json_object,
    read_bytes,
)
from .contract import TABLE, TensorSpec, tensor_specs
from .formats import FORMAT_FILES, are_program_files
from .model import AddedToken, ModelInfo, TokenizerInfo, check_sizes
from .seals import is_sealed, sealed

FORMAT_VERSION = 2  #: what is written; this one and all before it are read
TOKENIZER_KINDS = ("wordpiece",)
_SEAL = "manifest_sha256"
_MAX_NAME_BYTES = 255  # more, file systems do not take


class _NewerThanThisError(Exception):
    """The manifest has what would change pictures and this version cannot read."""


def save_manifest(bundle: Bundle) -> None:
    """Write ``bundle.json``, whole or not at all; do this after every other file."""
    content = {
        "format_version": FORMAT_VERSION,
        _SEAL: "0" * 64,
        "model": asdict(bundle.model),
        "tokenizer": bundle.tokenizer.section(),
        "programs": {name: asdict(info) for name, info in bundle.programs.items()},
        "files": {name: asdict(info) for name, info in sorted(bundle.files.items())},
        "parity": {
            runtime: {
                precision: {name: _said(parity) for name, parity in programs.items()}
                for precision, programs in precisions.items()
            }
            for runtime, precisions in bundle.parity.items()
        },
        "versions": bundle.versions,
        "formats": bundle.format_facts,
    }
    write_atomically(bundle.path / MANIFEST, seal(content))


def _said(parity: Parity) -> dict[str, Any]:
    """What there is to say of one program; that is less than all for those within tolerance."""
    return {name: value for name, value in asdict(parity).items() if value != ""}


def seal(content: Mapping[str, Any]) -> bytes:
    """The text of a manifest with its own hash in it."""
    return sealed(content, _SEAL)


def _check_seal(path: Path, content: bytes, recorded: object) -> None:
    if not is_sealed(content, _SEAL, recorded):
        raise BundleError(
            f"{path} was altered after it was written: it does not match its recorded sha256. "
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
    content = read_bytes(folder / MANIFEST)
    raw = parse_json_object(folder / MANIFEST, content)
    version = raw.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise BundleError(
            f"{folder / MANIFEST} has format version {version!r}; this version of ldm-engine "
            f"reads 1 to {FORMAT_VERSION}. Upgrade ldm-engine if the bundle is newer, "
            "else export it again."
        )
    _check_seal(folder / MANIFEST, content, raw.get(_SEAL))
    # Files are opened later, by then perhaps from another working folder.
    return replace(_parse(folder, raw, version), path=folder.absolute(), manifest_stamp=stamp)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _parse(folder: Path, raw: dict[str, Any], version: int) -> Bundle:
    try:
        for older in range(version, FORMAT_VERSION):
            raw = _UPGRADES[older](raw)
        model = _parse_model(raw["model"])
        bundle = Bundle(
            path=folder,
            model=model,
            tokenizer=_parse_tokenizer(raw["tokenizer"]),
            programs={
                name: _parse_program(name, raw["programs"][name], model)
                for name, contract in TABLE.items()
                if name in raw["programs"] or not contract.is_optional
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
            format_facts={n: _typed(f, dict) for n, f in raw.get("formats", {}).items()},
        )
        for name in (SCHEDULER_CONFIG, VOCABULARY, REFERENCE, *bundle.program_files_listed):
            bundle.files[name]
    except _NewerThanThisError as error:
        raise BundleError(
            f"{folder / MANIFEST} was written for a newer version of ldm-engine: {error}. "
            "Upgrade ldm-engine, or export the bundle again with this version."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise BundleError(
            f"{folder / MANIFEST} is not a valid manifest: {reason}. "
            "Copy the bundle again, or export it again."
        ) from error
    return bundle


def _from_version_1(raw: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer was a fact of the model, and one format's facts were at the top."""
    tokenizer = {"kind": "wordpiece", "lowercase": raw["model"]["lowercase"]}
    facts = {"tensorrt": raw["tensorrt"]} if "tensorrt" in raw else {}
    return {**raw, "tokenizer": tokenizer, "formats": facts}


#: Format version -> its content as the next version has it.
_UPGRADES = {1: _from_version_1}


def _parse_model(raw: dict[str, Any]) -> ModelInfo:
    values = {}
    for name, kind in ModelInfo.__annotations__.items():
        value = _typed(raw[name], {"str": str, "int": int}[kind])
        if kind == "int" and not 0 < value < 2**31:
            raise ValueError(f"`{name}` is {value}, not a positive number")
        values[name] = value
    model = ModelInfo(**values)
    check_sizes(model)
    return model


def _parse_tokenizer(raw: dict[str, Any]) -> TokenizerInfo:
    """All of it must be understood: what is ignored here would change ids, and so pictures."""
    kind = _typed(raw["kind"], str)
    if kind not in TOKENIZER_KINDS:
        raise _NewerThanThisError(
            f"its tokenizer is of the kind `{kind}`; {', '.join(TOKENIZER_KINDS)} is accepted"
        )
    _refuse_unknown("its tokenizer", raw, TokenizerInfo)
    values = {"lowercase": _typed(raw["lowercase"], bool)}
    for name, value in raw.items():
        match name:
            case "handle_chinese_chars" | "clean_text":
                values[name] = _typed(value, bool)
            case "strip_accents" if value is not None:
                values[name] = _typed(value, bool)
            case "max_input_chars_per_word":
                values[name] = _within_int(name, value)
            case "added_tokens":
                values[name] = _parse_added_tokens(value)
            case _ if name.endswith(("_token", "_prefix")):
                values[name] = _not_empty(name, value)
    return TokenizerInfo(kind, **values)


def _parse_added_tokens(raw: list[Any]) -> tuple[AddedToken, ...]:
    tokens = []
    for entry in _typed(raw, list):
        _refuse_unknown("an added token", _typed(entry, dict), AddedToken)
        flags = {n: _typed(v, bool) for n, v in entry.items() if n not in ("content", "id")}
        content, number = entry["content"], entry["id"]
        tokens.append(
            AddedToken(_not_empty("content", content), _within_int("id", number), **flags)
        )
    for values in ([token.content for token in tokens], [token.id for token in tokens]):
        if len(set(values)) < len(values):
            raise ValueError("two added tokens have the same `content` or the same `id`")
    return tuple(tokens)


def _refuse_unknown(owner: str, raw: dict[str, Any], kind: type) -> None:
    accepted = [field.name for field in fields(kind)]
    unknown = sorted(raw.keys() - set(accepted))
    if unknown:
        names = ", ".join(f"`{name}`" for name in unknown)
        raise _NewerThanThisError(f"{owner} has {names}; {', '.join(accepted)} are accepted")


def _not_empty(name: str, value: Any) -> str:
    text: str = _typed(value, str)
    if not text:
        raise ValueError(f"`{name}` is empty")
    text.encode()  # no half of a surrogate pair
    return text


def _within_int(name: str, value: Any) -> int:
    number: int = _typed(value, int)
    if not 0 <= number < 2**31:
        raise ValueError(f"`{name}` is {number}, which is negative or too large")
    return number


def _parse_program(name: str, raw: dict[str, Any], model: ModelInfo) -> ProgramInfo:
    inputs, outputs = (tuple(_parse_tensor(t) for t in raw[k]) for k in ("inputs", "outputs"))
    if (inputs, outputs) != tensor_specs(name, model):
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
    words = (_typed(raw.get(name, ""), str) for name in ("case", "note"))
    return Parity(float(raw["relative_l2_error"]), float(raw["tolerance"]), *words)


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
