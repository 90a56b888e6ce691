from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from ldm_engine.errors import OutputError
from ldm_engine.rendering.archives import TarJournals
from ldm_engine.rendering.jobs.identities import identify
from ldm_engine.rendering.places import open_storage
from ldm_engine.rendering.selection import DONE, FAILED, Shard, States
from rendering_runs import read_lines

NAMES = ["a", "b", "c", "d", "e"]


class Killed(BaseException):
    pass


class Archives:
    """Runs on one output with two images an archive."""

    def __init__(self, output):
        self.output = str(output)

    def begin(self, shard=Shard()):  # noqa: B008 - it is frozen
        self.storage = open_storage(self.output, shard.label)
        self.storage.prepare()
        self.known, self.journals = States(), TarJournals(self.storage, shard, 2)
        self.journals.load(self.known)

    def render(self, names=NAMES):
        """What is not done of `names`, and the end of the run."""
        for name in names:
            if not self.is_done(name):
                self.journals.commit([self.image(name)])
        self.journals.finish(True)

    def image(self, name):
        path = f"staged/{identify(name).stem}.png"
        content = f"image {name}".encode()
        self.storage.write(path, content)
        return {
            "id": name, "path": path, "bytes": len(content), "prompt": f"a {name}",
            "sha256": hashlib.sha256(content).hexdigest(), "settings": "00" * 7,
        }  # fmt: skip

    def is_done(self, name):
        return bool(self.known.get(identify(name).key)[0] & DONE)

    def archive(self, number):
        return self.storage.read(f"shards/{number:06}.tar")

    def members(self):
        """Content by image of all archives."""
        found = {}
        for name in self.storage.names("shards"):
            content = self.storage.read(f"shards/{name}")
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                for member in archive.getnames():
                    if member.endswith(".png"):
                        assert member not in found
                        found[member] = archive.extractfile(member).read()
        return found


@pytest.fixture
def archives(tmp_path):
    made = Archives(tmp_path)
    made.begin()
    return made


ALL = {f"{name}.png": f"image {name}".encode() for name in NAMES}


def test_what_others_put_there_is_left_alone(archives, tmp_path):
    (tmp_path / "shards").mkdir()
    names = ("shards/train-000000.tar", "shards/notes.txt", "staged-notes", "records-old.jsonl")
    for name in names:
        (tmp_path / name).write_text("mine")
    (tmp_path / "staged-backup").mkdir()
    archives.begin()
    archives.render()
    assert all((tmp_path / name).read_text() == "mine" for name in names)
    assert (tmp_path / "staged-backup").is_dir()
    assert not (tmp_path / "staged").exists()


@pytest.mark.parametrize("number", [0, 3])
def test_an_archive_of_anothers_is_refused_and_kept(archives, tmp_path, number):
    path = tmp_path / "shards" / f"{number:06}.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("x.jpg"))
    before = path.read_bytes()
    with pytest.raises(OutputError, match="move this archive away"):
        archives.begin()
    assert path.read_bytes() == before


def test_archives_outlive_their_records(archives, tmp_path):
    archives.render()
    before = archives.archive(0)
    (tmp_path / "records.jsonl").unlink()
    with pytest.raises(OutputError, match="records are lost"):
        archives.begin()
    assert archives.archive(0) == before


@pytest.mark.parametrize("number", [0, 2])
def test_a_cut_archive_is_told_and_a_missing_one_made_again(archives, tmp_path, number):
    archives.render()
    path = tmp_path / "shards" / f"{number:06}.tar"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OutputError, match="cut"):
        archives.begin()
    path.unlink()
    archives.begin()
    assert not archives.is_done("ace"[number])
    archives.render()
    assert archives.members() == ALL
    assert {r["id"] for r in read_lines(tmp_path / "records.jsonl")} == set(NAMES)


@pytest.mark.parametrize("number", [0, 2])
def test_the_number_of_a_vanished_archive_never_comes_again(archives, tmp_path, number):
    """Whoever has read it, or put it elsewhere, knows it by that number; also after a kill."""
    archives.render()
    (tmp_path / "shards" / f"{number:06}.tar").unlink()
    archives.begin()
    (notice,) = archives.journals.notices()
    assert f"shards/{number:06}.tar" in notice
    archives.begin()  # after a kill, before anything was rendered
    archives.render()
    there = {0: ["000001", "000002", "000003"], 2: ["000000", "000001", "000003"]}[number]
    assert archives.storage.names("shards") == [f"{name}.tar" for name in there]
    assert archives.members() == ALL
    (lost,) = read_lines(tmp_path / "lost.jsonl")
    assert lost == {"archive": f"shards/{number:06}.tar", "images": [2, 0, 1][number]}
    archives.begin()
    assert not list(archives.journals.notices())


def test_a_vanished_last_archive_is_no_trouble_while_images_wait(archives, tmp_path):
    for name in "abc":
        archives.journals.commit([archives.image(name)])
    (tmp_path / "shards" / "000000.tar").unlink()
    archives.begin()
    assert [archives.is_done(name) for name in "abc"] == [False, False, True]
    archives.render()
    assert archives.members() == ALL


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_an_image_that_vanishes_while_it_waits_is_made_again(tmp_path, place):
    if place == "memory":
        pytest.importorskip("fsspec")
    archives = Archives(tmp_path if place == "folder" else f"memory://{tmp_path}")
    archives.begin()
    image = archives.image("a")
    archives.journals.commit([image])
    archives.storage.remove(image["path"])
    with pytest.raises(OutputError, match="made again"):
        archives.journals.commit([archives.image("b")])
    archives.begin()
    assert not archives.is_done("a")
    archives.render()
    assert archives.members() == ALL


@pytest.mark.parametrize("when", ["_record", "rewrite"])
def test_an_archive_whose_records_a_kill_cut_off_is_taken_over(
    archives, tmp_path, monkeypatch, when
):
    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(archives.journals if when == "_record" else archives.storage, when, kill)
        with pytest.raises(Killed):
            archives.render()
    if when == "rewrite":  # and the second of its records is torn
        records = tmp_path / "records.jsonl"
        records.write_bytes(records.read_bytes()[:-5])
    before = archives.archive(0)
    archives.begin()
    assert archives.archive(0) == before
    assert archives.is_done("a")
    assert archives.is_done("b")
    archives.render()
    assert archives.members() == ALL
    assert {r["id"] for r in read_lines(tmp_path / "records.jsonl")} == set(NAMES)


def test_an_image_that_waits_is_no_failure_any_more(archives):
    key = identify("a").key
    failure = {"row": 1, "id": "a", "error": "flat", "settings": "11" * 7}
    archives.journals.commit([failure])
    archives.journals.commit([archives.image("a")])
    archives.begin()
    assert archives.known.get(key)[0] & (DONE | FAILED) == DONE
    assert archives.journals._waiting
