"""Opens a weights file, whose kind its first bytes show, as named tensors still on disk."""

from __future__ import annotations

import io
import json
import math
import reprlib
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from ldm_engine.errors import CheckpointError

from .pickles import PendingArray, PendingTensor, Token, load_plain
from .tensors import BFLOAT16, StoredTensor, is_count, is_shape

Tensors = dict[str, StoredTensor]

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

# Under which names training code keeps a state dict beside other things; averaged weights last.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "ema_state_dict",
    "model_ema",
    "ema",
)

# What wraps a model or a part of it gives its tensors' names a part more. Of this model family's
# own names none is among these.
WRAPPING_MODULES = frozenset(
    {
        "module",  # DataParallel and DistributedDataParallel
        "_orig_mod",  # torch.compile
        "_forward_module",  # Lightning's Fabric
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
    }
)

# Keys that paddle.save adds to a state dict (paddle/framework/io.py and io_utils.py).
PADDLE_NAME_TABLE = "StructuredToParameterName@@"
PADDLE_SLICES = "UnpackBigParamInfor@@"


Kind = Literal["safetensors", "torch", "paddle"]
STORED_BY: dict[str, Literal["torch", "paddle"]] = {"pt": "torch", "pd": "paddle"}
KINDS: dict[Kind, str] = {
    "safetensors": "a safetensors file",
    "torch": "a zip archive of torch.save",
    "paddle": "a pickle of paddle.save",
}


def open_tensors(path: Path) -> Tensors:
    """Open a `.safetensors`, torch zip (`.bin`, `.ckpt`) or `.pdparams` file; contents decide.

    Raises:
        CheckpointError: the file is missing, empty, truncated, or of another kind.
        UnsafePickleError: it is a pickle that asks for more than arrays and plain containers.
    """
    opened: dict[Kind, Callable[[Path], Tensors]] = {
        "safetensors": _open_safetensors,
        "torch": _open_torch,
        "paddle": _open_paddle,
    }
    return _unwrapped(path, opened[file_kind(path)](path))


def unwrapped_name(name: str) -> str:
    """`name` as the model itself has it, whatever it was wrapped in when it was saved."""
    return ".".join(part for part in name.split(".") if part not in WRAPPING_MODULES)


def _unwrapped(path: Path, stored: Tensors) -> Tensors:
    tensors: Tensors = {}
    for name, tensor in stored.items():
        inner = unwrapped_name(name)
        if inner in tensors:
            raise CheckpointError(
                f"`{path}` holds two tensors `{inner}`: one of a wrapped model, one of it alone.\n"
                "  Save the state dict of the model alone."
            )
        tensors[inner] = tensor
    return tensors


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


def stored_by(path: Path) -> Literal["torch", "paddle"] | None:
    """Whose layout `path` says that its tensors have, if it says so."""
    kind = file_kind(path)
    if kind != "safetensors":
        return kind
    header, _ = _safetensors_header(path, path.stat().st_size)
    metadata = header.get("__metadata__")
    said = metadata.get("format") if isinstance(metadata, dict) else None
    return STORED_BY.get(said) if isinstance(said, str) else None


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


def _map(path: Path) -> NDArray[np.uint8]:
    """The file as bytes, mapped privately: writable, without ever changing the file."""
    return np.asarray(np.memmap(path, np.uint8, mode="c"))


# --- safetensors -------------------------------------------------------------------------------


def _open_safetensors(path: Path) -> Tensors:
    file_bytes = path.stat().st_size
    header, data_start = _safetensors_header(path, file_bytes)
    mapped = _map(path)
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
        needed = math.prod(shape) * _numpy_dtype(dtype).itemsize
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
        content = mapped[data_start + begin : data_start + end]
        tensors[name] = StoredTensor(shape, dtype, partial(_shaped, content, dtype, shape))
    return tensors


def _safetensors_header(path: Path, file_bytes: int) -> tuple[dict[str, Any], int]:
    """The JSON header and the offset of the data behind it."""
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        plausible = header_bytes <= SAFETENSORS_MAX_HEADER_BYTES
        start = file.read(1)
        if not plausible or start not in (b"{", b""):
            _raise_no_weights_file(path)
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


def _raise_no_weights_file(path: Path) -> NoReturn:
    start = _first_bytes(path)
    known = (what for magic, what in OTHER_KINDS.items() if start.lower().startswith(magic))
    what = next(known, "none of safetensors, a torch zip archive and a paddle pickle")
    raise CheckpointError(
        f"`{path}` is not a weights file: it is {what}.\n"
        "  Look at its first lines: a failed download is often a web page. Pass what diffusers, "
        "PaddleNLP or CompVis' code saved."
    )


def _shaped(content: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return content.view(_numpy_dtype(dtype)).reshape(shape)


def _numpy_dtype(dtype: str, order: Literal["<", ">"] = "<") -> np.dtype[Any]:
    stored: np.dtype[Any] = np.dtype("uint16" if dtype == BFLOAT16 else dtype)
    ordered: np.dtype[Any] = stored.newbyteorder(order)
    return ordered


# --- torch zip archives ------------------------------------------------------------------------


def _open_torch(path: Path) -> Tensors:
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
    mapped = _map(path)

    def rebuild(
        dtype: str,
        key: str,
        count: int,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
    ) -> StoredTensor:
        _check_view(path, key, count, offset, shape, strides)
        element = _numpy_dtype(dtype, order)
        content = _record(path, archive, prefix + "data/" + key, mapped, count * element.itemsize)
        bits = partial(_strided, content, element, offset, shape, strides)
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
    path: Path, archive: zipfile.ZipFile, name: str, mapped: NDArray[np.uint8], needed: int
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
    header = mapped[info.header_offset : info.header_offset + 30].tobytes()
    begin = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30].ljust(4, b"\0")))
    if info.header_offset < 0 or info.file_size < needed or begin + needed > len(mapped):
        raise CheckpointError(
            f"`{path}` is truncated: its record `{name}` should have {needed} bytes, it has "
            f"{info.file_size}.\n  Download it again."
        )
    return mapped[begin : begin + needed]


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
    for name, value in _state_dict(path, loaded, "torch").items():
        if isinstance(value, PendingArray):
            value = PendingTensor(_in_memory(value.array))
        if not isinstance(name, str) or not isinstance(value, PendingTensor):
            raise CheckpointError(
                f"`{path}` holds `{name!r:.80}`, which is no tensor, in its state dict.\n"
                "  Save it with torch.save(model.state_dict(), PATH)."
            )
        tensors[name] = value.tensor
    return tensors


# --- pickles of either library ------------------------------------------------------------------


def _state_dict(path: Path, loaded: Any, library: str) -> dict[Any, Any]:
    """The state dict: the object itself, or what a training checkpoint keeps beside other things.

    Raises:
        CheckpointError: it is neither, or there are several to choose from.
    """
    if not isinstance(loaded, dict):
        what = repr(loaded) if isinstance(loaded, Token) else f"a {type(loaded).__name__}"
        raise CheckpointError(
            f"`{path}` holds {what}, not a state dict (names -> tensors).\n"
            f"  Save it with {library}.save(model.state_dict(), PATH)."
        )
    wrapped = [name for name in WRAPPERS if _holds_tensors(loaded.get(name))]
    if len(wrapped) > 1:
        raise CheckpointError(
            f"`{path}` holds several state dicts: {', '.join(f'`{name}`' for name in wrapped)}.\n"
            f"  Save the one to be read alone: {library}.save(checkpoint[NAME], PATH)."
        )
    if not wrapped and isinstance(loaded.get("state_dict"), dict):
        return dict(loaded["state_dict"])  # an error then names what is wrong with it
    return loaded[wrapped[0]] if wrapped else loaded


def _holds_tensors(value: Any) -> bool:
    held = list(value.values()) if isinstance(value, dict) else []
    held += [entry[1] for entry in held if isinstance(entry, tuple) and len(entry) == 2]
    return any(isinstance(entry, PendingTensor | PendingArray) for entry in held)


# --- paddle pickles ----------------------------------------------------------------------------


def _open_paddle(path: Path) -> Tensors:
    """Unlike the other kinds, a pickle of arrays can only be read as a whole."""
    with path.open("rb") as file:
        loaded = _state_dict(path, load_plain(file, path), "paddle")
    loaded.pop(PADDLE_NAME_TABLE, None)
    slices = loaded.pop(PADDLE_SLICES, {})
    arrays = {name: _paddle_array(path, name, value) for name, value in loaded.items()}
    del loaded
    if not isinstance(slices, dict):
        raise CheckpointError(
            f"`{path}` is damaged: its `{PADDLE_SLICES}` is no table.\n  Download it again."
        )
    for name, parts in slices.items():
        arrays[name] = _joined(path, name, parts, arrays)
    return {name: _in_memory(array, paddle=True) for name, array in arrays.items()}


def _joined(path: Path, name: Any, parts: Any, arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """One array out of the slices that paddle.save made of it; takes them out of `arrays`."""
    try:
        match name, parts:
            case str(), {"OriginShape": shape, "slices": [*slices]} if is_shape(shape):
                if all(isinstance(part, str) for part in slices):
                    joined = np.concatenate([arrays.pop(part) for part in slices])
                    return np.asarray(joined.reshape(shape))
        reason = "no list of them is there"
    except (KeyError, ValueError) as error:
        reason = str(error)
    raise CheckpointError(
        f"`{path}` is damaged: the slices of its tensor `{name}` do not fit together ({reason}).\n"
        "  Download it again."
    )


def _paddle_array(path: Path, name: Any, value: Any) -> NDArray[Any]:
    # Tensors saved outside a state dict are (name, array): _pickle_save in paddle/framework/io.py.
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]
    if not isinstance(name, str) or not isinstance(value, PendingArray):
        raise CheckpointError(
            f"`{path}` holds `{name!r:.80}`, which is no array.\n"
            "  Save it with paddle.save(model.state_dict(), PATH)."
        )
    return value.array


def _in_memory(array: NDArray[Any], *, paddle: bool = False) -> StoredTensor:
    # Paddle hands bfloat16 to numpy as uint16, and has no 16-bit unsigned integers of its own.
    dtype = BFLOAT16 if paddle and array.dtype == np.uint16 else array.dtype.name
    return StoredTensor(array.shape, dtype, lambda: array)
