"""What is OpenVINO's own: compiled models, kept in memory and in the cache folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldm_engine import open_bundle
from ldm_engine.bundle.bundle import FileInfo
from ldm_engine.bundle.manifest import save_manifest
from ldm_engine.machine.cpu import supports_bf16
from ldm_engine.machine.files import hash_file
from ldm_engine.runtimes import base, by_shape
from ldm_engine.runtimes import openvino as module
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.choice import RUNTIMES

RUNTIME = RUNTIMES["openvino"]
OPTIONS = RuntimeOptions(threads=1)
DATA = "text_encoder/openvino_model.bin"

#: Runs the text encoder with every damage done to the compiled model that the cache holds.
#: Arguments: bundle, cache folder, seed. Prints a line for each: "fine" or "wrong".
DAMAGE = """
import os, re, sys
from pathlib import Path
import numpy as np
from ldm_engine import open_bundle
from ldm_engine.runtimes.choice import RUNTIMES, RuntimeOptions
bundle, cache = open_bundle(sys.argv[1]), Path(sys.argv[2])
os.environ["LDM_ENGINE_CACHE"] = str(cache)

def run():
    program = RUNTIMES["openvino"].open(bundle, "text_encoder", RuntimeOptions(threads=1))
    model = bundle.model
    shape = (1, model.token_length, model.text_kv_width)
    program.allocate({"input_ids": (1, model.token_length), "text_kv": shape})
    program.inputs["input_ids"][:] = np.arange(model.token_length)
    program.run()
    return program.outputs["text_kv"].copy()

expected = run()
(blob,) = cache.rglob("*.blob")
whole = blob.read_bytes()
stream = np.random.RandomState(int(sys.argv[3]))
damages = {
    "empty": b"", "one byte": whole[:1], "header alone": whole[:100],
    "half": whole[: len(whole) // 2],
    "a page short": whole[:-4096], "a byte short": whole[:-1], "longer": whole + bytes(5000),
    "zeros": bytes(len(whole)), "garbage": stream.bytes(len(whole)), "text": b"{}" * 1000,
    "zeros at the end": whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2),
    "another version": re.sub(rb"\\b20\\d\\d[.]", b"2019.", whole[:1000]) + whole[1000:],
}
for i in range(10):
    content = bytearray(whole)
    content[stream.randint(len(content))] ^= 1 << stream.randint(8)
    damages[f"bit {i}"] = bytes(content)
for kind, content in damages.items():
    print(kind, end="", flush=True)  # if this is the last line, it crashed
    blob.write_bytes(content)
    print(" fine" if np.array_equal(run(), expected) else " wrong", flush=True)
    blob.unlink(missing_ok=True)
for kind, make in (("folder", blob.mkdir), ("link", lambda: blob.symlink_to("/nowhere/at/all"))):
    print(kind, end="", flush=True)
    make()
    print(" fine" if np.array_equal(run(), expected) else " wrong", flush=True)
    blob.rmdir() if kind == "folder" else blob.unlink(missing_ok=True)
"""

#: Fills the cache with room for files of so many bytes. Arguments: bundle, bytes.
FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
import numpy as np
from ldm_engine import open_bundle
from ldm_engine.runtimes.choice import RUNTIMES, RuntimeOptions
bundle = open_bundle(sys.argv[1])
program = RUNTIMES["openvino"].open(bundle, "text_encoder", RuntimeOptions(threads=1))
model = bundle.model
shape = (1, model.token_length, model.text_kv_width)
program.allocate({"input_ids": (1, model.token_length), "text_kv": shape})
program.inputs["input_ids"][:] = np.arange(model.token_length)
program.run()
print(repr(float(program.outputs["text_kv"].astype(np.float64).sum())))
"""


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder for one test."""
    monkeypatch.setenv("LDM_ENGINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def open_text_encoder(bundle, count=1):
    program, model = RUNTIME.open(bundle, "text_encoder", OPTIONS), bundle.model
    tokens = model.token_length
    program.allocate(
        {"input_ids": (count, tokens), "text_kv": (count, tokens, model.text_kv_width)}
    )
    return program


def encode(program):
    """The output for fixed token ids, copied."""
    program.inputs["input_ids"][:] = np.arange(program.inputs["input_ids"].shape[1])
    program.run()
    return program.outputs["text_kv"].copy()


def compiled(program):
    """The one compiled model that the program holds."""
    (model,) = program._models._entries.values()
    return model


def from_cache(program):
    return bool(compiled(program).get_property("LOADED_FROM_CACHE"))


@pytest.fixture(scope="module")
def expected(tiny_onnx_bundle):
    """What the text encoder gives without a cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LDM_ENGINE_CACHE", "off")
        return encode(open_text_encoder(tiny_onnx_bundle))


# In memory


def test_the_library_gets_the_precision(tiny_onnx_bundle):
    for precision, wanted in (("fp32", "f32"), ("bf16", "bf16")):
        if precision == "bf16" and not supports_bf16():
            continue
        options = RuntimeOptions(precision=precision, threads=1)
        for name, shapes in (
            ("text_encoder", {"input_ids": (1, tiny_onnx_bundle.model.token_length)}),
            ("time_encoder", {"timesteps": (2,)}),
        ):
            program = RUNTIME.open(tiny_onnx_bundle, name, options)
            given = program._models.get(shapes).get_property("INFERENCE_PRECISION_HINT")
            assert given.get_type_name() == ("f32" if name == "time_encoder" else wanted)


def test_int8_runs_the_rest_in_bf16_only_where_the_cpu_has_it(monkeypatch):
    options = RuntimeOptions(precision="int8", threads=1)
    for supported, wanted in ((True, "bf16"), (False, "f32")):
        for place in (module, base):
            monkeypatch.setattr(place, "supports_bf16", lambda s=supported: s)
        for program in ("unet", "text_encoder", "vae_decoder"):
            assert module._config(program, options)["INFERENCE_PRECISION_HINT"] == wanted
        assert module._config("time_encoder", options)["INFERENCE_PRECISION_HINT"] == "f32"


def time_shift(bundle, program, count):
    program.allocate({"timesteps": (count,), "time_shift": (count, bundle.model.time_shift_width)})
    program.inputs["timesteps"][:] = np.arange(count)
    program.run()
    return program.outputs["time_shift"].copy()


def test_the_latest_shapes_are_kept_and_no_more(tiny_onnx_bundle):
    program = RUNTIME.open(tiny_onnx_bundle, "time_encoder", OPTIONS)
    first = time_shift(tiny_onnx_bundle, program, 1)
    for count in (2, 3, 1, 4, 5, 6):
        time_shift(tiny_onnx_bundle, program, count)
        assert len(program._models._entries) <= by_shape._MAX_ENTRIES
    kept = [dict(key)["timesteps"] for key in program._models._entries]
    assert kept == [(1,), (4,), (5,), (6,)]  # the one used again stayed, 2 and 3 went
    for count in (1, 2, 6):
        np.testing.assert_allclose(
            time_shift(tiny_onnx_bundle, program, count)[:1], first, atol=1e-5
        )


def test_of_large_models_the_latest_alone_is_kept(tiny_onnx_bundle, monkeypatch):
    monkeypatch.setattr(by_shape, "_MAX_BYTES", 1)
    program = RUNTIME.open(tiny_onnx_bundle, "time_encoder", OPTIONS)
    for count in (1, 2, 1):
        time_shift(tiny_onnx_bundle, program, count)
        assert len(program._models._entries) == 1


def test_clones_share_compiled_models_and_outlive_their_eviction(tiny_onnx_bundle, monkeypatch):
    monkeypatch.setattr(by_shape, "_MAX_BYTES", 1)
    program = RUNTIME.open(tiny_onnx_bundle, "time_encoder", OPTIONS)
    twin = program.clone()
    first = time_shift(tiny_onnx_bundle, program, 3)
    time_shift(tiny_onnx_bundle, twin, 3)
    (model,) = program._models._entries.values()
    assert twin._models is program._models
    time_shift(tiny_onnx_bundle, twin, 5)
    assert model not in program._models._entries.values()
    program.inputs["timesteps"][:] = np.arange(3)
    program.run()
    np.testing.assert_array_equal(program.outputs["time_shift"], first)


# In the cache folder


def test_the_second_opening_is_from_the_cache(tiny_onnx_bundle, own_cache, expected):
    program = open_text_encoder(tiny_onnx_bundle)
    assert not from_cache(program)
    (blob,) = own_cache.rglob("*.blob")
    assert blob.parent.name.startswith(RUNTIME.version())
    np.testing.assert_array_equal(encode(program), expected)
    again = open_text_encoder(tiny_onnx_bundle)
    assert from_cache(again)
    np.testing.assert_array_equal(encode(again), expected)
    assert list(own_cache.rglob("*.blob")) == [blob]


def test_another_shape_or_number_of_threads_is_another_entry(tiny_onnx_bundle, own_cache, expected):
    open_text_encoder(tiny_onnx_bundle)
    other = open_text_encoder(tiny_onnx_bundle, count=2)
    assert not from_cache(other)
    np.testing.assert_allclose(encode(other)[:1], expected, atol=1e-5)
    assert len(list(own_cache.rglob("*.blob"))) == 2


@pytest.mark.skipif(not supports_bf16(), reason="this CPU has no bf16")
@pytest.mark.parametrize("order", [("fp32", "bf16"), ("bf16", "fp32")])
def test_precisions_do_not_share_entries(tiny_onnx_bundle, own_cache, expected, order):
    tokens = expected.shape[1]

    def run(precision, **cache):
        options = RuntimeOptions(precision=precision, threads=1, **cache)
        program = RUNTIME.open(tiny_onnx_bundle, "text_encoder", options)
        program.allocate({"input_ids": (1, tokens), "text_kv": expected.shape})
        return encode(program).copy()

    wanted = {precision: run(precision, cache=False) for precision in order}
    assert np.abs(wanted["bf16"] - wanted["fp32"]).max() > 1e-4
    for precision in (*order, *order):  # made, and then taken
        np.testing.assert_array_equal(run(precision), wanted[precision])
    assert len(list(own_cache.rglob("*.blob"))) == 2


def test_a_damaged_cache_gives_right_results(tiny_onnx_bundle, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DAMAGE, str(tiny_onnx_bundle.path), str(tmp_path), "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (done.returncode, lines[-1:], done.stderr[-1000:])
    assert len(lines) == 24
    # A single bit goes unnoticed now and then, as in any file without a checksum; not to crash is
    # all that can be asked.
    assert [line for line in lines if line.endswith("wrong") and not line.startswith("bit")] == []


def changed_bundle(bundle, target, change):
    """A copy whose text encoder has other weights, which its manifest knows."""
    shutil.copytree(bundle.path, target)
    path = target / DATA
    weights = np.frombuffer(path.read_bytes(), np.float32).copy()
    change(weights)
    path.write_bytes(weights.tobytes())
    info = FileInfo(hash_file(path), path.stat().st_size)
    save_manifest(replace(bundle, path=target, files={**bundle.files, DATA: info}))
    return open_bundle(target)


def half_as_large(weights):
    magnitudes = np.abs(weights)  # small integers seen as floats are smaller than any weight
    weights[(magnitudes > 1e-4) & (magnitudes < 10)] *= 0.5


def uncached(bundle, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("LDM_ENGINE_CACHE", "off")
        return encode(open_text_encoder(bundle))


def test_bundles_of_one_graph_and_other_weights_do_not_share_entries(
    tiny_onnx_bundle, own_cache, tmp_path, monkeypatch, expected
):
    other = changed_bundle(tiny_onnx_bundle, tmp_path / "other", half_as_large)
    wanted = uncached(other, monkeypatch)
    assert np.abs(wanted - expected).max() > 1e-3
    encode(open_text_encoder(tiny_onnx_bundle))
    program = open_text_encoder(other)
    assert not from_cache(program)
    np.testing.assert_array_equal(encode(program), wanted)
    assert len(list(own_cache.glob("**/openvino/*"))) == 2


def test_an_entry_moved_to_another_bundle_does_no_harm(
    tiny_onnx_bundle, own_cache, tmp_path, monkeypatch
):
    """OpenVINO itself knows an entry by its name, which it makes of graph and weights."""
    other = changed_bundle(tiny_onnx_bundle, tmp_path / "other", half_as_large)
    wanted = uncached(other, monkeypatch)
    encode(open_text_encoder(other))
    (mine,) = own_cache.glob("**/openvino/*")
    shutil.rmtree(mine)
    encode(open_text_encoder(tiny_onnx_bundle))
    (theirs,) = own_cache.glob("**/openvino/*")
    theirs.rename(mine)
    np.testing.assert_array_equal(encode(open_text_encoder(other)), wanted)


@pytest.mark.parametrize("place", [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
def test_weights_changed_under_an_entry_are_the_ones_used(
    tiny_onnx_bundle, own_cache, tmp_path, monkeypatch, place
):
    """As after `check_hashes=False`: stale weights would be worse than damaged ones."""
    bundle = open_bundle(shutil.copytree(tiny_onnx_bundle.path, tmp_path / "bundle"))
    before = encode(open_text_encoder(bundle))
    path = bundle.path / DATA
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    weights = np.frombuffer(path.read_bytes(), np.float32).copy()
    middle = int(place * weights.size)
    weights[middle : middle + 16] += 0.5  # fewer than any sum over samples would notice
    path.write_bytes(weights.tobytes())
    os.utime(path, ns=times)
    wanted = uncached(bundle, monkeypatch)
    given = encode(open_text_encoder(bundle))
    np.testing.assert_array_equal(given, wanted)
    assert np.isfinite(before).all()


def test_a_moved_bundle_is_opened_from_the_cache_too(
    tiny_onnx_bundle, own_cache, tmp_path, expected
):
    before = shutil.copytree(tiny_onnx_bundle.path, tmp_path / "before")
    encode(open_text_encoder(open_bundle(before)))
    before.rename(tmp_path / "after")
    program = open_text_encoder(open_bundle(tmp_path / "after"))
    assert from_cache(program)
    np.testing.assert_array_equal(encode(program), expected)


def absurd(kind, folder):
    """A value of LDM_ENGINE_CACHE that leads nowhere."""
    if kind == "file":
        (folder / "file").write_text("kept")
        return str(folder / "file")
    if kind == "file inside":
        (folder / "openvino").write_text("kept")
        return str(folder)
    if kind == "dangling":
        (folder / "link").symlink_to("/proc/nowhere")
        return str(folder / "link")
    return {
        "not writable": "/proc/ldm-engine",
        "device": "/dev/null",
        "too long": "/".join([str(folder), *["x" * 200] * 30]),
        "long name": str(folder / ("x" * 300)),
        "no UTF-8": os.fsdecode(os.fsencode(folder) + b"/\xff\xfe"),
        "line break": str(folder / "a\nb"),
        "markup": str(folder / '<a b="c">\'&'),
        "Chinese": str(folder / "缓存"),
        "relative": "cache here",
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "file",
        "file inside",
        "dangling",
        "not writable",
        "device",
        "too long",
        "long name",
        "no UTF-8",
        "line break",
        "markup",
        "Chinese",
        "relative",
    ],
)
def test_whatever_is_wrong_with_the_cache_folder_the_program_runs(
    tiny_onnx_bundle, tmp_path, monkeypatch, expected, kind
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDM_ENGINE_CACHE", absurd(kind, tmp_path))
    for _ in range(2):
        np.testing.assert_array_equal(encode(open_text_encoder(tiny_onnx_bundle)), expected)
    assert all(p.read_text() == "kept" for p in tmp_path.iterdir() if p.is_file())


def test_a_cache_that_goes_away_in_between_is_no_harm(tiny_onnx_bundle, own_cache, expected):
    program, model = RUNTIME.open(tiny_onnx_bundle, "text_encoder", OPTIONS), tiny_onnx_bundle.model
    shutil.rmtree(own_cache)
    own_cache.write_text("a file now")
    shape = (1, model.token_length, model.text_kv_width)
    program.allocate({"input_ids": shape[:2], "text_kv": shape})
    np.testing.assert_array_equal(encode(program), expected)


@pytest.mark.parametrize("room", [0, 20_000])
def test_a_cache_on_a_full_disk_is_no_harm(tiny_onnx_bundle, own_cache, expected, room):
    wanted = float(expected.astype(np.float64).sum())
    for limit in (room, 1 << 40):  # what the first left behind is what the second finds
        done = subprocess.run(
            [sys.executable, "-c", FULL_DISK, str(tiny_onnx_bundle.path), str(limit)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.returncode, done.stderr[-1000:])
        assert float(done.stdout) == pytest.approx(wanted, rel=1e-6)


def test_off_turns_it_off(tiny_onnx_bundle, tmp_path, monkeypatch, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDM_ENGINE_CACHE", "off")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    program = open_text_encoder(tiny_onnx_bundle)
    assert "CACHE_DIR" not in program._models._config
    np.testing.assert_array_equal(encode(program), expected)
    assert list(Path(tmp_path).iterdir()) == []


def test_an_export_that_is_still_checking_leaves_no_entries(tiny_onnx_bundle, own_cache):
    draft = replace(tiny_onnx_bundle, files={})
    encode(open_text_encoder(draft))
    assert not own_cache.exists()
