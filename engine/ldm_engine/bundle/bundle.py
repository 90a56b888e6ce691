"""An opened bundle: the facts in its manifest, and whether its files are whole.

``manifest.py`` reads and writes the manifest; nothing here opens a program.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BundleError
from ..machine.cpu import available_threads
from ..machine.events import timed
from ..machine.files import hash_file
from .contract import OPTIONAL_PROGRAMS, PROGRAMS, TABLE, TensorSpec
from .formats import FORMAT_FILES
from .model import ModelInfo, TokenizerInfo
from .stamps import remember_files, stamp_files, unchanged_files

MANIFEST = "bundle.json"
SCHEDULER_CONFIG = "scheduler_config.json"
VOCABULARY = "vocab.txt"
REFERENCE = "reference.json"
PROMPTS = "calibration_prompts.txt"
SOLVERS = "solvers.json"  #: has its own seal, and is no part of the manifest


#: The error of what failed or gave no finite values; JSON has no infinity.
NO_FIGURE = 1e300
_REMEDY = "Copy the bundle again, or export it again."


@dataclass(frozen=True)
class FormatInfo:
    """One program in one format: its files relative to the bundle, and how it stores weights."""

    files: tuple[str, ...]  #: graph first
    weights: str = "fp32"  #: or "fp16", "int8"; in built programs the precision they compute in


@dataclass(frozen=True)
class ProgramInfo:
    """One program's tensors and formats."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    formats: Mapping[str, FormatInfo]


@dataclass(frozen=True)
class Parity:
    """How far one program lies from the original model in one runtime, as the export measured."""

    relative_l2_error: float  #: `NO_FIGURE` where there is none
    tolerance: float
    case: str = ""  #: in which the error was largest
    note: str = ""  #: why there is no figure

    @property
    def passed(self) -> bool:
        """Whether the error is within its tolerance."""
        return self.relative_l2_error <= self.tolerance

    def __str__(self) -> str:
        error = f"relative error {self.relative_l2_error:.3g}, tolerance {self.tolerance:.3g}"
        if self.relative_l2_error >= NO_FIGURE:
            error = self.note or "no finite values"
        return f"{self.case}: {error}" if self.case else error


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
    tokenizer: TokenizerInfo
    programs: Mapping[str, ProgramInfo]  #: in the order of the table of programs
    files: Mapping[str, FileInfo]
    #: runtime -> precision -> program, or "end_to_end"
    parity: Mapping[str, Mapping[str, Mapping[str, Parity]]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    #: format -> what its own runtime and writer alone read
    format_facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: of ``bundle.json`` when it was read; None while an export is still writing
    manifest_stamp: tuple[int, ...] | None = field(default=None, compare=False, repr=False)

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that every program which a bundle must have is present in."""
        needed = [self.programs[name] for name in PROGRAMS]
        return tuple(f for f in FORMAT_FILES if all(f in p.formats for p in needed))

    def outside(self, runtime: str, precision: str, program: str | None = None) -> str:
        """What the export measured outside its tolerance in that; empty if nothing.

        Pictures would be wrong there, and are not made. Of an optional `program`, or else of all
        that pictures from text are made with.
        """
        programs = self.parity.get(runtime, {}).get(precision, {})
        counts = [n for n in programs if n == program or not (program or n in OPTIONAL_PROGRAMS)]
        return "; ".join(f"{n}, {programs[n]}" for n in sorted(counts) if not programs[n].passed)

    def require_program(self, name: str) -> None:
        """Raise ``BundleError`` if this bundle lacks the optional program `name`."""
        if name not in self.programs:
            raise BundleError(
                f"{self.path} has no program {name}. Export its checkpoint again, without "
                f"{TABLE[name].left_out_by} and with this version of ldm-engine."
            )

    @property
    def program_files_listed(self) -> tuple[str, ...]:
        """The names of all files of all programs in all formats."""
        return self._files_of(TABLE)

    def _files_of(self, programs: Iterable[str]) -> tuple[str, ...]:
        present = [self.programs[name] for name in programs if name in self.programs]
        return tuple(n for p in present for f in p.formats.values() for n in f.files)

    @property
    def digest(self) -> str:
        """One hash over all that makes pixels of a text: files, and what the tokenizer does."""
        pixels = {SCHEDULER_CONFIG, VOCABULARY, *self._files_of(PROGRAMS)}
        return self.files_digest(pixels, self.tokenizer.digest_line)

    def program_digest(self, program: str) -> str:
        """One hash over the files of `program` in all formats."""
        return self.files_digest(self._files_of([program]))

    def files_digest(self, names: Iterable[str], last_line: str = "") -> str:
        """One hash over the hashes of the files `names`, whatever their order."""
        lines = [f"{self.files[name].sha256}  {name}\n" for name in sorted(names)]
        return hashlib.sha256("".join([*lines, last_line]).encode()).hexdigest()

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
            BundleError: if the bundle lacks that format, if a file is missing or cut short, or
                if another bundle took its place since it was opened.
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
            # Given a file that was cut short, libraries compute with the rest, or crash.
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

        `on_bytes` is called with the size of each chunk hashed, for progress bars.

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

    def check_changed_files(
        self, names: Iterable[str], on_bytes: Callable[[int, int], None] = lambda count, total: None
    ) -> None:
        """``check_files`` for the files that changed since they were last verified.

        `on_bytes` is called with each count of bytes that were read, and how many there are in all.

        Raises:
            BundleError: naming every missing or altered file.
        """
        hashes = {name: self.files[name].sha256 for name in names}
        changed = hashes.keys() - unchanged_files(self.path, hashes)
        if changed:
            stamps = stamp_files(self.path, changed)
            total = sum(self.files[name].bytes for name in changed)
            with timed("hashed %d files of %s, %d bytes,", len(changed), self.path, total):
                self.check_files(sorted(changed), lambda count: on_bytes(count, total))
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
            return f"{name} does not match the sha256 in the manifest"
        return None


def manifest_stamp(folder: Path) -> tuple[int, ...] | None:
    """The inode, size and time of ``bundle.json`` in `folder`, which another one has not."""
    try:
        status = (folder / MANIFEST).stat()
    except OSError:
        return None
    return status.st_ino, status.st_dev, status.st_size, status.st_mtime_ns


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        BundleError: if it is missing, unreadable, not JSON or not an object.
    """
    return parse_json_object(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """A file of the bundle.

    Raises:
        BundleError: if it is missing or unreadable.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}. {_REMEDY}") from error


def parse_json_object(path: Path, content: bytes, remedy: str = _REMEDY) -> dict[str, Any]:
    """The object that is the JSON `content` of the file `path`.

    Raises:
        BundleError: if it is not JSON or not an object, with the `remedy`.
    """
    try:
        value = json.loads(
            content.decode(), parse_constant=_finite, parse_float=_finite, parse_int=_whole
        )
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {error}. {remedy}") from error
    if not isinstance(value, dict):
        raise BundleError(
            f"{path} holds a {type(value).__name__}; a JSON object is expected. {remedy}"
        )
    return value


def _finite(text: str) -> float:
    """A number as JSON knows it, which NaN, infinity and 1e400 are not."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no number")
    return number


def _whole(text: str) -> int:
    _finite(text)
    return int(text)
