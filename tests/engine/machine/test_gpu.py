from __future__ import annotations

import ctypes

import pytest

from ldm_engine.errors import RuntimeUnavailableError
from ldm_engine.machine import gpu
from ldm_engine.machine.gpu import GPU, find_gpu, find_gpus, read_driver

A10 = GPU(0, "NVIDIA A10", (8, 6), 24 << 30)
T4 = GPU(1, "Tesla T4", (7, 5), 16 << 30)


class Driver:
    """Answers as libcuda documents: 0 for success, results through pointers."""

    def __init__(self, gpus=(), init=0, name_status=0):
        self.gpus, self.init, self.name_status = gpus, init, name_status

    def cuInit(self, flags):  # noqa: N802
        return self.init

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device, index):  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name, size, device):  # noqa: N802
        name.value = self.gpus[device.value].name.encode()
        return self.name_status

    def cuDeviceTotalMem_v2(self, memory, device):  # noqa: N802
        memory._obj.value = self.gpus[device.value].memory_bytes
        return 0

    def cuDeviceGetAttribute(self, value, which, device):  # noqa: N802
        value._obj.value = self.gpus[device.value].compute_capability[{75: 0, 76: 1}[which]]
        return 0


def has_gpu():
    try:
        return bool(find_gpus())
    except RuntimeUnavailableError:
        return False


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_on_a_machine_without_one_the_error_names_what_is_missing():
    with pytest.raises(RuntimeUnavailableError, match="NVIDIA driver"):
        find_gpu(0)


def test_a_missing_library_is_named():
    def load(name):
        return ctypes.CDLL(f"{name}.nowhere")

    with pytest.raises(RuntimeUnavailableError, match=r"no NVIDIA driver \(libcuda.so.1"):
        read_driver(load)


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (Driver(init=100), "CUDA_VISIBLE_DEVICES"),
        (Driver(init=803), r"cuInit gives error 803.*nvidia-smi"),
        (Driver(), "finds no GPU"),
        (Driver([A10], name_status=1), "cuDeviceGetName gives error 1"),
    ],
)
def test_a_driver_without_a_gpu_or_with_a_fault_is_an_error(driver, message):
    with pytest.raises(RuntimeUnavailableError, match=message):
        read_driver(lambda name: driver)


def test_what_the_driver_reports():
    assert read_driver(lambda name: Driver([A10, T4])) == (A10, T4)
    assert A10.supports_bf16
    assert not T4.supports_bf16


def test_a_number_that_no_gpu_has(monkeypatch):
    monkeypatch.setattr(gpu, "find_gpus", lambda: (A10, T4))
    assert find_gpu(1) is T4
    with pytest.raises(RuntimeUnavailableError, match=r"no GPU 2; .*0 \(NVIDIA A10\), 1 \(Tesla"):
        find_gpu(2)
