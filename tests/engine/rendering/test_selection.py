from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from ldm_engine.rendering.selection import DONE, FAILED, SEEN, States

KEYS = st.integers(0, 60).map(lambda i: hashlib.sha256(str(i).encode()).digest()[:16])
SETTINGS = st.none() | st.binary(min_size=7, max_size=7)
FLAGS = st.sampled_from([DONE, FAILED, *SEEN])


@given(st.lists(st.tuples(KEYS, FLAGS, SETTINGS), max_size=200))
def test_it_is_a_dictionary(entries):
    states, model = States(), {}
    for key, flags, settings in entries:
        states.add(key, flags, settings)
        before = model.get(key, (0, bytes(7)))
        model[key] = (before[0] | flags, before[1] if settings is None else settings)
    for i in range(61):
        key = hashlib.sha256(str(i).encode()).digest()[:16]
        assert states.get(key) == model.get(key, (0, bytes(7)))


@given(st.sets(st.binary(min_size=16, max_size=16), max_size=50))
def test_keys_that_begin_alike_are_kept_apart(keys):
    states = States()
    alike = {b"\0" * 8 + key[8:] for key in keys}
    for key in alike:
        states.add(key, DONE, key[-7:])
    assert all(states.get(key) == (DONE, key[-7:]) for key in alike)
