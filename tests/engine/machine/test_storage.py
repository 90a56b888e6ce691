from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ldm_engine.errors import OutputError
from ldm_engine.machine.lock import OutputInUseError, locked
from ldm_engine.machine.remote import RemoteStorage
from ldm_engine.machine.storage import LocalStorage
from ldm_engine.rendering.places import open_storage


@pytest.fixture(params=["folder", "memory"])
def storage(request, tmp_path):
    if request.param == "memory":
        pytest.importorskip("fsspec")
        opened = open_storage(f"memory://{tmp_path.name}", "run")
    else:
        opened = open_storage(str(tmp_path / "out"), "run")
    opened.prepare()
    return opened


def test_files_come_back(storage):
    storage.write("a/b/c.bin", b"one")
    storage.write("a/b/c.bin", [b"t", b"wo"])
    storage.sync(["a/b/c.bin"])
    assert storage.read("a/b/c.bin") == b"two"
    assert storage.read("a/b/d.bin") is None
    assert storage.size("a/b/c.bin") in (3, -1)
    assert storage.names("a/b") == ["c.bin"]
    assert not storage.write_once("a/b/c.bin", b"three")
    assert storage.write_once("a.json", b"{}")
    storage.remove("a.json")
    storage.remove("a.json")
    storage.clear("a")
    assert storage.read("a/b/c.bin") is None
    assert storage.names("a/b") == []


def test_journals_grow_and_are_rewritten(storage):
    lines = [b'{"n": %d}\n' % i for i in range(2500)]
    for start in range(0, 2500, 100):
        storage.append("records.jsonl", lines[start : start + 100])
    assert list(storage.lines("records.jsonl")) == lines
    assert list(storage.lines("failures.jsonl")) == []
    assert storage.journals("records") == ["records.jsonl"]
    storage.rewrite(
        "records.jsonl", (line for line in storage.lines("records.jsonl") if b"7" in line)
    )
    kept = [line for line in lines if b"7" in line]
    assert list(storage.lines("records.jsonl")) == kept
    storage.append("records.jsonl", [b"{}\n"])
    storage.finish(["records.jsonl"])
    assert storage.read("records.jsonl") == b"".join([*kept, b"{}\n"])
    storage.remove("records.jsonl")
    assert storage.journals("records") == []


def test_a_torn_line_is_cut_off(tmp_path):
    storage = open_storage(str(tmp_path), "run")
    (tmp_path / "records.jsonl").write_bytes(b'{"n": 1}\n{"n": 2' + b"x" * 10_000)
    assert list(storage.lines("records.jsonl")) == [b'{"n": 1}\n']
    storage.append("records.jsonl", [b'{"n": 3}\n'])
    assert (tmp_path / "records.jsonl").read_bytes() == b'{"n": 1}\n{"n": 3}\n'
    (tmp_path / "records.jsonl").write_bytes(b"no end of line")
    storage.append("records.jsonl", [b"{}\n"])
    assert (tmp_path / "records.jsonl").read_bytes() == b"{}\n"


def test_journals_are_not_files_with_like_names(storage):
    for name in ("records.jsonl", "records-1-of-2.jsonl", "records-backup.jsonl"):
        storage.append(name, [b"{}\n"])
    assert storage.journals("records") == ["records-1-of-2.jsonl", "records.jsonl"]


def test_a_journal_without_lines_is_gone(storage):
    storage.append("failures.jsonl", [b"{}\n"])
    storage.finish(["failures.jsonl"])
    storage.prepare()  # a later start
    storage.rewrite("failures.jsonl", [])
    storage.finish(["failures.jsonl"])
    assert storage.read("failures.jsonl") is None
    assert storage.journals("failures") == []


def test_a_new_journal_is_listed_durably(tmp_path, monkeypatch):
    storage = open_storage(str(tmp_path), "run")
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(handle) or fsync(handle))
    storage.append("records.jsonl", [b"{}\n"])
    assert len(synced) == 2  # the file, and the folder that lists it
    storage.append("records.jsonl", [b"{}\n"])
    assert len(synced) == 3


def test_a_file_is_written_once_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")  # what FAT answers

    monkeypatch.setattr(os, "link", refuse)
    storage = open_storage(str(tmp_path), "run")
    storage.prepare()
    assert storage.write_once("run.json", b"one")
    assert not storage.write_once("run.json", b"two")
    assert storage.read("run.json") == b"one"


@pytest.fixture
def memory(tmp_path):
    """A folder in memory: its path, and fsspec's view of it."""
    fsspec = pytest.importorskip("fsspec")
    return f"memory://{tmp_path}", fsspec.filesystem("memory")


@pytest.mark.parametrize("name", ["run[1]", "a*b", "what?"])
def test_names_at_a_url_are_taken_as_they_are(memory, name):
    url, _ = memory
    storage, beside = open_storage(f"{url}/{name}", "run"), open_storage(f"{url}/run1", "run")
    for place in (storage, beside):
        place.write("a/b.bin", b"x")
        place.append("records.jsonl", [b"{}\n"])
    assert storage.names("a") == ["b.bin"]
    assert storage.journals("records") == ["records.jsonl"]
    assert list(open_storage(storage.output, "run").lines("records.jsonl")) == [b"{}\n"]
    storage.clear("a")
    assert storage.names("a") == []
    assert beside.names("a") == ["b.bin"]


def test_the_root_of_a_store_is_no_local_folder(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.chdir(tmp_path)
    open_storage("memory://", "run").write("root.bin", b"x")
    assert fsspec.filesystem("memory").cat_file("/root.bin") == b"x"
    assert not list(tmp_path.iterdir())


def test_chained_urls_are_no_paths(tmp_path, monkeypatch):
    pytest.importorskip("fsspec")
    monkeypatch.chdir(tmp_path)
    storage = open_storage(f"dir::memory://{tmp_path}", "run")
    assert isinstance(storage, RemoteStorage)
    storage.write("x.bin", b"x")
    assert storage.read("x.bin") == b"x"
    assert not list(tmp_path.iterdir())


def test_folders_are_made_where_a_file_needs_them(tmp_path):
    """As through SFTP and SMB, here through a folder taken for a store."""
    pytest.importorskip("fsspec")
    storage = RemoteStorage(f"file://{tmp_path}/there")
    for _ in range(2):
        assert storage.write_once("a/b/c.bin", b"x")
        assert (tmp_path / "there" / "a" / "b" / "c.bin").read_bytes() == b"x"
        storage.clear("a")
        assert storage.read("a/b/c.bin") is None


def test_folders_are_made_from_the_root_on(tmp_path, monkeypatch):
    """As through FTP, whose paths begin where the user may write."""
    fsspec = pytest.importorskip("fsspec")

    class Rooted(fsspec.implementations.dirfs.DirFileSystem):
        protocol = "rooted"

        def __init__(self, **options):
            super().__init__(str(tmp_path), fsspec.filesystem("file"))

    fsspec.register_implementation("rooted", Rooted, clobber=True)
    RemoteStorage("rooted://new/run").write("images/a.png", b"x")
    assert (tmp_path / "new" / "run" / "images" / "a.png").read_bytes() == b"x"


def test_a_line_at_a_url_is_named_by_its_part(memory):
    url, _ = memory
    storage = open_storage(url, "run")
    storage.append("records.jsonl", [b"{}\n"] * 1001)
    storage.append("records.jsonl", [b"{}\n"] * 5)
    storage.write("records.jsonl.parts/notes.jsonl", b"mine\n")
    parts = f"{url}/records.jsonl.parts"
    assert storage.locate("records.jsonl", 1001) == f"Line 1001 of {parts}/000000.jsonl"
    assert storage.locate("records.jsonl", 1004) == f"Line 3 of {parts}/000001.jsonl"


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_a_folder_is_the_same_place_by_its_url(tmp_path, scheme):
    storage = open_storage(f"{scheme}://{tmp_path}/out", "run")
    assert isinstance(storage, LocalStorage)
    assert storage.folder == tmp_path / "out"


def test_half_a_line_at_a_url_counts_for_nothing(memory):
    """What a kill leaves where files are written in place, as through SFTP."""
    url, files = memory
    storage = open_storage(url, "run")
    storage.append("records.jsonl", [b'{"n": 1}\n', b'{"n": 2}\n'])
    part = f"{url}/records.jsonl.parts/000000.jsonl"
    files.pipe_file(part, files.cat_file(part)[:-3])
    storage = open_storage(url, "run")
    assert list(storage.lines("records.jsonl")) == [b'{"n": 1}\n']
    storage.append("records.jsonl", [b'{"n": 3}\n'])
    assert list(storage.lines("records.jsonl")) == [b'{"n": 1}\n', b'{"n": 3}\n']


def test_a_journal_at_a_url_is_rewritten_from_itself_in_little_memory(memory):
    url, _ = memory
    storage = open_storage(url, "run")
    lines = [b"%d\n" % i for i in range(6000)]
    for start in range(0, 6000, 1999):  # parts of more than 1,000 lines
        storage.append("records.jsonl", lines[start : start + 1999])
    held = most = 0

    def counted():
        nonlocal held, most
        for line in storage.lines("records.jsonl"):
            held += 1
            most = max(most, held)
            yield line

    write = storage.write

    def written(name, content):
        nonlocal held
        held -= content.count(b"\n")
        write(name, content)

    storage.write = written
    storage.rewrite("records.jsonl", counted())
    assert list(storage.lines("records.jsonl")) == lines
    assert most <= 1001
    storage.append("records.jsonl", [b"end\n"])
    assert list(open_storage(url, "run").lines("records.jsonl")) == [*lines, b"end\n"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    storage = open_storage(str(tmp_path / "file" / "out"), "run")
    with pytest.raises(OutputError, match="start the same command again"):
        storage.prepare()


def test_left_over_temporary_files_are_cleared(tmp_path):
    left = tmp_path / ".tmp" / "run" / "tmpabc"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    storage = open_storage(str(tmp_path), "run")
    storage.prepare()
    assert not left.exists()
    storage.finish([])
    assert not (tmp_path / ".tmp").exists()


def test_the_second_run_is_refused_by_the_name_of_the_first(storage):
    other = open_storage(storage.output, "run")
    other.prepare()
    with locked(storage, "run"):
        with (
            pytest.raises(OutputInUseError, match=rf"process {os.getpid()} .* a run"),
            locked(other, "run"),
        ):
            pass
        with pytest.raises(OutputInUseError, match="--shard"), locked(other, "1-of-2"):
            pass
    with locked(other, "run"):
        pass


def test_a_lock_is_taken_again_where_flock_is_made_of_record_locks(tmp_path, monkeypatch):
    """As on NFS and SMB."""
    monkeypatch.setattr(fcntl, "flock", fcntl.lockf)
    storage = open_storage(str(tmp_path), "run")
    for _ in range(2):
        with locked(storage, "run"):
            pass


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(OutputError, match="cannot be locked: Function not impl"),
        locked(open_storage(str(tmp_path), "run"), "run"),
    ):
        pass


def test_shards_of_as_many_work_beside_each_other(storage):
    with locked(storage, "1-of-2"), locked(storage, "2-of-2"):
        for label in ("1-of-2", "run", "1-of-3"):
            with pytest.raises(OutputInUseError, match=r"shard [12]/2"), locked(storage, label):
                pass


@pytest.mark.parametrize("labels", [("run", "run"), ("run", "1-of-2")])
def test_of_two_that_come_at_once_to_a_url_one_stays(memory, labels):
    url, _ = memory
    both_looked, both_ended = threading.Barrier(2), threading.Barrier(2)

    def come(label):
        storage = open_storage(url, "run")
        names, looks = storage.names, []

        def look(folder):
            looks.append(names(folder))
            if len(looks) == 1:
                both_looked.wait(10)  # before either has written
            return looks[-1]

        storage.names = look
        try:
            with locked(storage, label):
                both_ended.wait(10)
                return "stayed"
        except OutputInUseError:
            both_ended.wait(10)
            return "gave way"

    with ThreadPoolExecutor() as pool:
        assert sorted(pool.map(come, labels)) == ["gave way", "stayed"]
    assert open_storage(url, "run").names(".locks") == []


def test_at_a_url_a_holder_that_is_gone_counts_for_nothing(tmp_path):
    pytest.importorskip("fsspec")
    storage = open_storage(f"memory://{tmp_path.name}", "run")
    held = {"pid": 1, "host": "elsewhere", "since": "x", "seen": time.time()}
    storage.write(".locks/run.json", json.dumps(held).encode())
    with pytest.raises(OutputInUseError, match="process 1 on elsewhere"), locked(storage, "1-of-2"):
        pass
    for seen in (time.time() - 1000, "nonsense"):
        storage.write(".locks/run.json", json.dumps({**held, "seen": seen}).encode())
        with locked(storage, "1-of-2"):
            pass
    storage.write(".locks/run.json", b"not json")
    with locked(storage, "run"):
        pass
