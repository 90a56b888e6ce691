"""What a weights file is, by the bytes that it begins with and never by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NoReturn

from ldm_engine.errors import CheckpointError

SAFETENSORS_MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own reader

# How a file starts that torch.save wrote before torch 1.6: a pickled magic number.
TORCH_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# How files begin, in lower case, that are sometimes passed for weights.
OTHER_KINDS = {
    b"gguf": "a GGUF file",
    b"\x1f\x8b": "compressed by gzip",
    b"(\xb5/\xfd": "compressed by Zstandard",
    b"\xfd7zxz": "compressed by xz",
    b"\x89hdf": "an HDF5 file",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"\x93numpy": "one NumPy array",
}

Kind = Literal["safetensors", "torch", "paddle"]
KINDS: dict[Kind, str] = {
    "safetensors": "a safetensors file",
    "torch": "a zip archive of torch.save",
    "paddle": "a plain pickle, as paddle.save writes it",
}

# What the names of weights files promise.
SUFFIX_KINDS: dict[str, Kind] = {
    ".safetensors": "safetensors",
    ".bin": "torch",
    ".ckpt": "torch",
    ".pt": "torch",
    ".pth": "torch",
    ".pdparams": "paddle",
}


def file_kind(path: Path) -> Kind:
    """What `path` is by its contents; a file of no known kind is taken for safetensors.

    A safetensors file begins with a number, the length of its header, whose bytes may be any:
    those of a pickle and of a zip archive too. Its framing is therefore looked at first. No pickle
    and no zip archive can be taken for it: where they begin with so small a number, the byte that
    is the header's first is never `{`.

    Raises:
        CheckpointError: the file cannot be read, is empty, or is known to be something else.
    """
    start = _first_bytes(path)
    if _is_framed(start):
        return "safetensors"
    if start.startswith(b"PK"):
        return "torch"
    if start.startswith(b"\x80"):
        return "paddle"
    return "safetensors"


def mislabelled(path: Path) -> str | None:
    """A sentence about `path` where it is not what its name says."""
    kind = file_kind(path)
    is_known = kind != "safetensors" or _is_framed(_first_bytes(path))
    if not is_known or SUFFIX_KINDS.get(path.suffix, kind) == kind:
        return None
    return f"`{path.name}` is {KINDS[kind]} by its contents, and is read as that."


def raise_no_weights_file(path: Path) -> NoReturn:
    """Refuse `path`, naming what it is if that can be seen."""
    start = _first_bytes(path)
    known = (what for magic, what in OTHER_KINDS.items() if start.lower().startswith(magic))
    what = next(known, "none of safetensors, a torch zip archive and a paddle pickle")
    raise CheckpointError(
        f"`{path}` is not a weights file: it is {what}.\n"
        "  Look at its first lines: a failed download is often a web page. Pass what diffusers, "
        "PaddleNLP or CompVis' code saved."
    )


def _is_framed(start: bytes) -> bool:
    """Whether a file that begins so is a safetensors file, complete or not."""
    header_bytes = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and 2 <= header_bytes <= SAFETENSORS_MAX_HEADER_BYTES


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(
            f"`{path}` cannot be read: {error.strerror}.\n  Pass a readable weights file."
        ) from error
    if not start:
        raise CheckpointError(f"`{path}` is empty (0 bytes).\n  Download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"`{path}` is a git-lfs pointer: a text of a few lines that stands for the weights.\n"
            "  Run `git lfs pull` in that repository, or download the file itself."
        )
    if start.startswith(TORCH_LEGACY_MAGIC):
        raise CheckpointError(
            f"`{path}` is in the format of torch before 1.6; torch's zip archives are accepted.\n"
            "  If you trust the file, load it with torch and write it again with torch.save."
        )
    return start
