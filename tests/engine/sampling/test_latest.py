from __future__ import annotations

import numpy as np

from ldm_engine.sampling.latest import Latest

ARRAY = np.zeros(10, np.float32)


def test_the_latest_are_kept_as_far_as_they_fit():
    made = []

    def make(key):
        made.append(key)
        return ARRAY

    latest = Latest(2 * ARRAY.nbytes)
    for key in ("a", "b", "a", "c", "a", "b"):
        assert latest.get(key, lambda key=key: make(key)) is ARRAY
    assert made == ["a", "b", "c", "b"]


def test_what_fits_in_no_way_is_made_anew():
    latest = Latest(1)
    assert latest.get("a", lambda: ARRAY) is ARRAY
    assert latest.get("a", lambda: ARRAY + 1)[0] == 1
