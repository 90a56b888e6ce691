from __future__ import annotations

import contextlib
import copy
import json
import shutil
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_engine import LDMTextToImagePipeline, open_bundle
from ldm_engine.bundle.bundle import MANIFEST
from ldm_engine.bundle.manifest import FORMAT_VERSION, seal
from ldm_engine.commands.console import print_bundle
from ldm_engine.commands.info import _as_json
from ldm_engine.errors import (
    ArgumentTypeError,
    BundleError,
    BundleNotFoundError,
    ConfigError,
    LDMEngineError,
)
from ldm_engine.machine.files import hash_file
from ldm_engine.sampling.fitted import Tables


def test_what_is_saved_is_what_is_read(tiny_bundle):
    again = open_bundle(tiny_bundle.path)
    assert again == tiny_bundle
    assert again.digest == tiny_bundle.digest
    again.check_files()


def test_a_path_is_made_absolute_once(copy_bundle, tmp_path, monkeypatch):
    path = copy_bundle()
    monkeypatch.chdir(path.parent)
    bundle = open_bundle(path.name)
    monkeypatch.chdir(tmp_path.parent)
    assert bundle.path == path
    bundle.check_files()


def test_the_manifest_is_read_once(copy_bundle):
    path, opened = copy_bundle(), []

    def note(event, arguments):
        if event == "open" and str(arguments[0]) == str(path / MANIFEST):
            opened.append(arguments)

    sys.addaudithook(note)  # for as long as the process lives
    open_bundle(path)
    assert len(opened) == 1


def test_a_missing_folder_says_how_to_make_a_bundle(tmp_path):
    with pytest.raises(BundleNotFoundError, match="ldm-engine export"):
        open_bundle(tmp_path / "nowhere")


def test_a_half_written_bundle_is_refused(copy_bundle):
    path = copy_bundle()
    (path / MANIFEST).unlink()
    with pytest.raises(BundleError, match="not a finished bundle"):
        LDMTextToImagePipeline.from_pretrained(path)


def test_a_bundle_that_was_replaced_after_it_was_opened_is_refused(copy_bundle):
    path = copy_bundle()
    bundle = open_bundle(path)
    assert bundle.program_files("unet", "paddle")
    content = (path / MANIFEST).read_bytes()
    (path / MANIFEST).unlink()
    with pytest.raises(BundleError, match="was replaced or removed since it was opened"):
        bundle.program_files("unet", "paddle")
    (path / MANIFEST).write_bytes(content + b" ")
    with pytest.raises(BundleError, match="Open it again"):
        bundle.program_files("unet", "paddle")


def test_half_a_surrogate_pair_anywhere_in_a_manifest_is_refused(copy_bundle):
    path = copy_bundle()
    content = json.loads((path / MANIFEST).read_text())
    content["files"]["vocab.txt"]["sha256"] = "\ud800"
    (path / MANIFEST).write_bytes(seal(content))
    with pytest.raises(BundleError, match="surrogates not allowed"):
        open_bundle(path)


def test_a_newer_format_is_refused(copy_bundle):
    path = copy_bundle()
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["format_version"] = FORMAT_VERSION + 1
    (path / MANIFEST).write_bytes(seal(manifest))
    with pytest.raises(BundleError, match="Upgrade ldm-engine"):
        open_bundle(path)


def test_a_flipped_byte_in_any_file_is_refused_by_name(copy_bundle, tiny_bundle):
    path = copy_bundle()
    assert len(tiny_bundle.files) == 14
    for name in tiny_bundle.files:
        if name.startswith("vae_encoder/"):
            continue  # no pipeline opens it; ``check_files`` below
        content = bytearray((path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (path / name).write_bytes(content)
        with pytest.raises(BundleError, match=name.replace(".", r"\.")):
            LDMTextToImagePipeline.from_pretrained(path)
        content[len(content) // 2] ^= 1
        (path / name).write_bytes(content)
    LDMTextToImagePipeline.from_pretrained(path)


def test_a_flipped_byte_in_the_manifest_is_refused(copy_bundle):
    path = copy_bundle() / MANIFEST
    content = path.read_bytes()
    for position in range(40, len(content), 97):
        flipped = bytearray(content)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(BundleError):
            open_bundle(path.parent)
    path.write_bytes(content.replace(b"\n", b"\r\n"))
    with pytest.raises(BundleError):
        open_bundle(path.parent)
    path.write_bytes(content)
    open_bundle(path.parent)


def test_every_damaged_file_is_in_one_message(copy_bundle):
    path = copy_bundle()
    (path / "vocab.txt").unlink()
    with (path / "unet/inference.pdiparams").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError) as caught:
        open_bundle(path).check_files()
    assert "vocab.txt is missing" in str(caught.value)
    assert "unet/inference.pdiparams has" in str(caught.value)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "unet/../../x", "", "a\\..\\b"])
def test_a_file_name_never_leads_outside(copy_bundle, name):
    path = copy_bundle()
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    (path / MANIFEST).write_bytes(seal(manifest))
    with pytest.raises(BundleError, match="outside the bundle"):
        open_bundle(path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "{}", "null", '{"format_version": 1}', "[" * 9999]
)
def test_a_broken_manifest_is_refused(copy_bundle, content):
    path = copy_bundle()
    (path / MANIFEST).write_text(content)
    with pytest.raises(BundleError):
        open_bundle(path)


def _rewrite(path, name, text):
    """Replace a file as an export would have written it: the manifest has its hash."""
    (path / name).write_text(text)
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"][name] = {"sha256": hash_file(path / name), "bytes": len(text)}
    (path / MANIFEST).write_bytes(seal(manifest))


def test_an_unknown_scheduler_is_refused_when_the_bundle_is_loaded(copy_bundle):
    path = copy_bundle()
    _rewrite(path, "scheduler_config.json", '{"_class_name": "LMSDiscreteScheduler"}')
    with pytest.raises(ConfigError, match="LMSDiscreteScheduler"):
        LDMTextToImagePipeline.from_pretrained(path, check_hashes=False)


def _paths(node, prefix=()):
    yield prefix
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items if isinstance(node, (dict, list)) else ():
        yield from (
            _paths(value, (*prefix, key)) if isinstance(value, (dict, list)) else [(*prefix, key)]
        )


ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.just([["unet"]]),
)


def test_no_mutation_of_the_manifest_crashes(tiny_bundle, tmp_path_factory):
    """Whatever a sealed manifest says, it is refused, or describes a bundle that works."""
    original = json.loads((tiny_bundle.path / MANIFEST).read_text())
    paths = [p for p in _paths(original) if p]
    folder = tmp_path_factory.mktemp("mutated") / "bundle"
    shutil.copytree(tiny_bundle.path, folder)

    @settings(max_examples=200)
    @given(st.sampled_from(paths), ODD_VALUES, st.booleans())
    def mutate(path, value, delete):
        manifest = copy.deepcopy(original)
        node = manifest
        for key in path[:-1]:
            node = node[key]
        if delete:
            del node[path[-1]]
        else:
            node[path[-1]] = value
        (folder / MANIFEST).write_bytes(seal(manifest))
        with contextlib.suppress(LDMEngineError):
            bundle = open_bundle(folder)
            print_bundle(bundle)
            json.dumps(_as_json(bundle, Tables()))
            if path[0] in (
                "model",
                "tokenizer",
            ):  # what the pipeline takes of it, but files
                pipe = LDMTextToImagePipeline.from_pretrained(folder)
                pipe("a", num_inference_steps=1, seed=0)

    mutate()


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("programs", "unet", "inputs", 0, "name"), "foo", "unet"),
        (("programs", "unet", "inputs", 0, "dtype"), "int64", "unet"),
        (("programs", "vae_decoder", "outputs", 0, "shape"), [-1, 3, -1, -1], "vae_decoder"),
        (("model", "token_length"), 50, "text_encoder"),
        (("model", "text_kv_width"), 7, "text_encoder"),
        (("model", "sample_size"), 2**30, "8192"),
        (("model", "sample_size"), 12, "sample_size"),
        (("tokenizer", "lowercase"), 1, "bool"),
        (("programs", "unet", "formats", "paddle", "files"), ["unet/inference.json"], "files"),
        (("parity", "paddle", "fp32", "unet"), "good", "indices"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(copy_bundle, keys, value, message):
    path = copy_bundle()
    manifest = json.loads((path / MANIFEST).read_text())
    node = manifest
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    (path / MANIFEST).write_bytes(seal(manifest))
    with pytest.raises(BundleError, match=message):
        open_bundle(path)


@pytest.mark.parametrize("path", [5, None, b"bytes"])
def test_a_path_of_the_wrong_type_is_refused(path):
    with pytest.raises(ArgumentTypeError, match="path"):
        open_bundle(path)


@pytest.mark.parametrize("path", ["x" * 5000, "nul\0byte"])
def test_an_impossible_path_is_refused(path):
    with pytest.raises(BundleNotFoundError):
        open_bundle(path)
