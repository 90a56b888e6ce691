"""Opens a safetensors file as named tensors still on disk."""

from __future__ import annotations

import json
import math
import reprlib
import struct
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ldm_engine.errors import CheckpointError

from .file_kinds import SAFETENSORS_MAX_HEADER_BYTES, raise_no_weights_file
from .tensors import BFLOAT16, StoredTensor, Tensors, is_count, is_shape, mapped, numpy_dtype

SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": BFLOAT16,
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}

# `format` in a file's metadata -> the library in whose layout its tensors are.
STORED_BY: dict[str, Literal["torch", "paddle"]] = {"pt": "torch", "pd": "paddle"}


def open_safetensors(path: Path) -> Tensors:
    """Read the header; values are mapped."""
    file_bytes = path.stat().st_size
    header, data_start = _header(path, file_bytes)
    content_bytes = mapped(path)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype = SAFETENSORS_DTYPES[entry["dtype"]]
            shape, (begin, end) = entry["shape"], entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"`{path}` describes its tensor `{name}` in an unknown way: "
                f"{reprlib.repr(entry)}.\n"
                f"  Accepted element types: {', '.join(SAFETENSORS_DTYPES)}."
            ) from error
        if not (is_shape(shape) and is_count(begin) and is_count(end)):
            raise CheckpointError(
                f"`{path}` is damaged: it describes its tensor `{name}` as {reprlib.repr(entry)}.\n"
                "  Download it again."
            )
        shape = tuple(shape)
        needed = math.prod(shape) * numpy_dtype(dtype).itemsize
        if end - begin != needed:
            raise CheckpointError(
                f"`{path}` is damaged: its tensor `{name}` of shape {list(shape)} should take "
                f"{needed} bytes, its offsets are {begin} to {end}.\n  Download it again."
            )
        if data_start + end > file_bytes:
            raise CheckpointError(
                f"`{path}` is truncated: its header asks for {data_start + end} bytes or more, it "
                f"has {file_bytes}.\n  Download it again."
            )
        content = content_bytes[data_start + begin : data_start + end]
        tensors[name] = StoredTensor(shape, dtype, partial(_shaped, content, dtype, shape))
    return tensors


def _header(path: Path, file_bytes: int) -> tuple[dict[str, Any], int]:
    """The JSON header and the offset of the data behind it."""
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        plausible = header_bytes <= SAFETENSORS_MAX_HEADER_BYTES
        start = file.read(1)
        if not plausible or start not in (b"{", b""):
            raise_no_weights_file(path)
        if 8 + header_bytes > file_bytes or header_bytes == 0:
            raise CheckpointError(
                f"`{path}` is truncated: its header alone takes {header_bytes} bytes, the file has "
                f"{file_bytes}.\n  Download it again."
            )
        text = start + file.read(header_bytes - 1)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"`{path}` is damaged: its safetensors header is not JSON ({error}).\n"
            "  Download it again."
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(
            f"`{path}` is damaged: its safetensors header is no table.\n  Download it again."
        )
    return header, 8 + header_bytes


def said_layout(path: Path) -> Literal["torch", "paddle"] | None:
    """The library in whose layout a safetensors file says that its tensors are, if it does."""
    header, _ = _header(path, path.stat().st_size)
    metadata = header.get("__metadata__")
    said = metadata.get("format") if isinstance(metadata, dict) else None
    return STORED_BY.get(said) if isinstance(said, str) else None


def _shaped(content: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return content.view(numpy_dtype(dtype)).reshape(shape)
