"""The empty text is encoded once for all processes: here for pipelines that share nothing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.bundle.manifest import open_bundle
from ldm_engine.machine.cpu import processor

SETTINGS = {"num_inference_steps": 2, "guidance_scale": 3.0, "seed": 0, "output_type": "np"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_ENGINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache):
    return sorted(cache.glob("ldm-engine/texts/*/*.f32"))


def render(bundle, **options):
    """The image of one prompt, and how many texts were encoded for it."""
    path = getattr(bundle, "path", bundle)
    with LDMTextToImagePipeline.from_pretrained(path, **options) as pipe:
        sampler, encoded = pipe._sampler, []
        encode = sampler.encode_ids
        sampler.encode_ids = lambda ids: encoded.append(ids) or encode(ids)
        return pipe("a word", **SETTINGS).images, len(encoded)


def test_it_is_encoded_once(tiny_onnx_bundle, own_cache):
    first, count = render(tiny_onnx_bundle)
    again, count_again = render(tiny_onnx_bundle)
    assert (count, count_again) == (2, 1)
    np.testing.assert_array_equal(again, first)
    (file,) = kept(own_cache)
    model = tiny_onnx_bundle.model
    assert file.stat().st_size == model.token_length * model.text_kv_width * 4
    assert file.parent.name.endswith(processor())


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-4]),
        lambda file: file.write_bytes(bytes(file.stat().st_size)),
        lambda file: file.unlink(),
        lambda file: shutil.rmtree(file.parent),
    ],
    ids=["empty", "short", "zeros", "gone", "all gone"],
)
def test_damage_does_no_harm(tiny_onnx_bundle, own_cache, damage):
    first, _ = render(tiny_onnx_bundle)
    damage(kept(own_cache)[0])
    again, count = render(tiny_onnx_bundle)
    assert count == 2
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("options", [{"runtime": "onnxruntime"}, {"threads": 1}])
def test_who_computes_otherwise_has_one_of_their_own(tiny_onnx_bundle, own_cache, options):
    render(tiny_onnx_bundle, runtime="openvino", threads=2)
    _, count = render(tiny_onnx_bundle, **{"runtime": "openvino", **options})
    assert count == 2
    assert len(kept(own_cache)) == 2


def test_it_belongs_to_one_bundle(tiny_onnx_bundle, own_cache):
    render(tiny_onnx_bundle)
    assert open_bundle(tiny_onnx_bundle.path).digest[:16] in kept(own_cache)[0].parent.name


def test_without_a_cache_nothing_is_kept(tiny_onnx_bundle, own_cache, monkeypatch):
    monkeypatch.setenv("LDM_ENGINE_CACHE", "off")
    assert [render(tiny_onnx_bundle)[1] for _ in range(2)] == [2, 2]
    assert not own_cache.exists()


def test_where_it_cannot_be_written_it_is_encoded_each_time(tiny_onnx_bundle, own_cache):
    first, _ = render(tiny_onnx_bundle)
    (file,) = kept(own_cache)
    file.unlink()
    file.mkdir()
    (file / "in the way").touch()
    for _ in range(2):
        again, count = render(tiny_onnx_bundle)
        assert count == 2
        np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("seal", [b"", b" ", b"\xff", b"0" * 64])
def test_a_damaged_seal_costs_one_encoding(tiny_onnx_bundle, own_cache, seal):
    render(tiny_onnx_bundle)
    (file,) = kept(own_cache)
    file.with_name("empty.f32.sha256").write_bytes(seal)
    assert [render(tiny_onnx_bundle)[1] for _ in range(3)] == [2, 1, 1]


def test_what_came_of_unchecked_files_is_not_kept(tiny_onnx_bundle, own_cache, tmp_path):
    """Damaged weights that someone let pass must not show in pictures of whole ones."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_onnx_bundle.path, copy)
    expected, _ = render(copy, runtime="onnxruntime")
    shutil.rmtree(own_cache)
    data = copy / "text_encoder/model.onnx.data"
    whole = data.read_bytes()
    data.write_bytes((np.frombuffer(whole, "<f4") * np.float32(0.5)).tobytes())
    wrong, _ = render(copy, runtime="onnxruntime", check_hashes=False)
    assert np.abs(wrong - expected).max() > 0
    data.write_bytes(whole)
    again, _ = render(copy, runtime="onnxruntime")
    np.testing.assert_array_equal(again, expected)
