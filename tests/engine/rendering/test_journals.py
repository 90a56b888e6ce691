from __future__ import annotations

import hashlib
import io
import os

import pytest
from PIL import Image

from ldm_engine.rendering.jobs.identities import identify
from ldm_engine.rendering.journals import Journals
from ldm_engine.rendering.places import open_storage
from ldm_engine.rendering.selection import DONE, FAILED, Shard, States
from rendering_runs import read_lines

WHOLE = Shard()


@pytest.fixture
def begin(tmp_path):
    """Starts a run on one output: what it knows, and its journals."""

    def start(shard=WHOLE, **options):
        storage = open_storage(str(tmp_path), shard.label)
        storage.prepare()
        known, journals = States(), Journals(storage, shard, **options)
        journals.load(known)
        return storage, known, journals

    return start


def settings_of(prompt):
    return identify(prompt).digest[:7].hex()


def failure(name, prompt="p"):
    return {"row": 1, "id": name, "error": "flat", "settings": settings_of(prompt)}


def render(storage, name, prompt="p", content=b"image"):
    storage.write(f"images/{name}.png", content)
    return {
        "id": name, "path": f"images/{name}.png", "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(), "settings": settings_of(prompt),
    }  # fmt: skip


def test_the_last_failure_of_an_image_counts(begin, tmp_path):
    _, _, journals = begin()
    journals.record_bad_rows([{"row": 2, "id": None, "error": "no prompt"}])
    journals.commit([failure("a", "first"), failure("b")])
    journals.finish(True)
    _, _, journals = begin()
    journals.record_bad_rows([{"row": 3, "id": None, "error": "no prompt"}])
    journals.commit([failure("a", "second")])
    journals.finish(True)
    lines = read_lines(tmp_path / "failures.jsonl")
    assert [line["id"] for line in lines] == ["b", None, "a"]
    assert lines[-1]["settings"] == settings_of("second")
    _, known, _ = begin()
    assert known.get(identify("a").key) == (FAILED, bytes.fromhex(settings_of("second")))


def test_a_kill_before_the_end_leaves_the_last_failure_too(begin, tmp_path):
    _, _, journals = begin()
    journals.commit([failure("a", "first")])
    journals.commit([failure("a", "second")])
    _, known, _ = begin()
    assert known.get(identify("a").key)[1].hex() == settings_of("second")
    assert [line["settings"] for line in read_lines(tmp_path / "failures.jsonl")] == [
        settings_of("second")
    ]


def test_what_is_done_is_no_failure_any_more(begin, tmp_path):
    storage, _, journals = begin()
    journals.commit([failure("a", "first"), failure("b")])
    storage, _, journals = begin()
    journals.commit([render(storage, "a", "second")])
    journals.finish(True)
    assert [line["id"] for line in read_lines(tmp_path / "failures.jsonl")] == ["b"]
    assert [line["id"] for line in read_lines(tmp_path / "records.jsonl")] == ["a"]


def test_a_shard_looks_at_its_own_images_alone(begin, monkeypatch):
    first, second = Shard(1, 2), Shard(2, 2)
    names = [f"i{i}" for i in range(20)]
    for shard in (first, second):
        storage, _, journals = begin(shard)
        journals.commit([render(storage, n) for n in names if shard.holds(identify(n))])
    looked = []
    status = type(storage).status

    def look(self, name):
        if name.startswith("images/"):  # it looks at its journals' times too
            looked.append(name)
        return status(self, name)

    monkeypatch.setattr(type(storage), "status", look)
    _, known, _ = begin(first)
    assert sorted(looked) == sorted(f"images/{n}.png" for n in names if first.holds(identify(n)))
    assert all(known.get(identify(n).key)[0] == DONE for n in names)


def picture(image_format, colour="red"):
    content = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(content, image_format)
    return content.getvalue()


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("change", ["larger", "smaller", "same size", "no picture"])
def test_an_edited_image_is_told_and_left(begin, tmp_path, image_format, change):
    content = picture(image_format)
    storage, _, journals = begin()
    journals.commit([render(storage, name, content=content) for name in "ab"])
    path = tmp_path / "images/a.png"
    edited = {
        "larger": content + b"more", "smaller": b"GIF89a",
        "same size": content[:-1] + b"x", "no picture": b"edited by hand",
    }[change]  # fmt: skip
    path.write_bytes(edited)
    later_ns = (tmp_path / "records.jsonl").stat().st_mtime_ns + 1
    os.utime(path, ns=(later_ns, later_ns))
    for _ in range(2):
        _, known, journals = begin()
        assert known.get(identify("a").key)[0] == DONE
        (notice,) = journals.notices()
        assert "1 image was changed" in notice
        assert "images/a.png" in notice
        assert "b.png" not in notice
        assert journals.changed == 1
        assert path.read_bytes() == edited
    _, known, journals = begin(replace_changed=True)
    assert known.get(identify("a").key)[0] == 0
    assert known.get(identify("b").key)[0] == DONE
    assert "made again" in next(journals.notices())
    assert journals.changed == 0


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_a_cut_image_is_made_again(begin, tmp_path, image_format):
    content = picture(image_format)
    for size in (0, 3, 20, len(content) // 2, len(content) - 1):
        storage, known, journals = begin()
        journals.commit([render(storage, "a", content=content)])
        (tmp_path / "images/a.png").write_bytes(content[:size])
        _, known, journals = begin()
        assert known.get(identify("a").key)[0] == 0, size
        assert not list(journals.notices())


def test_a_copy_of_an_output_is_no_edited_one(begin, tmp_path):
    """Whose images have other times than where they were written, some later than the records."""
    storage, _, journals = begin()
    journals.commit([render(storage, name) for name in "ab"])
    later_ns = (tmp_path / "records.jsonl").stat().st_mtime_ns + 10**9
    os.utime(tmp_path / "images/a.png", ns=(later_ns, later_ns))
    os.utime(tmp_path / "images/b.png", ns=(0, 0))
    _, known, journals = begin()
    assert all(known.get(identify(name).key)[0] == DONE for name in "ab")
    assert not list(journals.notices())
