from __future__ import annotations

import pytest

from ldm_engine.errors import InvalidArgumentError
from ldm_engine.machine.device import Device


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu", Device("cpu")),
        ("gpu", Device("gpu", 0)),
        ("gpu:0", Device("gpu", 0)),
        ("gpu:12", Device("gpu", 12)),
    ],
)
def test_names(name, expected):
    assert Device.parse(name) == expected
    assert Device.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "name", ["", "GPU:0", "gpu:", "gpu:-1", "gpu:1000", "gpu:٣", "cpu:0", "cuda", None]
)
def test_other_names_are_refused(name):
    with pytest.raises(InvalidArgumentError, match="cpu, or gpu:0"):
        Device.parse(name)
