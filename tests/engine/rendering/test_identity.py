from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm_engine.rendering.jobs.identities import identify

HOSTILE = [
    "../../x", "/etc/passwd", "..", ".", "a/b", "a\\b", "\0", "a\0b", "x" * 10_000, "con", "CON",
    "nul.txt", "lpt1", "com0.png", "aux.", "trailing.", "trailing ", " leading", "-rf", ".hidden",
    "🐿", "é", "A", "a", "a~" + "0" * 32, "~", "*", "?", "a:b", "C:\\x", "\n", "\u202e", "%2e%2e",
]  # fmt: skip


def _is_safe(stem):
    folder, name = stem.split("/")
    assert len(folder) == 2
    assert set(folder) <= set("0123456789abcdef")
    assert 1 <= len(name) <= 100
    assert name[0].isalnum() or name[0] in "_"
    assert name[-1] not in ". "
    assert all(c.isascii() and (c.isalnum() or c in "._-~") for c in name)
    assert name.split(".")[0].lower() not in ("con", "prn", "aux", "nul", "com1", "lpt1")


@pytest.mark.parametrize("text", HOSTILE, ids=repr)
def test_hostile_ids_have_safe_names(text):
    _is_safe(identify(text).stem)
    assert "." not in identify(text).member


def test_no_two_of_them_share_a_name_on_any_file_system():
    stems = [identify(text).stem.split("/")[1].lower() for text in HOSTILE]
    assert len(set(stems)) == len(stems)


@given(st.text(min_size=1, max_size=300))
def test_any_id_has_a_safe_name(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    _is_safe(identify(text).stem)


@given(st.sets(st.text("aAbB.~-_/é\0 c1", min_size=1, max_size=4), min_size=2, max_size=40))
def test_different_ids_have_different_names(texts):
    assert len({identify(t).stem.lower() for t in texts}) == len(texts)
    assert len({identify(t).member.lower() for t in texts}) == len(texts)


def test_plain_ids_are_their_own_names():
    for text in ("cat-7", "000123", "a.b_c", "_x"):
        assert identify(text).stem.endswith(f"/{text}")


def test_the_seed_is_the_documented_one():
    """``printf %s cat-7 | sha256sum | cut -c1-8``, as a number."""
    assert identify("cat-7").seed == int(hashlib.sha256(b"cat-7").hexdigest()[:8], 16)
    assert identify("cat-7").stem == f"{hashlib.sha256(b'cat-7').hexdigest()[:2]}/cat-7"


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_shards_are_disjoint_complete_and_about_even(count):
    sizes = [0] * count
    for i in range(3000):
        sizes[identify(f"id {i}").shard(count)] += 1
    assert sum(sizes) == 3000
    assert min(sizes) > 0.4 * 3000 / count
