from __future__ import annotations

import json
import os
import re
import time

import click
import pytest
from click.testing import CliRunner

from conftest import ROOT
from ldm_engine.commands.main import cli
from ldm_engine.errors import InvalidArgumentError, OutputError
from ldm_engine.machine.cache import VARIABLE, cache_folder
from ldm_engine.machine.cache_entries import KINDS, cache_entries, export_lock, remove_entry
from ldm_engine.machine.files import held


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache/ldm-engine"


@pytest.fixture
def filled(root):
    for kind, name, count in (("openvino", "a", 3), ("openvino", "b", 4), ("bundles", "c-1", 5)):
        (cache_folder(kind, name) / "file").write_bytes(bytes(count))
    manifest = cache_folder("bundles", "c-1") / "bundle" / "bundle.json"
    manifest.parent.mkdir()
    manifest.write_text(json.dumps({"model": {"source": "owner/model"}}))
    (cache_folder("verified") / "1.json").write_bytes(b"{}")
    return root


def run(*arguments):
    return CliRunner().invoke(cli, ["cache", *arguments], standalone_mode=False)


def names():
    return {entry.name for entry in cache_entries()}


def test_every_kind_that_is_written_is_listed():
    """In Python and C++, by whoever asks for a folder."""
    sources = [*(ROOT / "engine").rglob("*.py"), *(ROOT / "export").rglob("*.py")]
    sources += (ROOT / "cpp/src").rglob("*.cpp")
    asked = {
        k for path in sources for k in re.findall(r'cache_folder\("([\w-]+)"', path.read_text())
    }
    assert {"openvino", "texts", "verified", "fits"} <= asked <= KINDS.keys()


def test_entries_are_what_is_there(filled):
    found = {entry.name: entry.bytes for entry in cache_entries()}
    manifest = filled / "bundles/c-1/bundle/bundle.json"
    assert found == {
        "openvino/a": 3, "openvino/b": 4, "verified": 2,
        "bundles/c-1": 5 + manifest.stat().st_size,
    }  # fmt: skip


def test_the_list_says_what_it_is_and_when_it_was_used(filled):
    then = time.mktime((2026, 3, 4, 5, 6, 0, 0, 0, -1))
    os.utime(filled / "bundles/c-1", (then, then))
    printed = run().output
    assert re.search(r"bundles/c-1 .*owner/model .* B +2026-03-04 05:06", printed)
    assert f"4 entries with 50 B in {filled}" in printed.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["--remove", "openvino/a"], {"openvino/b", "bundles/c-1", "verified"}),
        (["--remove", "openvino", "--remove", "verified"], {"bundles/c-1"}),
        (["--remove", "owner/model"], {"openvino/a", "openvino/b", "verified"}),
        (["--clear"], set()),
    ],
)
def test_what_is_named_is_removed(filled, arguments, left):
    result = run(*arguments)
    assert result.exception is None
    assert names() == left
    assert f"{4 - len(left)} entries with" in result.output


def test_a_kind_of_which_there_is_nothing_is_no_error(filled):
    assert "0 entries" in run("--remove", "fits").output


@pytest.mark.parametrize("name", ["nowhere", "../cache", "openvino/c", ""])
def test_other_names_remove_nothing(filled, name):
    before = names()
    result = run("--remove", "openvino/a", "--remove", name)
    assert isinstance(result.exception, InvalidArgumentError)
    assert repr(name) in str(result.exception)
    assert names() == before


def test_what_is_not_ours_stays(filled, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("precious")
    (filled / "mine").mkdir()
    (filled / "openvino/link").symlink_to(tmp_path / "precious")
    (filled / "fits").symlink_to(tmp_path)
    run("--clear")
    assert (tmp_path / "precious/thesis.txt").read_text() == "precious"
    assert (filled / "mine").is_dir()


def test_a_bundle_is_not_removed_under_an_export(filled):
    (bundle,) = (entry for entry in cache_entries() if entry.kind == "bundles")
    with (
        held(export_lock(filled / "bundles")),
        pytest.raises(OutputError, match="exports a bundle"),
    ):
        remove_entry(bundle)
    remove_entry(bundle)
    remove_entry(bundle)  # another process was first
    assert not bundle.path.exists()


def test_without_a_cache_there_is_nothing_to_list(monkeypatch):
    monkeypatch.setenv(VARIABLE, "off")
    assert isinstance(run().exception, InvalidArgumentError)
    assert not list(cache_entries())


def test_one_thing_is_removed_or_everything(filled):
    with pytest.raises(click.UsageError, match="--remove is given beside --clear"):
        cli.main(["cache", "--remove", "texts", "--clear"], standalone_mode=False)
