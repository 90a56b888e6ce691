"""The bundle: what a folder of exported programs consists of, and whether its files are whole.

``manifest.py`` reads and writes its description; nothing here opens a program.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BundleError
from ..machine.cpu import available_threads
from .stamps import remember_files, stamp_files, unchanged_files

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
    "openvino_int8": ("openvino_model_int8.xml", "openvino_model_int8.bin"),
    "tensorrt": ("tensorrt.json", "tensorrt.pdiparams"),  # and the engines
}
#: The UNet is there in this format too where an export was asked for int8; other programs are not.
INT8_FORMAT = "openvino_int8"
#: The TensorRT graphs hold this before an engine's file name, which a runtime replaces by its path:
#: Paddle reads engines from the paths in the graph, and at this one there never is a file.
ENGINE_PLACE = "/dev/null/"
#: What TensorRT programs are built in.
BUILT_PRECISIONS = ("fp16", "fp32")
#: Largest image height and width, in pixels; attention over more would need terabytes.
MAX_SIZE = 8192
_HASH_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class TensorSpec:
    """A program's input or output; -1 in the shape means any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class FormatInfo:
    """One program in one format: its files relative to the bundle, and how it stores weights."""

    files: tuple[str, ...]  #: graph first
    weights: str = "fp32"  #: or "fp16", "int8"; in TensorRT's programs what they compute in


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


def engine_file_name(program: str, number: int) -> str:
    """Where a program's TensorRT engine of that number lies in a bundle."""
    return f"{program}/tensorrt_{number}.trt"


def are_program_files(program: str, format_name: str, names: tuple[str, ...]) -> bool:
    """Whether `names` are those of a program in a format; TensorRT's has any number of engines."""
    expected = program_file_names(program, format_name)
    if format_name == "tensorrt":
        count = len(names) - len(expected)
        expected += tuple(engine_file_name(program, number) for number in range(count))
    return names == expected


def dimension_name(tensor: str, axis: int) -> str:
    """What a dimension of any size is called in ONNX graphs."""
    return f"{tensor}_{axis}"


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
class TensorRTBuild:
    """What the bundle's TensorRT programs were built for, and where: they run there alone."""

    precision: str  #: "fp16" or "fp32"
    gpu: str  #: its name
    tensorrt: str  #: version
    cuda: str  #: version
    batch: tuple[int, int, int]  #: fewest, usual and most images at once
    size: tuple[int, int, int]  #: least, usual and largest height and width, in pixels


@dataclass(frozen=True)
class Bundle:
    """A validated manifest and the folder it describes."""

    path: Path
    model: ModelInfo
    programs: Mapping[str, ProgramInfo]
    files: Mapping[str, FileInfo]
    #: runtime -> precision -> program, or "end_to_end"
    parity: Mapping[str, Mapping[str, Mapping[str, Parity]]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    tensorrt: TensorRTBuild | None = None  #: None where there are no TensorRT programs
    #: of ``bundle.json`` when it was read; None while an export is still writing
    manifest_stamp: tuple[int, ...] | None = field(default=None, compare=False, repr=False)

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that every program is present in."""
        return tuple(f for f in FORMAT_FILES if all(f in p.formats for p in self.programs.values()))

    @property
    def program_files_listed(self) -> tuple[str, ...]:
        """The names of all files of all programs in all formats."""
        return tuple(n for p in self.programs.values() for f in p.formats.values() for n in f.files)

    @property
    def digest(self) -> str:
        """One hash over the hashes of all files that make the pixels."""
        return self.files_digest(self.files.keys() - {REFERENCE})

    def files_digest(self, names: Iterable[str]) -> str:
        """One hash over the hashes of the files `names`, whatever their order."""
        lines = (f"{self.files[name].sha256}  {name}\n" for name in sorted(names))
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
        """The files of one program in one format, graph first; each is there and of its size.

        Raises:
            BundleError: if the bundle does not hold that format, or not whole, or if another took
                its place since it was opened: what is in memory would not fit what is read now.
        """
        stamp = self.manifest_stamp
        if stamp is not None and stamp != manifest_stamp(self.path):
            raise BundleError(
                f"The bundle {self.path} was replaced or removed since it was opened. "
                "Open it again."
            )
        formats = self.programs[program].formats
        if format_name not in formats:
            raise BundleError(
                f"{self.path} holds {program} as {', '.join(formats)}, not as {format_name}. "
                f"Export again with --formats {','.join([*self.formats, format_name])}."
            )
        paths = tuple(self.path / name for name in formats[format_name].files)
        for name, path in zip(formats[format_name].files, paths, strict=True):
            # Libraries render with what is left of a file, or die of it.
            size = path.stat().st_size if path.is_file() else None
            if size is None or (name in self.files and size != self.files[name].bytes):
                raise BundleError(
                    f"{path} {'is missing' if size is None else 'is not whole'}. Copy the bundle "
                    "again from its source, or export it again."
                )
        return paths

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
        wanted = list(self.files if names is None else names)
        with ThreadPoolExecutor(available_threads()) as pool:
            faults = pool.map(lambda name: self._fault(name, on_bytes), wanted)
            damaged = [fault for fault in faults if fault]
        if damaged:
            listing = "\n".join(f"  - {d}" for d in damaged)
            raise BundleError(
                f"The bundle {self.path} is damaged:\n{listing}\n"
                "Copy it again from its source, or export it again."
            )

    def check_changed_files(self, names: Iterable[str]) -> None:
        """``check_files``, without those that were whole when they were last changed.

        Raises:
            BundleError: naming every missing or altered file.
        """
        hashes = {name: self.files[name].sha256 for name in names}
        changed = hashes.keys() - unchanged_files(self.path, hashes)
        if changed:
            stamps = stamp_files(self.path, changed)
            self.check_files(sorted(changed))
            remember_files(self.path, hashes, stamps)

    def _fault(self, name: str, on_bytes: Callable[[int], None]) -> str | None:
        """What is wrong with a file, or None."""
        expected, path = self.files[name], self.path / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected.bytes:
            return f"{name} has {size} bytes, not {expected.bytes}"
        if hash_file(path, on_bytes) != expected.sha256:
            return f"{name} has another sha256 than the manifest says"
        return None


def manifest_stamp(folder: Path) -> tuple[int, ...] | None:
    """What is different of another ``bundle.json`` in `folder`, without reading it."""
    try:
        status = (folder / MANIFEST).stat()
    except OSError:
        return None
    return status.st_ino, status.st_dev, status.st_size, status.st_mtime_ns


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
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(
            f"{path} cannot be read: {error}. Copy the bundle again, or export it again."
        ) from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} holds a {type(content).__name__}; a JSON object is expected.")
    return content
