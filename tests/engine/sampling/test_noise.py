from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import DATA
from ldm_engine.errors import LDMEngineError
from ldm_engine.sampling.noise import MAX_SEED, NoiseStream, resolve_seeds

VECTORS = json.loads((DATA / "noise.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"seed{v['seed']}")
def test_draws_the_shared_vectors(vector):
    stream = NoiseStream([vector["seed"]])
    out = np.empty((1, 4, 8, 8), np.float32)
    for draw in vector["draws"]:
        stream.fill(out)
        flat = out.reshape(-1)
        np.testing.assert_array_equal(flat[:9], np.float32(draw["first"]))
        np.testing.assert_array_equal(flat[-9:], np.float32(draw["last"]))


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 32, 32), (4, 40, 56), (3, 5, 7)])
def test_drawing_in_parts_is_drawing_at_once(shape):
    out = np.empty((2, *shape), np.float32)
    stream = NoiseStream([7, 8])
    for _ in range(3):
        stream.fill(out)
    reference = np.random.RandomState(8)
    for _ in range(3):
        expected = reference.standard_normal(shape)
    np.testing.assert_array_equal(out[1], expected.astype(np.float32))


def test_an_image_does_not_depend_on_its_batch():
    alone, batch = np.empty((1, 4, 8, 8), np.float32), np.empty((5, 4, 8, 8), np.float32)
    NoiseStream([12]).fill(alone)
    NoiseStream([10, 11, 12, 13, 14]).fill(batch)
    np.testing.assert_array_equal(alone[0], batch[2])


def test_one_seed_counts_up_and_a_list_is_kept():
    assert resolve_seeds(5, 3) == [5, 6, 7]
    assert resolve_seeds([9, 9, 1], 3) == [9, 9, 1]
    assert resolve_seeds(np.array([4, 2]), 2) == [4, 2]
    assert resolve_seeds(MAX_SEED, 1) == [MAX_SEED]


def test_random_seeds_differ():
    first, second = resolve_seeds(None, 4), resolve_seeds(None, 4)
    assert len(set(first + second)) > 4


@pytest.mark.parametrize(
    ("seed", "count", "message"),
    [
        (-1, 1, "-1"),
        (2**32, 1, "4294967295"),
        (MAX_SEED, 2, "4294967296"),
        ([1, 2], 3, "2 seeds for 3 images"),
        ([0, -5], 2, "-5"),
        (1.5, 1, "1.5"),
        (True, 1, "True"),
        ("7", 1, "'7'"),
        ([None], 1, "None"),
    ],
)
def test_bad_seeds_are_refused(seed, count, message):
    with pytest.raises(LDMEngineError, match=message) as caught:
        resolve_seeds(seed, count)
    assert isinstance(caught.value, (ValueError, TypeError))


@given(st.integers(0, MAX_SEED - 8), st.integers(1, 8))
def test_seed_s_of_a_batch_is_seed_s_alone(seed, count):
    assert resolve_seeds(seed, count) == [resolve_seeds(seed + i, 1)[0] for i in range(count)]


def test_a_row_that_does_not_draw_stays_and_its_stream_too():
    noise = np.zeros((2, 1, 2, 2), np.float32)
    stream, alone = NoiseStream([7, 8]), NoiseStream([8])
    stream.fill(noise, [True, False])
    assert noise[0].any()
    assert not noise[1].any()
    stream.fill(noise)
    first = np.zeros((1, 1, 2, 2), np.float32)
    alone.fill(first)
    np.testing.assert_array_equal(noise[1:], first)
