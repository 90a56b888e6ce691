from __future__ import annotations

import json

import numpy as np
import pytest

from conftest import DATA
from ldm_engine.sampling.noise import NoiseStream

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
