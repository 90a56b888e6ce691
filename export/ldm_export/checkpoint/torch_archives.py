"""Opens a zip archive of torch.save as named tensors still on disk."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ldm_engine.errors import CheckpointError

from .pickles import PendingArray, PendingTensor, load_plain
from .state_dicts import state_dict
from .tensors import StoredTensor, Tensors, in_memory, mapped, numpy_dtype


def open_torch(path: Path) -> Tensors:
    """Read the pickle inside; values are mapped."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(path, archive)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(
            f"`{path}` cannot be read as a torch zip archive ({error}); it is probably truncated.\n"
            "  Download it again."
        ) from error


def _read_archive(path: Path, archive: zipfile.ZipFile) -> Tensors:
    pickled = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickled) != 1:
        raise CheckpointError(
            f"`{path}` is a zip archive with {len(pickled)} data.pkl; torch.save writes one.\n"
            "  Pass a file written by torch.save."
        )
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise CheckpointError(
            f"`{path}` is a compressed zip archive; torch.save stores its records as they are.\n"
            "  Pass the file that torch.save wrote."
        )
    prefix = pickled[0].removesuffix("data.pkl")
    order: Literal["<", ">"] = "<"
    if prefix + "byteorder" in archive.namelist():
        order = ">" if archive.read(prefix + "byteorder").strip() == b"big" else "<"
    content = mapped(path)

    def rebuild(
        dtype: str,
        key: str,
        count: int,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
    ) -> StoredTensor:
        _check_view(path, key, count, offset, shape, strides)
        element = numpy_dtype(dtype, order)
        record = _record(path, archive, prefix + "data/" + key, content, count * element.itemsize)
        bits = partial(_strided, record, element, offset, shape, strides)
        return StoredTensor(shape, dtype, bits)

    loaded = load_plain(io.BytesIO(archive.read(pickled[0])), path, rebuild)
    return _torch_state(path, loaded)


def _check_view(
    path: Path, key: str, count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    """Refuse views that leave their storage, or that hold more values than it (a memory bomb)."""
    values = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=False))
    if len(shape) != len(strides) or (values and (last >= count or values > count)):
        raise CheckpointError(
            f"`{path}` is damaged: a tensor of shape {list(shape)}, strides {list(strides)} and "
            f"offset {offset} does not lie in its storage `{key}` of {count} values.\n"
            "  Download it again."
        )


def _record(
    path: Path, archive: zipfile.ZipFile, name: str, content: NDArray[np.uint8], needed: int
) -> NDArray[np.uint8]:
    """Where the bytes of a record are in the mapped file."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise CheckpointError(
            f"`{path}` is damaged: it has no record `{name}` for one of its tensors.\n"
            "  Download it again."
        ) from None
    # A local file header is 30 bytes, then a name and an extra field of its own lengths.
    header = content[info.header_offset : info.header_offset + 30].tobytes()
    begin = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30].ljust(4, b"\0")))
    if info.header_offset < 0 or info.file_size < needed or begin + needed > len(content):
        raise CheckpointError(
            f"`{path}` is truncated: its record `{name}` should have {needed} bytes, it has "
            f"{info.file_size}.\n  Download it again."
        )
    return content[begin : begin + needed]


def _strided(
    content: NDArray[np.uint8],
    element: np.dtype[Any],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> NDArray[Any]:
    values = content.view(element)[offset:]
    if all(stride == math.prod(shape[axis + 1 :]) for axis, stride in enumerate(strides)):
        return values[: math.prod(shape)].reshape(shape)
    byte_strides = [stride * element.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(values, shape, byte_strides)


def _torch_state(path: Path, loaded: Any) -> Tensors:
    tensors: Tensors = {}
    for name, value in state_dict(path, loaded, "torch").items():
        if isinstance(value, PendingArray):
            value = PendingTensor(in_memory(value.array))
        if not isinstance(name, str) or not isinstance(value, PendingTensor):
            raise CheckpointError(
                f"`{path}` holds `{name!r:.80}`, which is no tensor, in its state dict.\n"
                "  Save it with torch.save(model.state_dict(), PATH)."
            )
        tensors[name] = value.tensor
    return tensors
