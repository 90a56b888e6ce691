from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import subprocess
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm_engine.errors import CheckpointError, LDMEngineError, UnsafePickleError
from ldm_export.checkpoint.files import open_tensors


class Calls:
    """Pickles into a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Subclass(np.ndarray):
    pass


def written(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def torch_archive(path: Path, pickled: bytes, records: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in (records or {}).items():
            archive.writestr(f"archive/{name}", content)
    return path


HOSTILE = [
    ("posix.system", Calls(os.system, "touch {mark}")),
    ("builtins.eval", Calls(eval, "open({mark!r}, 'w')")),
    ("builtins.exec", Calls(exec, "open({mark!r}, 'w')")),
    ("builtins.getattr", Calls(getattr, os, "system")),
    ("builtins.__import__", Calls(__import__, "os")),
    (".Popen", Calls(subprocess.Popen, ["touch", "{mark}"])),
    ("builtins.bytearray", Calls(bytearray, 10)),
    ("numpy.load", Calls(np.load, "{mark}")),
    ("numpy.fromfile", Calls(np.fromfile, "{mark}")),
    ("Subclass", np.zeros(3).view(Subclass)),
    ("numpy.dtype('O8')", np.array([{}, None], dtype=object)),
    ("numpy.dtype('V8')", np.zeros(2, dtype=[("a", "f4"), ("b", "f4")])),
    ("numpy.dtype('U3')", np.array(["abc"])),
    ("builtins.set", {1, 2}),
    ("set", frozenset({1, 2})),
    ("builtins.list", Calls(list, [1])),
    ("builtins.dict", Calls(dict, [("a", 1)])),
    ("builtins.tuple of", Calls(tuple, [1])),
    ("collections.OrderedDict with arguments", Calls(OrderedDict, [["a", 1]])),
    ("a dict key that is neither text nor a number: a tuple", {("a",): 1}),
    ("a dict key that is neither text nor a number: 18446744073709551616", {1 << 64: 1}),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(("asked", "content"), HOSTILE, ids=[name for name, _ in HOSTILE])
@pytest.mark.parametrize("kind", ["pdparams", "bin"])
def test_hostile(tmp_path: Path, asked: str, content: Any, protocol: int, kind: str) -> None:
    mark = tmp_path / "mark"
    if isinstance(content, Calls):
        function, arguments = content.call
        if os in arguments:  # modules cannot be pickled: start from importing one
            arguments = (Calls(__import__, "os"), "system")
            asked = "builtins"
        arguments = [a.format(mark=str(mark)) if isinstance(a, str) else a for a in arguments]
        content = Calls(function, *arguments)
    pickled = pickle.dumps({"weight": content}, protocol=protocol)
    path = tmp_path / f"model.{kind}"
    if kind == "bin":
        torch_archive(path, pickled)
    else:
        path.write_bytes(pickled)
    with pytest.raises(UnsafePickleError) as caught:
        open_tensors(path)
    assert asked in str(caught.value)
    assert str(path) in str(caught.value)
    assert "save the weights alone" in str(caught.value)
    assert not mark.exists()


class Callback:
    """Stands for a class of a training library: pickled by its name, or called for an object."""


NAME = f"{Callback.__module__}.Callback"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["pdparams", "ckpt"])
def test_a_class_that_is_only_named(tmp_path: Path, protocol: int, kind: str) -> None:
    """Lightning keyed its callbacks' state by class in 2022, and names its class of parameters."""
    content = {
        "weight": np.arange(3.0),
        "callbacks": {Callback: {"best": 0.5}, "other": [Callback, os.system]},
        "hparams_type": Callback,
    }
    pickled = pickle.dumps({"state_dict": {"weight": content.pop("weight")}} | content, protocol)
    path = tmp_path / f"model.{kind}"
    if kind == "ckpt":
        torch_archive(path, pickled)
    else:
        path.write_bytes(pickled)
    assert open_tensors(path)["weight"].read().tolist() == [0, 1, 2]


BUILD = b"}X\x01\x00\x00\x00aK\x01sb."


@pytest.mark.parametrize(
    "used",
    [
        b"(K\x01tR.",  # called
        b")R.",
        b")\x81.",  # __new__
        b")}\x92.",
        BUILD,  # given a state
        b"}(X\x01\x00\x00\x00aK\x01ub.",
        b"K\x01K\x02s.",  # given entries
        b"0(i" + NAME.replace(".Callback", "\nCallback\n").encode() + b".",  # protocol 0's calls
        b"0(c" + NAME.replace(".Callback", "\nCallback\n").encode() + b"o.",
        b"K\x01a.",
    ],
)
def test_a_class_that_is_used_is_refused(tmp_path: Path, used: bytes) -> None:
    named = b"\x80\x02c" + NAME.replace(".Callback", "\nCallback\n").encode()
    (path := tmp_path / "model.ckpt").write_bytes(named + used)
    with pytest.raises(CheckpointError) as caught:
        open_tensors(path)
    if used not in (b"K\x01K\x02s.", b"K\x01a."):  # which no pickler writes
        assert isinstance(caught.value, UnsafePickleError)
        assert NAME in str(caught.value)
        assert 'torch.save({"state_dict": checkpoint["state_dict"]}, PATH)' in str(caught.value)


def test_a_class_among_the_weights(tmp_path: Path) -> None:
    for content in ({"state_dict": {"a": Callback}}, Callback):
        with pytest.raises(CheckpointError, match=r"no array|not a state dict"):
            open_tensors(written(tmp_path / "model.pdparams", content))


def test_extension_codes(tmp_path: Path) -> None:
    import copyreg

    copyreg.add_extension("os", "system", 4711)
    try:
        (path := tmp_path / "model.pdparams").write_bytes(b"\x80\x02\x83\x67\x12.")
        with pytest.raises(UnsafePickleError, match="the extension code 4711"):
            open_tensors(path)
    finally:
        copyreg.remove_extension("os", "system", 4711)


@pytest.mark.parametrize(
    "pickled",
    [
        # A state for each admitted thing: nothing of ours can be rewritten by a pickle.
        b"cnumpy\nndarray\n}X\x01\x00\x00\x00ak1sb.",
        b"c_codecs\nencode\n}b.",
        b"cnumpy\ndtype\n}b.",
        b"ccollections\nOrderedDict\n}X\x05\x00\x00\x00itemsK\x01sb.",
        b"cbuiltins\ndict\n}X\x05\x00\x00\x00itemsK\x01sb.",
        # Calls of admitted things with arguments that they never have.
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nlist\n(K\x00tX\x01\x00\x00\x00btR.",
        b"cnumpy\ndtype\n(X\x01\x00\x00\x00OtR.",
        b"cnumpy\nndarray\n(K\x00tR.",
        # Persistent ids, which only torch archives have, in forms that torch does not write.
        b"X\x01\x00\x00\x00aQ.",
        b"(X\x07\x00\x00\x00storageX\x01\x00\x00\x00aX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
    ],
)
@pytest.mark.parametrize("archive", [True, False])
def test_odd_opcodes(tmp_path: Path, pickled: bytes, archive: bool) -> None:
    pickled = b"\x80\x02" + pickled
    if archive:
        path = torch_archive(tmp_path / "model.bin", pickled)
    else:
        (path := tmp_path / "model.pdparams").write_bytes(pickled)
    with pytest.raises(CheckpointError):
        open_tensors(path)


@given(st.binary(max_size=200))
def test_random_bytes_never_do_anything_else(tmp_path_factory: Any, noise: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise"
    for content in (noise, b"\x80\x04" + noise, b"PK\x03\x04" + noise):
        path.write_bytes(content)
        with contextlib.suppress(LDMEngineError):
            open_tensors(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", ">f4"])
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int, dtype: str) -> None:
    rows = np.arange(12, dtype=dtype).reshape(3, 4)
    content = {
        "rows": rows,
        "columns": np.asfortranarray(rows),
        "slice": rows[:, ::2],
        "scalar": np.array(2.5, dtype=dtype),
        "empty": np.zeros((0, 3), dtype=dtype),
        "StructuredToParameterName@@": {"rows": "linear_0.w_0"},
    }
    tensors = open_tensors(written(tmp_path / "model.pdparams", content, protocol))
    del content["StructuredToParameterName@@"]
    assert sorted(tensors) == sorted(content)
    for name, expected in content.items():
        value = tensors[name].read()
        assert value.dtype == np.float32
        assert value.flags.c_contiguous
        assert value.flags.writeable
        np.testing.assert_array_equal(value, expected.astype(np.float32), err_msg=name)


def test_module_names_of_both_numpys(tmp_path: Path) -> None:
    pickled = pickle.dumps({"a": np.arange(3.0)}, protocol=2)
    for old, new in ((b"numpy._core.", b"numpy.core."), (b"numpy.core.", b"numpy._core.")):
        (path := tmp_path / "model.pdparams").write_bytes(pickled.replace(old, new))
        np.testing.assert_array_equal(open_tensors(path)["a"].read(), [0, 1, 2])


def test_what_paddle_saves(tmp_path: Path) -> None:
    paddle = pytest.importorskip("paddle")

    layer = paddle.nn.Linear(3, 2)
    expected = {name: value.numpy() for name, value in layer.state_dict().items()}
    for protocol in (2, 3, 4):
        path = tmp_path / f"{protocol}.pdparams"
        paddle.save(layer.state_dict(), str(path), protocol=protocol)
        for name, tensor in open_tensors(path).items():
            np.testing.assert_array_equal(tensor.read(), expected[name])
    # Outside a pure state dict tensors become (name, array); bfloat16 becomes uint16.
    half = paddle.to_tensor([1.5, -2.0]).astype("bfloat16")
    mixed = {"half": half, "weight": layer.weight, "name": [1]}
    paddle.save(mixed, str(tmp_path / "mixed.pdparams"))
    with pytest.raises(CheckpointError, match="'name'`, which is no array"):
        open_tensors(tmp_path / "mixed.pdparams")
    del mixed["name"]
    mixed["nested"] = layer.bias
    paddle.save(mixed, str(tmp_path / "mixed.pdparams"))
    tensors = open_tensors(tmp_path / "mixed.pdparams")
    np.testing.assert_array_equal(tensors["half"].read(), [1.5, -2.0])
    np.testing.assert_array_equal(tensors["weight"].read(), expected["weight"])


def test_sliced_arrays_of_old_protocols(tmp_path: Path) -> None:
    """What paddle.save does to arrays over 1 GiB in protocols 2 and 3, in small."""
    whole = np.arange(10, dtype=np.float32)
    content = {
        "big@@.0": whole[:6],
        "big@@.1": whole[6:],
        "UnpackBigParamInfor@@": {"big": {"OriginShape": (2, 5), "slices": ["big@@.0", "big@@.1"]}},
    }
    tensors = open_tensors(written(tmp_path / "model.pdparams", content, 2))
    assert list(tensors) == ["big"]
    np.testing.assert_array_equal(tensors["big"].read(), whole.reshape(2, 5))
    content["UnpackBigParamInfor@@"]["big"]["slices"].append("big@@.2")
    with pytest.raises(CheckpointError, match="do not fit together"):
        open_tensors(written(tmp_path / "model.pdparams", content, 2))


@pytest.mark.parametrize(
    "table",
    [
        ["big"],
        {"big": 3},
        {3: {"OriginShape": (3,), "slices": ["a"]}},
        {"big": {"OriginShape": (3,), "slices": "a"}},
        {"big": {"OriginShape": (3,), "slices": [("a",)]}},
        {"big": {"OriginShape": (1 << 70, 0), "slices": ["a"]}},
        {"big": {"OriginShape": (3,), "slices": []}},
    ],
)
def test_bad_tables_of_slices(tmp_path: Path, table: Any) -> None:
    content = {"a": np.arange(3.0), "UnpackBigParamInfor@@": table}
    with pytest.raises(CheckpointError, match="is damaged"):
        open_tensors(written(tmp_path / "model.pdparams", content))


def text(content: str) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content.encode()


DEEP = b")" + b"\x85" * 200_000  # a tuple in a tuple in a tuple …: hashing it ends the process
LAUGHS: list[Any] = []
for _ in range(40):
    LAUGHS = [LAUGHS] * 10  # a few hundred bytes; 10^40 brackets if it were shown

BOMBS = {
    "key": b"}" + DEEP + b"Ns.",
    "keys": b"}(" + DEEP + b"Nu.",
    "dict": b"(" + DEEP + b"Nd.",
    "set": b"\x8f(" + DEEP + b"\x90.",
    "frozenset": b"(" + DEEP + b"\x91.",
    "value": b"}" + text("a") + DEEP + b"s.",
    "persistent id": DEEP + b"Q.",
    "dtype": b"cnumpy\ndtype\n" + DEEP + b"\x85R.",
    "slices": b"}" + text("UnpackBigParamInfor@@") + b"}" + text("a") + b"}("
    # {"OriginShape": (), "slices": [a deep tuple]}
    + text("OriginShape") + b")" + text("slices") + b"](" + DEEP + b"eusss.",
    "laughing persistent id": pickle.dumps(LAUGHS, 2)[2:-1] + b"Q.",
    "laughing dtype": pickle.dumps(Calls(np.dtype, LAUGHS), 2)[2:],
    "laughing value": pickle.dumps({"a": LAUGHS}, 2)[2:],
    "memo": b"}r" + struct.pack("<I", 2**31 - 1) + b".",
    "long memo": b"}p99999999999\n.",
    "bytearray": b"\x96" + struct.pack("<Q", 1 << 33) + b".",
    "encoded again and again": b"(" + text("x" * 100_000) + b"q\0"
    + b"c_codecs\nencode\nh\0\x85R" * 10_000 + b"l.",
}  # fmt: skip


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path: Path, name: str, archive: bool) -> None:
    """Neither the process nor its memory is at the mercy of a small file."""
    pickled = b"\x80\x05" + BOMBS[name]
    if archive:
        path = torch_archive(tmp_path / "model.bin", pickled)
    else:
        (path := tmp_path / "model.pdparams").write_bytes(pickled)
    tracemalloc.start()
    try:
        with contextlib.suppress(CheckpointError):
            assert open_tensors(path) == {}, "a memo index alone harms nobody"
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A tuple of one, for which one byte of a pickle suffices, takes 64 bytes.
    assert peak_bytes < (1 << 20) + 200 * len(pickled)


def test_large_arrays_are_read_at_once(tmp_path: Path) -> None:
    """As many tensors as the UNet has, and one large array that is in memory only once."""
    content = {f"weight_{i}": np.full((3, 4), i, np.float32) for i in range(1000)}
    content["large"] = np.zeros((5_000_000,), np.float32)
    path = written(tmp_path / "model.pdparams", content)
    tracemalloc.start()
    tensors = open_tensors(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(tensors) == 1001
    assert peak_bytes < 1.3 * content["large"].nbytes


def test_declared_sizes_are_checked(tmp_path: Path) -> None:
    pickled = pickle.dumps({"a": np.arange(3, dtype=np.float32)}, protocol=4)
    assert pickled.count(b"K\x03\x85") == 1
    (path := tmp_path / "model.pdparams").write_bytes(
        pickled.replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85")
    )
    with pytest.raises(CheckpointError, match="8589934588 bytes, and brings 12"):
        open_tensors(path)
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x")
    with pytest.raises(CheckpointError):
        open_tensors(path)


class TestTorch:
    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        self.torch = pytest.importorskip("torch")

    def saved(self, tmp_path: Path, content: Any) -> Path:
        self.torch.save(content, tmp_path / "model.bin")
        return tmp_path / "model.bin"

    def test_views_dtypes_and_parameters(self, tmp_path: Path) -> None:
        torch = self.torch
        base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
        content = {
            "base": base,
            "transposed": base.T,
            "slice": base[1:3, ::2],
            "row": base[2],
            "scalar": torch.tensor(1.25),
            "empty": torch.zeros(0, 3),
            "parameter": torch.nn.Parameter(base + 1),
            "ids": torch.arange(3),
        }
        for dtype in ("float16", "bfloat16", "float64"):
            content[dtype] = base.to(getattr(torch, dtype)) / 8
        tensors = open_tensors(self.saved(tmp_path, OrderedDict(content)))
        assert sorted(tensors) == sorted(content)
        assert not tensors["ids"].is_floating
        for name, expected in content.items():
            value = tensors[name].read()
            assert value.flags.c_contiguous
            assert value.flags.writeable
            np.testing.assert_array_equal(value, expected.detach().float().numpy(), err_msg=name)

    def test_module_state_with_metadata(self, tmp_path: Path) -> None:
        state = self.torch.nn.Sequential(self.torch.nn.Linear(2, 3)).state_dict()
        assert hasattr(state, "_metadata")
        assert sorted(open_tensors(self.saved(tmp_path, state))) == ["0.bias", "0.weight"]

    def test_big_endian_and_compressed_archives(self, tmp_path: Path) -> None:
        value = self.torch.arange(5, dtype=self.torch.float32)
        with zipfile.ZipFile(self.saved(tmp_path, {"a": value})) as source:
            records = {name: source.read(name) for name in source.namelist()}
        target = tmp_path / "other.bin"
        with zipfile.ZipFile(target, "w") as archive:
            for name, content in records.items():
                if name.endswith("/data/0"):
                    content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
                archive.writestr(name, b"big" if name.endswith("byteorder") else content)
        np.testing.assert_array_equal(open_tensors(target)["a"].read(), value.numpy())
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in records.items():
                archive.writestr(name, content)
        with pytest.raises(CheckpointError, match="compressed"):
            open_tensors(target)

    def test_not_a_state_dict(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="holds a list"):
            open_tensors(self.saved(tmp_path, [self.torch.zeros(1)]))
        with pytest.raises(CheckpointError, match="'step'`, which is no tensor"):
            open_tensors(self.saved(tmp_path, {"step": 3}))

    def test_legacy_format(self, tmp_path: Path) -> None:
        path = tmp_path / "model.bin"
        self.torch.save({"a": self.torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
        with pytest.raises(CheckpointError, match=r"torch before 1\.6"):
            open_tensors(path)

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_truncated(self, tmp_path: Path, share: float) -> None:
        path = self.saved(tmp_path, {"a": self.torch.zeros(1000)})
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(CheckpointError, match="truncated"):
            open_tensors(path)

    @pytest.mark.parametrize(
        ("count", "offset", "shape", "stride"),
        [(4, 1, 4, 1), (4, 0, 2, 4), (4, 0, 1 << 40, 0), (1 << 40, 0, 4, 1), (5, 0, 5, 1)],
    )
    def test_views_outside_their_storage(
        self, tmp_path: Path, count: int, offset: int, shape: int, stride: int
    ) -> None:
        stream = io.BytesIO()
        pickler = pickle.Pickler(stream, protocol=2)
        storage = ("storage", self.torch.FloatStorage, "0", "cpu", count)
        marker = Calls(None)
        pickler.persistent_id = lambda value: storage if value is marker else None
        rebuild = self.torch._utils._rebuild_tensor_v2
        arguments = (marker, offset, (shape,), (stride,), False, OrderedDict())
        pickler.dump({"a": Calls(rebuild, *arguments)})
        path = torch_archive(tmp_path / "model.bin", stream.getvalue(), {"data/0": b"\0" * 16})
        with pytest.raises(CheckpointError, match=r"damaged|truncated"):
            open_tensors(path)

    @pytest.mark.parametrize(
        ("shape", "strides"),
        [
            ((1,) * 100, (1,) * 100),
            ((1 << 70, 0), (1, 1)),
            ((1 << 40, 1 << 40, 0), (1, 1, 1)),
            ((1.5,), (1,)),
            ("12", (1, 1)),
            ((1, 1), (1 << 70, 1)),
            ((1,), LAUGHS),
        ],
    )
    def test_impossible_shapes(self, tmp_path: Path, shape: Any, strides: Any) -> None:
        stream = io.BytesIO()
        pickler = pickle.Pickler(stream, protocol=2)
        marker = Calls(None)
        storage = ("storage", self.torch.FloatStorage, "0", "cpu", 4)
        pickler.persistent_id = lambda value: storage if value is marker else None
        rebuild = self.torch._utils._rebuild_tensor_v2
        pickler.dump({"a": Calls(rebuild, marker, 0, shape, strides, False, OrderedDict())})
        path = torch_archive(tmp_path / "model.bin", stream.getvalue(), {"data/0": b"\0" * 16})
        with pytest.raises(CheckpointError, match=r"damaged: .* declares .*impossible"):
            open_tensors(path)

    def test_missing_record(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(self.saved(tmp_path, {"a": self.torch.zeros(2)})) as source:
            (name,) = (name for name in source.namelist() if name.endswith("data.pkl"))
            path = torch_archive(tmp_path / "other.bin", source.read(name))
        with pytest.raises(CheckpointError, match="no record `archive/data/0`"):
            open_tensors(path)
