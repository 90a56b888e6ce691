"""The NVIDIA GPUs of this machine, as its driver reports them; no runtime is imported."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import RuntimeUnavailableError

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# cuda.h has these; there is no header here to read them from.
_NO_DEVICE = 100
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_BF16_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class GPU:
    """One GPU; `index` is its number among those that this process may see."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int

    @property
    def supports_bf16(self) -> bool:
        """Whether it has instructions for bfloat16."""
        return self.compute_capability >= _BF16_CAPABILITY


def find_gpu(index: int) -> GPU:
    """The GPU of that number.

    Raises:
        RuntimeUnavailableError: if there is none, saying what is missing.
    """
    gpus = find_gpus()
    if index >= len(gpus):
        listing = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus)
        raise RuntimeUnavailableError(f"there is no GPU {index}; this machine has {listing}")
    return gpus[index]


@functools.cache
def find_gpus() -> tuple[GPU, ...]:
    """All GPUs, at least one, in the driver's order, which CUDA_VISIBLE_DEVICES changes.

    Raises:
        RuntimeUnavailableError: if there is no driver or no GPU.
    """
    return read_driver(ctypes.CDLL)


def read_driver(load: Callable[[str], Any]) -> tuple[GPU, ...]:
    """The GPUs reported by the driver library, which `load` opens by its name.

    Raises:
        RuntimeUnavailableError: if there is no driver or no GPU.
    """
    try:
        driver = load(_DRIVER)
    except OSError as error:
        raise RuntimeUnavailableError(
            f"this machine has no NVIDIA driver ({_DRIVER} cannot be opened)"
        ) from error
    status = driver.cuInit(0)
    if status == _NO_DEVICE:
        raise RuntimeUnavailableError(
            "the NVIDIA driver finds no GPU, or CUDA_VISIBLE_DEVICES hides it"
        )
    _require(status, "cuInit")
    count = ctypes.c_int()
    _require(driver.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    if count.value == 0:
        raise RuntimeUnavailableError("the NVIDIA driver finds no GPU")
    return tuple(_read(driver, index) for index in range(count.value))


def _read(driver: Any, index: int) -> GPU:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    _require(driver.cuDeviceGet(ctypes.byref(device), index), "cuDeviceGet")
    _require(driver.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")
    _require(driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device), "cuDeviceTotalMem_v2")
    major, minor = (
        _attribute(driver, device, which) for which in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR)
    )
    return GPU(index, name.value.decode(), (major, minor), memory.value)


def _attribute(driver: Any, device: ctypes.c_int, which: int) -> int:
    value = ctypes.c_int()
    _require(driver.cuDeviceGetAttribute(ctypes.byref(value), which, device), "an attribute")
    return value.value


def _require(status: int, call: str) -> None:
    if status:
        raise RuntimeUnavailableError(
            f"the NVIDIA driver does not work ({call} gives error {status}; see `nvidia-smi`)"
        )
