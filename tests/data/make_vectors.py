"""Writes the vectors that the Python and C++ twins are held to: noise.json and scheduler.json.

The scheduler's come from the code itself: they pin it, and make twins agree. That it is right is
shown beside them, against diffusers (tests/engine/test_scheduler.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ldm_engine.sampling.scheduler import DDIMScheduler

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


def noise_vectors() -> list[dict[str, object]]:
    """The first and last values of 3 x [4, 8, 8] normals drawn one array after the other."""
    vectors = []
    for seed in SEEDS:
        stream = np.random.RandomState(seed)
        draws = [stream.standard_normal((4, 8, 8)).reshape(-1) for _ in range(3)]
        ends = [{"first": d[:9].tolist(), "last": d[-9:].tolist()} for d in draws]
        vectors.append({"seed": seed, "draws": ends})
    return vectors


def scheduler_vectors() -> list[dict[str, object]]:
    """The folded steps of both published files."""
    vectors = []
    for name, config in (("huggingface", HUGGINGFACE), ("paddlenlp", PADDLENLP)):
        for count, eta in ((1, 0.0), (3, 0.5), (50, 0.0), (50, 1.0), (999, 0.3), (1000, 0.0)):
            steps = DDIMScheduler.from_config(config).steps(count, eta)
            kept = steps if count <= 50 else (*steps[:5], *steps[-5:])
            rows = [[s.timestep, s.latents_scale, s.noise_pred_scale, s.sigma] for s in kept]
            entry = {"file": name, "config": config, "num_inference_steps": count, "eta": eta}
            vectors.append({**entry, "steps": rows})
    return vectors


if __name__ == "__main__":
    for name, vectors in (("noise", noise_vectors()), ("scheduler", scheduler_vectors())):
        (HERE / f"{name}.json").write_text(json.dumps(vectors, indent=1) + "\n")
