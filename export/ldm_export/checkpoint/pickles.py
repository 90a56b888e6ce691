"""Reads pickles as data: arrays and plain containers are admitted, all else is refused by name.

Nothing a pickle names is ever imported. Each admitted name stands for an object of this module that
only records what it was given, and sizes are checked against the bytes that are really there. Any
other name becomes a token, which does nothing: training code keeps classes beside the weights. A
pickle that does more with a token than to keep it is refused.

The machine is the Python one of the standard library, because two habits of the C one cannot be
changed from outside: it takes memory for the highest memo index that a pickle names, and it hashes
any dict key, in which a tuple nested a million deep overflows the C stack. Weights are few opcodes
with large arguments, so that this costs milliseconds a file.
"""

from __future__ import annotations

import math
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from ldm_engine.errors import CheckpointError, LDMEngineError, UnsafePickleError

from .tensors import BFLOAT16, MAX_RANK, StoredTensor, is_count, is_shape

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
    """Carries the name that a pickle refers to, to where the file's name is known."""


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


def _refusal(path: Path, name: str) -> str:
    if path.suffix == ".pdparams":
        remedy = "paddle.save(model.state_dict(), PATH)"
    else:
        remedy = 'torch.save({"state_dict": checkpoint["state_dict"]}, PATH)'
    return (
        f"`{path}` asks for `{name}`; only arrays and plain containers are read from pickles, "
        "because anything else can run code.\n"
        "  If you trust where the file comes from, load it once with the library that wrote it and "
        f"save the weights alone: {remedy}"
    )


class _PlainUnpickler(pickle._Unpickler):
    """The restricted unpickler: a closed table of names instead of imports, and no hashing."""

    # opcode -> method
    dispatch: ClassVar = dict[int, Callable[[Any], None]](pickle._Unpickler.dispatch)

    # Of the base class, and unknown to type checkers.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readinto: Callable[[bytearray], int]

    def __init__(self, file: IO[bytes], rebuild_tensor: RebuildTensor | None) -> None:
        # latin1 maps bytes to text one to one: the names of a pickle that Python 2 wrote.
        super().__init__(file, encoding="latin1")
        self._rebuild_tensor = rebuild_tensor
        self._pickle_bytes = file.seek(0, os.SEEK_END)
        self._encodable_bytes = self._pickle_bytes
        file.seek(0)

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set_items(self.stack[-1], [key, value])

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        _set_items(self.stack[-1], items)

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_set_items({}, items))

    def _load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        if size > self._pickle_bytes:  # before memory is taken and cleared for it
            raise _DamagedError(f"it announces {size} bytes and has {self._pickle_bytes}")
        content = bytearray(size)
        self.readinto(content)
        self.append(content)

    def _refuse_set(self) -> None:
        raise _RefusedError("builtins.set")

    def _load_newobj(self) -> None:
        arguments, made_of = self.stack.pop(), self.stack.pop()
        self.append(_made(made_of, arguments))

    def _load_newobj_ex(self) -> None:
        del self.stack[-1]  # keywords, which nothing admitted takes
        self._load_newobj()

    def _instantiate(self, made_of: Any, arguments: Any) -> None:
        """What protocol 0 does instead of a call."""
        self.append(_made(made_of, arguments))

    def get_extension(self, code: int) -> NoReturn:
        """Numbers that a process gives to names; no file's can mean anything here."""
        raise _RefusedError(f"the extension code {code}")

    dispatch[pickle.NEWOBJ[0]] = _load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = _load_newobj_ex
    dispatch[pickle.SETITEM[0]] = _load_setitem
    dispatch[pickle.SETITEMS[0]] = _load_setitems
    dispatch[pickle.DICT[0]] = _load_dict
    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray8
    dispatch[pickle.EMPTY_SET[0]] = _refuse_set
    dispatch[pickle.ADDITEMS[0]] = _refuse_set
    dispatch[pickle.FROZENSET[0]] = _refuse_set

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # protocol 2 and older
        if module.startswith(("numpy.core.", "numpy._core.")):
            module = "numpy." + module.split(".", 2)[2]
        admitted = _ADMITTED.get((module, name))
        if (module, name) == ("_codecs", "encode"):
            admitted = _Admitted(self._latin1_bytes)
        if admitted is None:
            admitted = self._torch_name(module, name)
        return Token(f"{module}.{name}") if admitted is None else admitted

    def _torch_name(self, module: str, name: str) -> Any:
        if self._rebuild_tensor is None:
            return None
        if module == "torch" and name in TORCH_STORAGES:
            return _StorageType(TORCH_STORAGES[name])
        if (module, name) == ("torch", "Size"):
            return _Admitted(_sizes)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Admitted(self._tensor)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _Admitted(_parameter)
        return None

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", _StorageType() as kind, str(key), str(), int(count)) if count >= 0:
                return _Storage(kind.dtype, key, count)
        raise _RefusedError(f"a persistent object that is not a tensor storage: {_shown(pid)}")

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
                _shape(shape),
                _sizes(strides),
            )
        )

    def _latin1_bytes(self, text: Any, encoding: Any = "latin1") -> bytes:
        """How protocol 2 spells bytes: text to be encoded as latin1."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _RefusedError("_codecs.encode with anything but latin1 text")
        self._encodable_bytes -= len(text)
        if self._encodable_bytes < 0:  # one text, encoded again and again
            raise _DamagedError("it makes more bytes than it has")
        return text.encode("latin1")


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


class Token(_Inert):
    """A name that is not admitted: it may lie about, or be a key, and that is all."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def __call__(self, *arguments: Any) -> NoReturn:
        """Refuse: the pickle wants to run what it names."""
        raise _RefusedError(self.name)

    def __setstate__(self, state: Any) -> NoReturn:
        raise _RefusedError(self.name)


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
            raise _RefusedError(f"numpy.dtype({_shown(code)}), which is not a plain number")
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
                self.array = _array(raw, pending.dtype, _shape(shape), "F" if fortran else "C")
            case _:
                raise _RefusedError("a numpy array with an unknown state")


def _array(raw: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    if isinstance(raw, str):
        raise _RefusedError("a numpy array pickled by Python 2")
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
        raise _RefusedError(f"an array of the class {_shown(subtype)}")
    return PendingArray()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> PendingArray:
    """How numpy pickles contiguous arrays in protocol 5."""
    if not isinstance(dtype, _PendingDtype) or order not in ("C", "F"):
        raise _RefusedError("a numpy buffer of an unknown form")
    pending = PendingArray()
    pending.array = _array(raw, dtype.dtype, _shape(shape), order)
    return pending


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    if not isinstance(dtype, _PendingDtype):
        raise _RefusedError("a numpy scalar of an unknown type")
    return _array(raw, dtype.dtype, (), "C").item()


def _dtype(code: Any, *_align_and_copy: Any) -> _PendingDtype:
    return _PendingDtype(code)


def _no_bytes(*arguments: Any) -> bytes:
    """How protocol 2 spells empty bytes: a call without arguments."""
    if arguments:
        raise _RefusedError("builtins.bytes with arguments")
    return b""


def _ordered_dict(*arguments: Any) -> _PlainDict:
    """How all of Python 3 spells it: a call without arguments, then the entries."""
    if arguments:
        raise _RefusedError("collections.OrderedDict with arguments")
    return _PlainDict()


def _same_tuple(content: Any) -> tuple[Any, ...]:
    """How paddle.save spells a named tensor: `tuple((name, array))`."""
    if not isinstance(content, tuple):
        raise _RefusedError("builtins.tuple of anything but a tuple")
    return content


def _made(made_of: Any, arguments: Any) -> NoReturn:
    """How newer protocols make objects of classes; nothing that is admitted is made so."""
    raise _RefusedError(made_of.name if isinstance(made_of, Token) else _shown(made_of))


def _parameter(tensor: Any, *_gradient_state: Any) -> PendingTensor:
    if not isinstance(tensor, PendingTensor):
        raise _RefusedError("a parameter without a tensor")
    return tensor


def _set_items(target: Any, items: list[Any]) -> Any:
    """Put `items`, keys and values in turn, into the dict `target`; keys that are safe to hash."""
    if not isinstance(target, dict) or len(items) % 2:
        raise _RefusedError("dict entries without a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        number = isinstance(key, int) and key.bit_length() < 64
        if not number and not isinstance(key, str | bytes | Token):
            raise _RefusedError(f"a dict key that is neither text nor a number: {_shown(key)}")
        target[key] = value
    return target


def _shape(value: Any) -> tuple[int, ...]:
    if not is_shape(value):
        raise _DamagedError(f"an array declares an impossible shape: {_shown(value)}")
    return tuple(value)


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > MAX_RANK:
        raise _DamagedError(f"a tensor declares impossible sizes: {_shown(value)}")
    return tuple(_size(size) for size in value)


def _size(value: Any) -> int:
    if not is_count(value):
        raise _DamagedError(f"a tensor declares an impossible size: {_shown(value)}")
    return int(value)


def _shown(value: Any) -> str:
    """`value` for a message; of containers only the kind, for they may hold themselves."""
    if isinstance(value, str | bytes):
        return repr(value[:40])
    if isinstance(value, Token) or (isinstance(value, int) and value.bit_length() < 128):
        return repr(value)
    return f"a {type(value).__name__.lstrip('_')}"


_ADMITTED: dict[tuple[str, str], Any] = {
    ("builtins", "bytes"): _Admitted(_no_bytes),
    ("builtins", "tuple"): _Admitted(_same_tuple),
    ("collections", "OrderedDict"): _Admitted(_ordered_dict),
    ("numpy", "ndarray"): _NDArrayType(),
    ("numpy", "dtype"): _Admitted(_dtype),
    ("numpy.multiarray", "_reconstruct"): _Admitted(_reconstruct),
    ("numpy.multiarray", "scalar"): _Admitted(_scalar),
    ("numpy.numeric", "_frombuffer"): _Admitted(_frombuffer),
}
