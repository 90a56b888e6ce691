from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ldm_engine.machine.cache import VARIABLE, cache_folder, drop_unsealed, seal_files

DAY_S = 24 * 3600


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path / "home"


def age(path, days):
    then = time.time() - days * DAY_S
    os.utime(path, (then, then))


def test_it_is_in_the_home_by_default(home):
    folder = cache_folder("openvino", "1-abc")
    assert folder == home / ".cache/ldm-engine/openvino/1-abc"
    assert folder.is_dir()


def test_it_is_where_the_desktop_says(home, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("a") == tmp_path / "xdg/ldm-engine/a"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder("a") == home / ".cache/ldm-engine/a"


def test_the_own_variable_comes_first(home, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "own"))
    folder = cache_folder("a", "b")
    assert tmp_path / "own" in folder.parents
    assert folder.parts[-2:] == ("a", "b")
    monkeypatch.setenv(VARIABLE, "")  # as if it were not set
    assert cache_folder("a") == tmp_path / "xdg/ldm-engine/a"


def test_off_is_off(home, monkeypatch):
    monkeypatch.setenv(VARIABLE, "off")
    assert cache_folder("a") is None
    assert not home.exists()


def test_without_a_home_there_is_none(home, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder("a") is None


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null", "x" * 300, "y/" * 3000])
def test_where_none_can_be_made_there_is_none(home, tmp_path, monkeypatch, place):
    monkeypatch.setenv(VARIABLE, str(tmp_path / place))
    assert cache_folder("a") is None


def test_a_folder_that_cannot_be_written_is_none(home, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert cache_folder("a") is None


def test_what_nothing_has_used_for_long_goes(home):
    old, recent, mine = (cache_folder("openvino", n) for n in ("old", "recent", "mine"))
    for folder in (old, recent, mine):
        (folder / "1.blob").write_text("compiled")
    age(old, 31)
    age(recent, 29)
    age(mine, 31)
    assert cache_folder("openvino", "mine") == mine
    assert sorted(p.name for p in mine.parent.iterdir()) == ["mine", "recent"]
    assert (mine / "1.blob").read_text() == "compiled"


def test_using_it_makes_it_recent(home):
    folder = cache_folder("openvino", "mine")
    age(folder, 31)
    cache_folder("openvino", "mine")
    assert time.time() - folder.stat().st_mtime < DAY_S


def test_what_is_beside_in_other_folders_is_left_alone(home):
    other = cache_folder("other")
    (other / "kept").write_text("kept")
    age(other, 400)
    cache_folder("openvino", "mine")
    assert (other / "kept").read_text() == "kept"


def test_links_are_not_followed(home, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("precious")
    age(tmp_path / "precious", 400)
    folder = cache_folder("openvino", "mine")
    (folder.parent / "link").symlink_to(tmp_path / "precious")
    cache_folder("openvino", "mine")
    assert (tmp_path / "precious/thesis.txt").read_text() == "precious"


def test_a_folder_of_the_user_in_the_named_place_is_never_emptied(home, tmp_path, monkeypatch):
    """LDM_ENGINE_CACHE=~/src beside a clone of OpenVINO, whose folders are old."""
    clone = tmp_path / "src/openvino"
    (clone / "docs").mkdir(parents=True)
    (clone / "docs/thesis.txt").write_text("precious")
    age(clone / "docs", 400)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "src"))
    assert cache_folder("openvino", "2026.4.1-0123456789abcdef") is not None
    assert (clone / "docs/thesis.txt").read_text() == "precious"


def test_two_at_once_do_not_disturb_each_other(home, monkeypatch):
    """A sibling that another process has just removed."""
    folder = cache_folder("openvino", "mine")
    (folder.parent / "gone").mkdir()
    stat = Path.stat

    def gone(self, **options):
        if self.name == "gone":
            raise FileNotFoundError(str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", gone)
    assert cache_folder("openvino", "mine") == folder


def sealed(folder, content=b"compiled"):
    path = folder / "1.blob"
    path.write_bytes(content)
    seal_files(folder, "*.blob")
    return path, folder / "1.blob.sha256"


def kept(folder):
    drop_unsealed(folder, "*.blob")
    return (folder / "1.blob").is_file()


def test_what_has_no_seal_goes(home):
    folder = cache_folder("openvino", "mine")
    (folder / "1.blob").write_bytes(b"half of i")
    assert not kept(folder)


def test_what_was_not_written_is_not_read(home):
    path, seal = sealed(cache_folder("openvino", "mine"))
    stamp = seal.read_text().partition(" ")[2]
    seal.write_text(f"{'0' * 64} {stamp}")  # a hash that reading would refute
    assert kept(path.parent)


@pytest.mark.parametrize("content", [b"Compiled", b"compiled anew", b""])
def test_what_was_written_goes_also_if_its_time_was_put_back(home, content):
    path, _ = sealed(cache_folder("openvino", "mine"))
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not kept(path.parent)


@pytest.mark.parametrize("stamp", ["", " 8 1 2 3 4"], ids=["by an older engine", "elsewhere"])
def test_what_was_sealed_otherwise_is_read_once(home, stamp):
    path, seal = sealed(cache_folder("openvino", "mine"))
    before = seal.read_text()
    seal.write_text(before.partition(" ")[0] + stamp)
    assert kept(path.parent)
    assert seal.read_text() == before


@pytest.mark.parametrize("content", [b"", b" ", b"x", b"\0", b"\xff"])
def test_damaged_seals_are_none_and_go_with_their_files(home, content):
    path, seal = sealed(cache_folder("openvino", "mine"))
    seal.write_bytes(content)
    assert not kept(path.parent)
    assert not seal.exists()
    assert sealed(path.parent) == (path, seal)
    assert kept(path.parent)
