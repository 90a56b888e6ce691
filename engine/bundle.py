"""The bundle: a folder of exported programs described by ``bundle.json``; read, validate, hash.

Nothing here opens a program. The format is documented in ``docs/bundle-format.md``; the C++
library reads the same file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import ArgumentTypeError, BundleError, BundleNotFoundError
from .files import write_atomically

FORMAT_VERSION = 1
MANIFEST = "bundle.json"
SCHEDULER_CONFIG = "scheduler_config.json"
VOCABULARY = "vocab.txt"
REFERENCE = "reference.json"

#: In the order in which an image passes through them.
PROGRAMS = ("text_encoder", "time_encoder", "unet", "vae_decoder")
#: File names of each format, inside the program's folder; the first one is the graph.
FORMAT_FILES = {
    "paddle": ("inference.json", "inference.pdiparams"),
    "onnx": ("model.onnx", "model.onnx.data"),
    "openvino": ("openvino_model.xml", "openvino_model.bin"),
}
#: Largest image height and width, in pixels; attention over more would need terabytes.
MAX_SIZE = 8192
_HASH_CHUNK_BYTES = 4 << 20
_SEAL = "manifest_sha256"
_UNSEALED = f'"{_SEAL}": "{"0" * 64}"'


@dataclass(frozen=True)
class TensorSpec:
    """A program's input or output; -1 in the shape means any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class FormatInfo:
    """One program in one format: its files relative to the bundle, graph first, and precision."""

    files: tuple[str, ...]
    precision: str = "fp32"


@dataclass(frozen=True)
class ProgramInfo:
    """One program's tensors and the formats it is there in."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    formats: Mapping[str, FormatInfo]


@dataclass(frozen=True)
class ModelInfo:
    """What the engine must know of the model, whatever its weights."""

    source: str  #: the checkpoint's id or folder name, for people
    latent_channels: int
    scale_factor: int  #: pixels a latent cell spans in each direction
    size_multiple: int  #: latent height and width are multiples of this
    sample_size: int  #: default latent height and width
    token_length: int
    vocab_size: int
    lowercase: bool  #: the tokenizer lower-cases
    time_shift_width: int
    text_kv_width: int

    @property
    def pixel_multiple(self) -> int:
        """Image height and width are multiples of this."""
        return self.size_multiple * self.scale_factor

    @property
    def default_size(self) -> int:
        """Image height and width where none are asked for, in pixels."""
        return self.sample_size * self.scale_factor


#: A program's inputs and outputs, in order.
Contract = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


def program_tensors(model: ModelInfo) -> dict[str, Contract]:
    """The contract of the four programs: for each its inputs and its output, in order."""
    tokens, shift, kv = model.token_length, model.time_shift_width, model.text_kv_width
    latents = TensorSpec("latents", "float32", (-1, model.latent_channels, -1, -1))
    text_kv = TensorSpec("text_kv", "float32", (-1, tokens, kv))
    input_ids = TensorSpec("input_ids", "int64", (-1, tokens))
    timesteps = TensorSpec("timesteps", "float32", (-1,))
    return {
        "text_encoder": ((input_ids,), (text_kv,)),
        "time_encoder": ((timesteps,), (TensorSpec("time_shift", "float32", (-1, shift)),)),
        "unet": (
            (latents, TensorSpec("time_shift", "float32", (1, shift)), text_kv),
            (TensorSpec("noise_pred", "float32", (-1, model.latent_channels, -1, -1)),),
        ),
        "vae_decoder": ((latents,), (TensorSpec("image", "float32", (-1, -1, -1, 3)),)),
    }


def program_file_names(program: str, format_name: str) -> tuple[str, ...]:
    """Where a program's files lie in a bundle, graph first."""
    return tuple(f"{program}/{name}" for name in FORMAT_FILES[format_name])


@dataclass(frozen=True)
class Parity:
    """How far one program lies from the original model in one runtime, as the export measured."""

    relative_l2_error: float
    tolerance: float


@dataclass(frozen=True)
class FileInfo:
    """Size and hash of one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Bundle:
    """A validated manifest and the folder it describes."""

    path: Path
    model: ModelInfo
    programs: Mapping[str, ProgramInfo]
    files: Mapping[str, FileInfo]
    #: runtime -> program, or "end_to_end"
    parity: Mapping[str, Mapping[str, Parity]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that every program is present in."""
        return tuple(f for f in FORMAT_FILES if all(f in p.formats for p in self.programs.values()))

    @property
    def digest(self) -> str:
        """One hash over the hashes of all files that make the pixels."""
        names = sorted(self.files.keys() - {REFERENCE})
        lines = (f"{self.files[name].sha256}  {name}\n" for name in names)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """``scheduler_config.json`` as published with the checkpoint."""
        return read_json_object(self.path / SCHEDULER_CONFIG)

    @property
    def vocabulary(self) -> Path:
        """The WordPiece vocabulary, one token a line."""
        return self.path / VOCABULARY

    def program_files(self, program: str, format_name: str) -> tuple[Path, ...]:
        """The files of one program in one format, graph first.

        Raises:
            BundleError: if the bundle does not hold that format.
        """
        formats = self.programs[program].formats
        if format_name not in formats:
            raise BundleError(
                f"{self.path} holds {program} as {', '.join(formats)}, not as {format_name}. "
                f"Export again with --formats {','.join([*formats, format_name])}."
            )
        return tuple(self.path / name for name in formats[format_name].files)

    def check_files(
        self,
        names: Iterable[str] | None = None,
        on_bytes: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Compare size and sha256 of `names` (default: every file) with the manifest.

        `on_bytes` is told of each chunk hashed, for progress bars.

        Raises:
            BundleError: naming every missing or altered file.
        """
        damaged = []
        for name in self.files if names is None else names:
            expected = self.files[name]
            path = self.path / name
            if not path.is_file():
                damaged.append(f"{name} is missing")
            elif path.stat().st_size != expected.bytes:
                size = path.stat().st_size
                damaged.append(f"{name} has {size} bytes, not {expected.bytes}")
            elif hash_file(path, on_bytes) != expected.sha256:
                damaged.append(f"{name} has another sha256 than the manifest says")
        if damaged:
            listing = "\n".join(f"  - {d}" for d in damaged)
            raise BundleError(
                f"The bundle {self.path} is damaged:\n{listing}\n"
                "Copy it again from its source, or export it again."
            )

    def save_manifest(self) -> None:
        """Write ``bundle.json``, whole or not at all; do this after every other file."""
        content = {
            "format_version": FORMAT_VERSION,
            _SEAL: "0" * 64,
            "model": asdict(self.model),
            "programs": {name: asdict(info) for name, info in self.programs.items()},
            "files": {name: asdict(info) for name, info in sorted(self.files.items())},
            "parity": {
                runtime: {name: asdict(parity) for name, parity in programs.items()}
                for runtime, programs in self.parity.items()
            },
            "versions": self.versions,
        }
        write_atomically(self.path / MANIFEST, seal(content))


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
    text = path.read_text(encoding="utf-8").replace(f'"{_SEAL}": "{told}"', _UNSEALED, 1)
    if hashlib.sha256(text.encode()).hexdigest() != told:
        raise BundleError(
            f"{path} was altered after it was written: it does not have the sha256 that it tells. "
            "Copy the bundle again from its source, or export it again."
        )


def hash_file(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        BundleError: if it is missing, unreadable, not JSON or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(
            f"{path} cannot be read: {error}. Copy the bundle again, or export it again."
        ) from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} holds a {type(content).__name__}; a JSON object is expected.")
    return content


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
    raw = read_json_object(folder / MANIFEST)
    version = raw.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(
            f"{folder / MANIFEST} has format version {version!r}; this version of ldm-engine "
            f"reads {FORMAT_VERSION}. Upgrade ldm-engine if the bundle is newer, "
            "else export it again."
        )
    _check_seal(folder / MANIFEST, raw)
    return _parse(folder, raw)


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
                _typed(runtime, str): {n: _parse_parity(p) for n, p in programs.items()}
                for runtime, programs in raw["parity"].items()
            },
            versions={_typed(n, str): _typed(v, str) for n, v in raw["versions"].items()},
        )
        listed = [n for p in bundle.programs.values() for f in p.formats.values() for n in f.files]
        for name in (SCHEDULER_CONFIG, VOCABULARY, REFERENCE, *listed):
            bundle.files[name]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
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
    if model.default_size > MAX_SIZE or model.pixel_multiple > MAX_SIZE:
        raise ValueError(f"images of {model.default_size} pixels are larger than {MAX_SIZE}")
    return model


def _parse_program(name: str, raw: dict[str, Any], expected: Contract) -> ProgramInfo:
    inputs, outputs = (tuple(_parse_tensor(t) for t in raw[k]) for k in ("inputs", "outputs"))
    if (inputs, outputs) != expected:
        raise ValueError(f"the tensors of {name} are not those that the model's facts lead to")
    formats = {}
    for format_name, entry in raw["formats"].items():
        files = tuple(_safe(n) for n in entry["files"])
        if format_name in FORMAT_FILES and files != program_file_names(name, format_name):
            raise ValueError(f"the {format_name} files of {name} are {files}")
        formats[_typed(format_name, str)] = FormatInfo(files, _typed(entry["precision"], str))
    return ProgramInfo(inputs, outputs, formats)


def _parse_tensor(raw: dict[str, Any]) -> TensorSpec:
    shape = tuple(_typed(s, int) for s in raw["shape"])
    return TensorSpec(_typed(raw["name"], str), _typed(raw["dtype"], str), shape)


def _parse_parity(raw: dict[str, Any]) -> Parity:
    return Parity(float(raw["relative_l2_error"]), float(raw["tolerance"]))


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
    return str(path)
