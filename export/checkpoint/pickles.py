"""Reads pickles as data: arrays and plain containers are admitted, all else is refused by name.

Nothing a pickle names is ever imported. Each admitted name stands for an object of this module that
only records what it was given, and sizes are checked against the bytes that are really there.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ldm_engine.errors import CheckpointError, LDMEngineError, UnsafePickleError

from .tensors import BFLOAT16, StoredTensor

# Element types that hold nothing but numbers. numpy's "O" (any Python object) is not among them.
PLAIN_DTYPES = frozenset(
    {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}
)

# Names of torch/storage.py's typed storages -> element type.
TORCH_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}

# (element type, key of the record, number of elements, offset, shape, strides) -> tensor
RebuildTensor = Callable[[str, str, int, int, tuple[int, ...], tuple[int, ...]], StoredTensor]


class _RefusedError(Exception):
    """Carries the name that a pickle asked for to where the file's name is known."""


class _DamagedError(Exception):
    """Carries what does not add up to where the file's name is known."""


def load_plain(file: IO[bytes], path: Path, rebuild_tensor: RebuildTensor | None = None) -> Any:
    """Load one pickle that holds only arrays, torch tensors, plain containers and scalars.

    Args:
        file: the pickle's bytes.
        path: the file to name in errors.
        rebuild_tensor: makes a tensor of a torch archive's record; None refuses torch tensors.

    Raises:
        UnsafePickleError: the pickle asks for anything else; the message has the name.
        CheckpointError: it is truncated or otherwise not a pickle.
    """
    try:
        return _PlainUnpickler(file, rebuild_tensor).load()
    except _RefusedError as refused:
        raise UnsafePickleError(_refusal(path, str(refused))) from None
    except _DamagedError as damage:
        raise CheckpointError(f"`{path}` is damaged: {damage}.\n  Download it again.") from None
    except LDMEngineError:
        raise
    except MemoryError:
        raise CheckpointError(
            f"`{path}` declares more data than fits in memory; it is damaged or hostile.\n"
            "  Download it again from a source you trust."
        ) from None
    except Exception as error:
        # A damaged pickle can make the machine inside `pickle` fail in any way it likes.
        raise CheckpointError(
            f"`{path}` cannot be read as a pickle ({type(error).__name__}: {error}); it is "
            "truncated or not a weights file.\n  Download it again."
        ) from error


def _refusal(path: Path, asked: str) -> str:
    if path.suffix == ".pdparams":
        remedy = "paddle.save(model.state_dict(), PATH)"
    else:
        remedy = 'torch.save({"state_dict": checkpoint["state_dict"]}, PATH)'
    return (
        f"`{path}` asks for `{asked}`; only arrays and plain containers are read from pickles, "
        "because anything else can run code.\n"
        "  If you trust where the file comes from, load it once with the library that wrote it and "
        f"save the weights alone: {remedy}"
    )


class _PlainUnpickler(pickle.Unpickler):
    """The restricted unpickler: a closed table of names instead of imports."""

    def __init__(self, file: IO[bytes], rebuild_tensor: RebuildTensor | None) -> None:
        # latin1 maps bytes to text one to one: needed for arrays pickled by Python 2.
        super().__init__(file, encoding="latin1")
        self._rebuild_tensor = rebuild_tensor

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # protocol 2 and older
        if module.startswith(("numpy.core.", "numpy._core.")):
            module = "numpy." + module.split(".", 2)[2]
        admitted = _ADMITTED.get((module, name))
        if admitted is None:
            admitted = self._torch_name(module, name)
        if admitted is None:
            raise _RefusedError(f"{module}.{name}")
        return admitted

    def _torch_name(self, module: str, name: str) -> Any:
        if self._rebuild_tensor is None:
            return None
        if module == "torch" and name in TORCH_STORAGES:
            return _StorageType(TORCH_STORAGES[name])
        if (module, name) == ("torch", "Size"):
            return tuple
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Admitted(self._tensor)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _Admitted(_parameter)
        return None

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", _StorageType() as kind, str(key), str(), int(count)) if count >= 0:
                return _Storage(kind.dtype, key, count)
        raise _RefusedError(f"a persistent object that is not a tensor storage: {pid!r:.80}")

    def _tensor(
        self, storage: Any, offset: Any, shape: Any, strides: Any, *_gradient_state: Any
    ) -> PendingTensor:
        if not isinstance(storage, _Storage) or self._rebuild_tensor is None:
            raise _RefusedError("a tensor without a storage")
        return PendingTensor(
            self._rebuild_tensor(
                storage.dtype,
                storage.key,
                storage.count,
                _size(offset),
                _sizes(shape),
                _sizes(strides),
            )
        )


class _Inert:
    """Base of the stand-ins: a pickle can neither set attributes on them nor give them a state."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> NoReturn:
        raise _RefusedError(f"a state for {type(self).__name__.lstrip('_')}")


class _Admitted(_Inert):
    """A function that a pickle may call."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class _StorageType(_Inert):
    __slots__ = ("dtype",)

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class _Storage(_Inert):
    __slots__ = ("count", "dtype", "key")

    def __init__(self, dtype: str, key: str, count: int) -> None:
        self.dtype, self.key, self.count = dtype, key, count


class _NDArrayType(_Inert):
    __slots__ = ()


class _PlainDict(dict[Any, Any]):
    """What `collections.OrderedDict` becomes; torch's `_metadata` attribute is dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _PendingDtype(_Inert):
    """`numpy.dtype(code)`, before and after its state with the byte order."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or code.lstrip("<>|=") not in PLAIN_DTYPES:
            raise _RefusedError(f"numpy.dtype({code!r:.40}), which is not a plain number")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:  # type: ignore[override]
        match state:
            case (int(), ("<" | ">" | "|" | "=") as order, None, None, None, *_):
                self.dtype = self.dtype.newbyteorder(order)
            case _:
                raise _RefusedError("a structured numpy.dtype")


class PendingTensor(_Inert):
    """A torch tensor; its values stay in the archive."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: StoredTensor) -> None:
        self.tensor = tensor


class PendingArray(_Inert):
    """A numpy array; its values arrive as the state."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: NDArray[Any] = np.empty(0, np.float32)

    def __setstate__(self, state: Any) -> None:  # type: ignore[override]
        match state:
            case (int(), tuple(shape), _PendingDtype() as pending, bool() | int() as fortran, raw):
                self.array = _array(raw, pending.dtype, _sizes(shape), "F" if fortran else "C")
            case _:
                raise _RefusedError("a numpy array with an unknown state")


def _array(raw: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    if isinstance(raw, str):  # the bytes of an array pickled by Python 2
        raw = raw.encode("latin1")
    if not isinstance(raw, bytes | bytearray):
        raise _RefusedError("a numpy array of Python objects")
    needed = math.prod(shape) * dtype.itemsize
    if len(raw) != needed:
        raise _DamagedError(
            f"an array declares shape {shape} of {dtype}, {needed} bytes, and brings {len(raw)}"
        )
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _reconstruct(subtype: Any, *_placeholder: Any) -> PendingArray:
    if not isinstance(subtype, _NDArrayType):
        raise _RefusedError("an array class other than numpy.ndarray")
    return PendingArray()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> PendingArray:
    """How numpy pickles contiguous arrays in protocol 5."""
    if not isinstance(dtype, _PendingDtype) or order not in ("C", "F"):
        raise _RefusedError("a numpy buffer of an unknown form")
    pending = PendingArray()
    pending.array = _array(raw, dtype.dtype, _sizes(shape), order)
    return pending


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    if not isinstance(dtype, _PendingDtype):
        raise _RefusedError("a numpy scalar of an unknown type")
    return _array(raw, dtype.dtype, (), "C").item()


def _dtype(code: Any, *_align_and_copy: Any) -> _PendingDtype:
    return _PendingDtype(code)


def _latin1_bytes(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 spells bytes: text to be encoded as latin1."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError("_codecs.encode with anything but latin1 text")
    return text.encode("latin1")


def _no_bytes(*arguments: Any) -> bytes:
    """How protocol 2 spells empty bytes: a call without arguments."""
    if arguments:
        raise _RefusedError("builtins.bytes with arguments")
    return b""


def _parameter(tensor: Any, *_gradient_state: Any) -> PendingTensor:
    if not isinstance(tensor, PendingTensor):
        raise _RefusedError("a parameter without a tensor")
    return tensor


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list):
        raise _RefusedError(f"a shape that is no tuple: {value!r:.40}")
    return tuple(_size(size) for size in value)


def _size(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise _RefusedError(f"a size that is no count: {value!r:.40}")
    return int(value)


_ADMITTED: dict[tuple[str, str], Any] = {
    ("builtins", "bytes"): _Admitted(_no_bytes),
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("builtins", "tuple"): tuple,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("collections", "OrderedDict"): _PlainDict,
    ("_codecs", "encode"): _Admitted(_latin1_bytes),
    ("numpy", "ndarray"): _NDArrayType(),
    ("numpy", "dtype"): _Admitted(_dtype),
    ("numpy.multiarray", "_reconstruct"): _Admitted(_reconstruct),
    ("numpy.multiarray", "scalar"): _Admitted(_scalar),
    ("numpy.numeric", "_frombuffer"): _Admitted(_frombuffer),
}
