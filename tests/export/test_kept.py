"""A checkpoint that is named in a bundle's place is exported once, into the cache folder."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.bundle.bundle import MANIFEST
from ldm_engine.bundle.exporter import is_checkpoint
from ldm_engine.commands.main import cli
from ldm_engine.errors import (
    BundleNotFoundError,
    DownloadError,
    OutputError,
    RuntimeUnavailableError,
)
from ldm_engine.machine.cache import VARIABLE
from ldm_engine.machine.cache_entries import cache_entries
from ldm_export import exporter, hub, kept

ID = "CompVis/ldm-text2im-large-256"


def silent(stage):
    pass


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache/ldm-engine/bundles"


@pytest.fixture
def exports(monkeypatch):
    """What was exported, by a stand-in that takes a moment."""
    done = []

    def export(source, bundle, begin, note):
        time.sleep(0.2)
        bundle.mkdir(parents=True)
        (bundle / MANIFEST).touch()
        done.append(source)

    monkeypatch.setattr(kept, "_export", export)
    return done


def test_a_checkpoint_is_opened_as_its_bundle(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """The only real export here; the second start, and the command, find what it made."""
    call = {"num_inference_steps": 2, "seed": 0}
    with LDMTextToImagePipeline.from_pretrained(tiny_checkpoint) as pipe:
        (path,) = pipe("a cat", **call).save(tmp_path / "first")
        assert pipe.bundle.model.source == "tiny"
    monkeypatch.setattr(kept, "_export", lambda *_: pytest.fail("exported again"))
    arguments = ["generate", tiny_checkpoint, "a cat", "--num-inference-steps", 2, "--seed", 0]
    arguments += ["--guidance-scale", 1, "--output", tmp_path / "second"]
    cli.main([str(a) for a in arguments], standalone_mode=False)
    cli.main(
        [
            "generate",
            str(tiny_checkpoint),
            "--from-image",
            str(path),
            "-o",
            str(tmp_path / "third"),
        ],
        standalone_mode=False,
    )
    for folder in ("second", "third"):
        assert (tmp_path / folder / path.name).read_bytes() == path.read_bytes()
    capsys.readouterr()
    cli.main(["info", str(tiny_checkpoint)], standalone_mode=False)
    assert "unet" in capsys.readouterr().out


def test_a_checkpoint_is_known_by_what_is_there(tiny_checkpoint, tiny_bundle, tmp_path):
    assert is_checkpoint(tiny_checkpoint)
    assert is_checkpoint(str(tiny_checkpoint))
    assert is_checkpoint(ID)
    (tmp_path / "model.ckpt").touch()
    assert is_checkpoint(tmp_path / "model.ckpt")
    assert is_checkpoint(tmp_path)
    shutil.copytree(tiny_bundle.path, tmp_path / "unfinished")
    (tmp_path / "unfinished" / MANIFEST).unlink()
    for other in (
        tiny_bundle.path, tmp_path / "unfinished", tmp_path / "nowhere", "bundle", "a/b/c", "./a/b",
        "/a/b", "../b", "", "x" * 300 + "/y\0", 3, None, b"a/b",
    ):  # fmt: skip
        assert not is_checkpoint(other), other


def test_a_path_into_a_folder_that_is_there_is_no_id(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleNotFoundError):
        LDMTextToImagePipeline.from_pretrained("models/mine")


def test_two_at_once_export_once(tiny_checkpoint, own_cache, exports):
    found = []

    def open_bundle():
        found.append(kept.exported(str(tiny_checkpoint), silent, silent))

    threads = [threading.Thread(target=open_bundle) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(exports) == 1
    assert len(set(found)) == 1
    assert (found[0] / MANIFEST).exists()


def test_what_an_export_left_that_was_killed_goes(tiny_checkpoint, own_cache, exports, monkeypatch):
    source = str(tiny_checkpoint)
    part = own_cache / kept._name(source) / ".bundle.partial-x"
    part.mkdir(parents=True)
    (part / MANIFEST).touch()
    bundle = kept.exported(source, silent, silent)
    assert exports == [source]
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_a_failed_export_leaves_nothing_to_be_opened(tiny_checkpoint, own_cache, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, "export_bundle", fail)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            kept.exported(str(tiny_checkpoint), silent, silent)
    assert [path.name for path in own_cache.iterdir()] == [".lock"]
    assert not list(cache_entries())


def test_another_checkpoint_or_version_is_exported_anew(tiny_checkpoint, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    names = [kept._name(str(tiny_checkpoint)), kept._name(str(copy))]
    assert kept._name(str(copy)) == names[-1]
    weights = max(copy.rglob("*"), key=lambda p: p.stat().st_size)
    os.utime(weights, (1, 1))
    names.append(kept._name(str(copy)))
    real = kept._version
    for name in kept._PACKAGES:
        monkeypatch.setattr(kept, "_version", lambda n, name=name: "9" if n == name else real(n))
        names.append(kept._name(str(copy)))
    monkeypatch.setattr(kept, "_version", real)
    monkeypatch.setattr(kept, "__version__", "9")
    names.append(kept._name(str(copy)))
    assert len(set(names)) == len(names)
    assert names[1].startswith("copy-")


def test_an_id_is_fetched_and_exported_under_its_name(tiny_checkpoint, own_cache, monkeypatch):
    fetched, made = [], []
    monkeypatch.setattr(hub, "fetch", lambda s, **_: fetched.append(s) or Path(tiny_checkpoint))
    monkeypatch.setattr(
        exporter, "export_bundle", lambda c, out, source, progress: made.append((out, source))
    )
    bundle = kept.exported(ID, silent, silent)
    assert fetched == [ID]
    assert made == [(bundle, ID)]
    assert bundle.parent.name.startswith("ldm-text2im-large-256-")


def test_an_id_that_cannot_be_fetched_is_no_folder_either(own_cache, monkeypatch):
    def fail(*_, **__):
        raise DownloadError("The hub has no such repository.")

    monkeypatch.setattr(hub, "fetch", fail)
    with pytest.raises(DownloadError, match=r"no folder `no/such` here.*no such repository"):
        LDMTextToImagePipeline.from_pretrained("no/such")


def test_what_is_to_be_installed_is_named(tiny_checkpoint, own_cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "ldm_export.exporter", None)
    with pytest.raises(
        RuntimeUnavailableError, match=r"no bundle.*pip install 'ldm-engine\[export"
    ):
        LDMTextToImagePipeline.from_pretrained(tiny_checkpoint)


def test_without_a_cache_it_says_how_to_export(tiny_checkpoint, monkeypatch):
    monkeypatch.setenv(VARIABLE, "off")
    with pytest.raises(OutputError, match=r"ldm-engine export .*tiny BUNDLE"):
        LDMTextToImagePipeline.from_pretrained(tiny_checkpoint)
