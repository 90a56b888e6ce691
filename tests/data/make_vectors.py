"""Writes the vectors that the Python and C++ twins are held to: noise, solvers, loop, settings.

They come from the code itself: they pin it, and make twins agree. That it is right is shown beside
them, against NumPy and diffusers (tests/engine/sampling).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_engine.sampling.loop import Known, denoise
from ldm_engine.sampling.noise import NoiseStream
from ldm_engine.sampling.schedule import NoiseSchedule
from ldm_engine.sampling.settings import SETTINGS
from ldm_engine.sampling.solvers import Row, ddim_rows, join_rows, solver_rows

HERE = Path(__file__).parent
SEEDS = (0, 1, 42, 2**31, 2**32 - 1)
HUGGINGFACE = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
}
PADDLENLP = {
    **HUGGINGFACE,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
LINSPACE = {**HUGGINGFACE, "timestep_spacing": "linspace"}


FILES = {"huggingface": HUGGINGFACE, "paddlenlp": PADDLENLP, "linspace": LINSPACE}


def noise_vectors() -> list[dict[str, object]]:
    """The first and last values of 3 x [4, 8, 8] normals drawn one array after the other."""
    vectors = []
    for seed in SEEDS:
        stream = np.random.RandomState(seed)
        draws = [stream.standard_normal((4, 8, 8)).reshape(-1) for _ in range(3)]
        ends = [{"first": d[:9].tolist(), "last": d[-9:].tolist()} for d in draws]
        vectors.append({"seed": seed, "draws": ends})
    return vectors


def row_facts(row: Row) -> dict[str, Any]:
    """A row of one image as JSON."""
    return {"timestep": row.timestep, "p": row.p, "q": row.q, "a": row.a, "b": row.b, "s": row.s}


def solver_vectors() -> list[dict[str, object]]:
    """The rows of both published files, and of one with steps from the first timestep to the last.

    Of long schedules the first and the last five.
    """
    vectors = []
    for name, config in FILES.items():
        for count, eta in ((1, 0.0), (3, 0.5), (50, 0.0), (50, 1.0), (999, 0.3), (1000, 0.0)):
            rows = ddim_rows(NoiseSchedule.from_config(config), count, eta)
            kept = rows if count <= 50 else (*rows[:5], *rows[-5:])
            entry = {"file": name, "config": config, "solver": "ddim", "eta": eta}
            entry |= {"timesteps": [], "num_inference_steps": count}
            vectors.append(entry | {"rows": [row_facts(r) for r in kept]})
        for solver, count, timesteps in (
            ("ddim", 4, [999, 700, 20, 0]),
            ("dpmsolver++", 4, [999, 700, 20, 0]),
            *(("dpmsolver++", count, []) for count in (1, 2, 3, 10, 17, 40, 50, 1000)),
        ):
            schedule = NoiseSchedule.from_config(config)
            rows = solver_rows(solver, schedule, count, timesteps or None)
            kept = rows if count <= 50 else (*rows[:5], *rows[-5:])
            entry = {"file": name, "config": config, "solver": solver, "eta": 0.0}
            entry |= {"timesteps": timesteps, "num_inference_steps": count}
            vectors.append(entry | {"rows": [row_facts(r) for r in kept]})
    return vectors


class RecordedUNet:
    """Stands where a UNet program does, and gives predictions that were made before."""

    def __init__(self, latents: NDArray[np.float32], predictions: NDArray[np.float32]) -> None:
        self.inputs = {"latents": latents, "time_shift": np.zeros((1, 1), np.float32)}
        self.outputs = {"noise_pred": np.empty_like(predictions[0])}
        self._predictions = iter(predictions)

    def run(self, unchanged: object = ()) -> None:
        """Give the next prediction."""
        self.outputs["noise_pred"][:] = next(self._predictions)


#: Rows of no solver in particular: a history of three, latents in it, and noise.
LOOP_ROWS = (
    Row(900, 1.25, -0.75, 0.9, (0.125,), 0.0),
    Row(600, 1.125, -0.5, 0.8, (0.25, -0.0625), 0.25),
    Row(300, 0.0, 1.0, 1.1, (-0.3, 0.2, 0.05), 0.0),
    Row(100, 1.01, -0.1, 0.7, (0.6, -0.25, 0.125), 0.5),
    Row(0, 1.0, -0.05, 0.0, (1.0,), 0.0),
)
#: After each of them, weights of what is known and of its noise.
LOOP_LEVELS = ((0.1, 0.995), (0.4, 0.917), (0.8, 0.6), (0.99, 0.141), (1.0, 0.0))


def loop_vectors() -> list[dict[str, object]]:
    """Two images through ``LOOP_ROWS``.

    In the second case they differ in b and s, in the third a part of each is known.
    """
    vectors = []
    second = tuple(replace(r, b=tuple(w / 2 for w in r.b), s=r.s / 2) for r in LOOP_ROWS)
    for guidance, images, is_known in (
        (None, (LOOP_ROWS,) * 2, False),
        ([1.5, 6.0], (LOOP_ROWS, second), False),
        ([1.5, 6.0], (LOOP_ROWS, second), True),
    ):
        shape = (2, 4, 2, 2)
        stream = np.random.RandomState(3)
        latents = stream.standard_normal(shape).astype(np.float32)
        rows = 2 if guidance is None else 4
        predictions = stream.standard_normal((len(LOOP_ROWS), rows, *shape[1:])).astype(np.float32)
        result = latents.copy()
        known = None
        if is_known:
            picture = stream.standard_normal(shape).astype(np.float32)
            keep = np.array([[[True, False], [False, False]], [[False, True], [True, True]]])
            known = Known(keep[:, None], picture, latents.copy(), LOOP_LEVELS)
        scales = None if guidance is None else np.float32(guidance).reshape(2, 1, 1, 1)
        shift = np.zeros((len(LOOP_ROWS), 1), np.float32)
        unet = RecordedUNet(result, predictions)
        noise = NoiseStream([5, 6])
        for _ in denoise(unet, join_rows(images), shift, scales, noise, known):  # type: ignore[arg-type]
            pass
        vectors.append(
            {
                "shape": shape,
                "guidance": guidance,
                "seeds": [5, 6],
                "rows": [[row_facts(row) for row in rows] for rows in images],
                "latents": latents.reshape(-1).tolist(),
                "known": known
                and {
                    "keep": known.keep.astype(int).reshape(-1).tolist(),
                    "image": known.image.reshape(-1).tolist(),
                    "levels": known.levels,
                },
                "noise_pred": [p.reshape(-1).tolist() for p in predictions],
                "expected": result.reshape(-1).tolist(),
            }
        )
    return vectors


def settings_vectors() -> list[dict[str, object]]:
    """What may be asked of an image; a maximum that depends on the model is null."""
    kinds = {str: "text", int: "whole number", float: "number", list: "list", Path: "picture"}
    return [
        {
            "name": s.name,
            "field": s.field,
            "kind": kinds[s.kind],
            "default": s.default,
            "command_default": s.default if s.command_default is None else s.command_default,
            "minimum": s.minimum,
            "maximum": None if callable(s.maximum) else s.maximum,
            "is_per_image": s.spread is not None,
        }
        for s in SETTINGS
    ]


if __name__ == "__main__":
    for name, vectors in (
        ("noise", noise_vectors()),
        ("solvers", solver_vectors()),
        ("loop", loop_vectors()),
        ("settings", settings_vectors()),
    ):
        (HERE / f"{name}.json").write_text(json.dumps(vectors, indent=1) + "\n")
