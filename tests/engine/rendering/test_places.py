from __future__ import annotations

from pathlib import Path

import pytest

from ldm_engine.errors import InvalidArgumentError
from ldm_engine.machine.lock import locked
from ldm_engine.rendering.places import FingerprintError, RunFile, find_place, open_storage
from ldm_engine.rendering.plan import Costs

HELD, WANTED = {"steps": 1}, {"steps": 2}


def place_of(output, force=False, fingerprint=WANTED):
    return find_place(str(output), "run", fingerprint, force).output


def begin_run(output):
    """A run with other settings than `WANTED`."""
    storage = open_storage(str(output), "run")
    storage.prepare()
    RunFile(HELD, Costs(None, 1.0), {}).save(storage)


@pytest.mark.parametrize("name", ["index.html", "shards/000000.tar", "records.jsonl", "my-notes"])
def test_a_folder_of_something_else_is_refused(tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(FingerprintError, match=f"not empty \\({name.split('/')[0]}\\)"):
        place_of(tmp_path / "out")
    assert place_of(tmp_path / "out", force=True) == str(tmp_path / "out-2")


@pytest.mark.parametrize("where", ["{}/out", "memory://{}/out"])
def test_what_is_left_of_a_run_that_never_began_is_no_hindrance(tmp_path, where):
    if "memory" in where:
        pytest.importorskip("fsspec")
    output = where.format(tmp_path)
    assert place_of(output) == output
    storage = open_storage(output, "run")
    with locked(storage, "run"):
        storage.prepare()
        storage.append("failures.jsonl", [b"{}\n"])
        storage.append("failures-1-of-2.jsonl", [b"{}\n"])
        storage.finish(["records.jsonl", "failures.jsonl"])
        assert place_of(output) == output
    storage.prepare()
    storage.write("other.txt", b"")
    with pytest.raises(FingerprintError, match="not empty"):
        place_of(output)


def test_a_run_is_gone_on_with_whatever_lies_beside_it(tmp_path):
    begin_run(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert place_of(tmp_path, fingerprint=HELD) == str(tmp_path)


@pytest.mark.parametrize(
    ("output", "beside"),
    [("{}/out", "{}/out-2"), ("{}/out/", "{}/out-2"), (".", "{}/out-2"), ("../out", "../out-2"),
     ("a/..", "{}/out-2"), ("file://{}/out/", "{}/out-2"), ("memory://{}/out/", "memory://{}/out-2")],
)  # fmt: skip
def test_beside_has_the_folders_name(tmp_path, monkeypatch, output, beside):
    if "memory" in output:
        pytest.importorskip("fsspec")
    (tmp_path / "out" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "out")
    begin_run(output.format(tmp_path))
    assert place_of(output.format(tmp_path), force=True) == beside.format(tmp_path)


@pytest.mark.parametrize("output", ["/", "memory://bucket/", "memory://"])
def test_roots_have_nothing_beside_them(output):
    if "memory" in output:
        pytest.importorskip("fsspec")
        open_storage(output, "run").write("mine.txt", b"")
    assert list(Path("/").iterdir())
    with pytest.raises(InvalidArgumentError, match="a folder in it is accepted"):
        place_of(output, force=True)
