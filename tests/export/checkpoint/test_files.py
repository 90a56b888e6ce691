from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm_engine.errors import CheckpointError
from ldm_export.checkpoint import check_tensors
from ldm_export.checkpoint.files import open_tensors
from ldm_export.checkpoint.tensors import FINITE_CHUNK_VALUES


def safetensors_file(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git-lfs pointer"),
        (b"<!doctype html><html>Sorry</html>" * 9, "not a weights file"),
        (b"PK\x03\x04", "truncated"),
        (b"\x80\x04\x95", "cannot be read as a pickle"),
        (b"\x10\0\0\0\0\0\0\0{", "truncated"),
        (b"\x02\0", "truncated"),
    ],
)
def test_no_weights_file(tmp_path: Path, content: bytes, message: str) -> None:
    (path := tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_tensors(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_tensors(tmp_path / "model.safetensors")


def test_safetensors(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    content = {
        "f32": np.arange(6, dtype=np.float32).reshape(2, 3),
        "f16": np.arange(6, dtype=np.float16),
        "f64": np.array(0.5),
        "empty": np.zeros((0, 2), np.float32),
        "ids": np.arange(3),
    }
    library.save_file(content, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tensors = open_tensors(tmp_path / "model.safetensors")
    assert sorted(tensors) == sorted(content)
    for name, expected in content.items():
        np.testing.assert_array_equal(tensors[name].read(), expected.astype(np.float32))


def framed(path: Path, header_bytes: int) -> Path:
    """A safetensors file of one tensor; blanks fill its header up to that length."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
    data = np.array([1.5, -2], "<f4").tobytes()
    return safetensors_file(path, text.ljust(header_bytes).encode(), data)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.ckpt"])
def test_any_length_of_a_safetensors_header(tmp_path: Path, name: str) -> None:
    """The file begins with that length, which may spell the first bytes of a pickle or of a zip."""
    library = pytest.importorskip("safetensors.numpy")
    magic = [
        int.from_bytes(start, "little")
        for start in (b"PK", b"\x80\x02", b"\x80\x04\x95", b"\x1f\x8b")
    ]
    for header_bytes in (*range(0x60, 0xA0), *range(0x0280 - 8, 0x0280 + 8), *magic):
        path = framed(tmp_path / name, header_bytes)
        assert library.load_file(path)["a"].tolist() == [1.5, -2]
        assert open_tensors(path)["a"].read().tolist() == [1.5, -2], header_bytes
        path.write_bytes(path.read_bytes()[:header_bytes])
        with pytest.raises(CheckpointError, match="truncated: its header alone"):
            open_tensors(path)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"GGUF\3\0\0\0", "a GGUF file"),
        (b"\x1f\x8b\x08\0", "compressed by gzip"),
        (b"(\xb5/\xfd", "compressed by Zstandard"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"<!doctype html><html>Sorry</html>", "a web page"),
        (b"Not found", "it is none of"),
        (b'{"error": "Not found"}', "it is none of"),
    ],
)
def test_what_else_a_file_may_be(tmp_path: Path, start: bytes, kind: str) -> None:
    (path := tmp_path / "model.safetensors").write_bytes(start + bytes(100))
    with pytest.raises(CheckpointError, match=f"is not a weights file: .*{kind}"):
        open_tensors(path)


def test_bfloat16_at_an_odd_offset(tmp_path: Path) -> None:
    bits = (np.array([1.5, -0.25], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    header = {
        "pad": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "half": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [1, 5]},
    }
    path = safetensors_file(tmp_path / "model.safetensors", header, b"\0" + bits)
    value = open_tensors(path)["half"].read()
    assert value.flags.aligned
    np.testing.assert_array_equal(value, [[1.5], [-0.25]])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "truncated"),
        ({"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 4]}, "damaged"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}, "damaged"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}, "damaged"),
        ({"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}, "unknown way"),
        ({"dtype": "F32", "shape": [1 << 70, 0], "data_offsets": [0, 0]}, "damaged"),
        ({"dtype": "F32", "shape": [1 << 40, 1 << 40, 0], "data_offsets": [0, 0]}, "damaged"),
        ({"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}, "damaged"),
        ({"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}, "damaged"),
        ({"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}, "damaged"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "damaged"),
        ({"dtype": "F32", "shape": [1], "data_offsets": "04"}, "damaged"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, float("inf")]}, "damaged"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0]}, "unknown way"),
        ({"dtype": "F32"}, "unknown way"),
        ("text", "unknown way"),
    ],
)
def test_bad_safetensors_entries(tmp_path: Path, entry: Any, message: str) -> None:
    path = safetensors_file(tmp_path / "model.safetensors", {"a": entry}, b"\0" * 4)
    with pytest.raises(CheckpointError, match=message):
        open_tensors(path)


@pytest.mark.parametrize("header", [b"{nonsense", b'{"a":' + b"[" * 1_000_000])
def test_bad_safetensors_header(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(CheckpointError, match="not JSON"):
        open_tensors(safetensors_file(tmp_path / "model.safetensors", header))


def test_truncated_weights_of_a_checkpoint(diffusers_folder: Path) -> None:
    from ldm_export.checkpoint import open_checkpoint

    path = diffusers_folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    checkpoint = open_checkpoint(diffusers_folder)
    with pytest.raises(CheckpointError, match="truncated") as caught:
        checkpoint.load("unet")
    assert str(path) in str(caught.value)


def test_check_tensors_lists_everything_at_once() -> None:
    expected = {"a": (2, 3), "b": (4,), "c": (1,)} | {f"m{i:02}": (1,) for i in range(30)}
    state = {"a": np.zeros((3, 2)), "b": np.zeros(4), "x": np.zeros(1), "y": np.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        check_tensors("unet", state, expected)
    text = str(caught.value)
    assert "31 missing" in text
    assert "    c\n" in text
    assert "    m18\n" in text
    assert "m19" not in text
    assert "… and 11 more" in text
    assert "2 unexpected:\n    x\n    y\n" in text
    assert "1 mis-shaped:\n    a is [3, 2], the config needs [2, 3]\n" in text
    assert "b" not in [line.strip() for line in text.splitlines()]
    check_tensors("unet", {"a": np.zeros((2, 3))}, {"a": (2, 3)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_check_tensors_names_what_is_not_finite(bad: float) -> None:
    state = {
        "huge": np.full(5, -3.4e38, np.float32),  # finite, and so large that sums overflow
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(bad, np.float32),
        "last": np.zeros((3, FINITE_CHUNK_VALUES), np.float32),
        "turned": np.zeros((4, 5), np.float32).T,
    }
    expected = {name: value.shape for name, value in state.items()}
    state["last"][-1, -1] = state["turned"][2, 3] = bad
    with pytest.raises(CheckpointError) as caught:
        check_tensors("unet", state, expected | {"gone": (1,)})
    text = str(caught.value)
    assert "1 missing:\n    gone\n" in text
    assert "3 with NaN or infinity:\n    last\n    scalar\n    turned\n" in text
