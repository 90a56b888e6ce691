from __future__ import annotations

import pytest

from ldm_engine.rendering.jobs import identify
from ldm_engine.rendering.journals import Journals
from ldm_engine.rendering.places import open_storage
from ldm_engine.rendering.selection import DONE, FAILED, Shard, States
from rendering_runs import read_lines

WHOLE = Shard()


@pytest.fixture
def begin(tmp_path):
    """Starts a run on one output: what it knows, and its journals."""

    def start(shard=WHOLE):
        storage = open_storage(str(tmp_path), shard.label)
        storage.prepare()
        known, journals = States(), Journals(storage, shard)
        journals.load(known)
        return storage, known, journals

    return start


def settings_of(prompt):
    return identify(prompt).digest[:7].hex()


def failure(name, prompt="p"):
    return {"row": 1, "id": name, "error": "flat", "settings": settings_of(prompt)}


def render(storage, name, prompt="p"):
    storage.write(f"images/{name}.png", b"image")
    return {
        "id": name, "path": f"images/{name}.png", "bytes": 5, "settings": settings_of(prompt)
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
    size = type(storage).size
    monkeypatch.setattr(
        type(storage), "size", lambda self, name: looked.append(name) or size(self, name)
    )
    _, known, _ = begin(first)
    assert sorted(looked) == sorted(f"images/{n}.png" for n in names if first.holds(identify(n)))
    assert all(known.get(identify(n).key)[0] == DONE for n in names)
