from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import DATA
from ldm_engine.sampling.loop import Known, denoise
from ldm_engine.sampling.noise import NoiseStream
from ldm_engine.sampling.solvers import Row, join_rows

VECTORS = json.loads((DATA / "loop.json").read_text())


class _Recorded(SimpleNamespace):
    """Predictions that were made before, where a UNet program stands."""

    def run(self, unchanged):
        self.outputs["noise_pred"][:] = next(self.predictions)


def _array(values, shape):
    return np.asarray(values, np.float32).reshape(shape)


def _read(vector):
    shape = tuple(vector["shape"])
    predictions = [np.asarray(p, np.float32).reshape(-1, *shape[1:]) for p in vector["noise_pred"]]
    unet = _Recorded(
        inputs={
            "latents": _array(vector["latents"], shape),
            "time_shift": np.zeros((1, 1), np.float32),
        },
        outputs={"noise_pred": np.empty_like(predictions[0])},
        predictions=iter(predictions),
    )
    images = [[Row(**{**row, "b": tuple(row["b"])}) for row in rows] for rows in vector["rows"]]
    guidance = None
    if vector["guidance"] is not None:
        guidance = _array(vector["guidance"], (-1, 1, 1, 1))
    return unet, images, predictions, guidance


def _known(vector):
    if vector["known"] is None:
        return None
    shape, known = tuple(vector["shape"]), vector["known"]
    keep = np.asarray(known["keep"], bool).reshape(shape[0], 1, *shape[2:])
    noise = _array(vector["latents"], shape)
    return Known(keep, _array(known["image"], shape), noise, known["levels"])


def _run(vector):
    unet, images, _, guidance = _read(vector)
    shift = np.zeros((len(images[0]), 1), np.float32)
    noise = NoiseStream(vector["seeds"])
    steps = denoise(unet, join_rows(images), shift, guidance, noise, _known(vector))
    assert list(steps) == list(range(len(shift)))
    return unet.inputs["latents"]


@pytest.mark.parametrize("vector", VECTORS, ids=["unguided", "guided", "known"])
def test_gives_the_shared_vectors(vector):
    np.testing.assert_array_equal(_run(vector).reshape(-1), np.float32(vector["expected"]))


@pytest.mark.parametrize("vector", VECTORS, ids=["unguided", "guided", "known"])
def test_is_the_weighted_sum_written_out(vector):
    """Each image by itself, in float64, with the whole history kept."""
    unet, images, predictions, guidance = _read(vector)
    for i, rows in enumerate(images):
        x = unet.inputs["latents"][i].astype(np.float64)
        stream = np.random.RandomState(vector["seeds"][i])
        history = []
        known = _known(vector)
        for step, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
            eps = prediction[i].astype(np.float64)
            if guidance is not None:
                eps += float(guidance[i, 0, 0, 0]) * (prediction[i + len(images)] - eps)
            history.append(row.p * x + row.q * eps)
            x = row.a * x + sum(w * history[-1 - k] for k, w in enumerate(row.b))
            if row.s:
                x += row.s * stream.standard_normal(x.shape)
            if known is not None:
                of_image, of_noise = known.levels[step]
                x = np.where(
                    known.keep[i], of_image * known.image[i] + of_noise * known.noise[i], x
                )
        np.testing.assert_allclose(_run(vector)[i], x, rtol=1e-5, atol=1e-5)
