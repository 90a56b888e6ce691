"""What every peer is given to do: the same prompts and latents, and how often for each model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldm_engine.sampling.noise import NoiseStream

LATENT_CHANNELS = 4
WARM_UP = 2  #: calls of one step before those that count
BATCHES = (1, 2, 4, 8)
STAGES = ("unet_step", "text_encoder", "vae_decoder")
_PROMPTS = (
    "a small red circle on the left and a large blue star on the right, white background",
    "a large green triangle in the center, black background",
    "a small yellow star at the top and a large purple square at the bottom, gray background",
    "a large orange circle on the right",
    "a large red star at the bottom, white background",
    "a small green square in the center, gray background",
    "a large yellow triangle on the left and a small blue circle on the right",
    "a small purple triangle at the top, black background",
)


def prompts(count: int) -> list[str]:
    """As many different texts, of the shapes model's language."""
    return list(_PROMPTS[:count])


def latents(count: int, size: int) -> NDArray[np.float32]:
    """[count, 4, size, size], image i from seed i."""
    values = np.empty((count, LATENT_CHANNELS, size, size), np.float32)
    NoiseStream(range(count)).fill(values)
    return values


@dataclass(frozen=True)
class Task:
    """One kind of work: "text_encoder", "unet_step", "vae_decoder" or "image"."""

    name: str
    batch: int = 1
    steps: int = 1

    def __str__(self) -> str:
        details = f" batch {self.batch}, {self.steps} steps" if self.name == "image" else ""
        return self.name + details


@dataclass(frozen=True)
class Timing:
    """How often a task is timed: `rounds` turns of at least `turn_s` seconds each."""

    task: Task
    rounds: int
    turn_s: float
    peers: tuple[str, ...] | None = None  #: who does it; None for all


@dataclass(frozen=True)
class Target:
    """What the project set out to reach: `peer` takes at least `ratio` times as long as ours."""

    peer: str
    task: Task
    ratio: float


@dataclass(frozen=True)
class Plan:
    """All that is measured for one model; what matters most comes first."""

    model: str
    description: str
    image_size: int  #: pixels
    groups: tuple[tuple[Timing, ...], ...]
    start_rounds: int
    start_steps: int
    targets: tuple[Target, ...] = ()
    device: str = "cpu"
    #: Takes turns with the peers in fp32; the results of all are compared with its own.
    reference: str = "ours-openvino-fp32"
    #: Takes turns with the peers of a lower precision, and itself with the reference.
    reduced_reference: str = "ours-openvino-bf16"


#: Whom the longest runs of the large model compare: what a user would pick instead, and int8.
MAIN = (
    *("diffusers-eager-fp32", "straight-openvino-fp32"),
    *("diffusers-eager-bf16", "straight-openvino-bf16", "ours-openvino-int8"),
)
_ONE_IMAGE = Task("image", steps=50)
SHAPES = Plan(
    "shapes",
    "the shapes model that the repository ships",
    64,
    (
        (
            *(Timing(Task(name), 6, 0.2) for name in STAGES),
            *(Timing(Task("image", steps=steps), 6, 0.2) for steps in (10, 50)),
        ),
        tuple(Timing(Task("image", batch, 20), 3, 0.0) for batch in BATCHES),
    ),
    start_rounds=3,
    start_steps=10,
)
LARGE = Plan(
    "large",
    "the published architecture with seeded random weights",
    256,
    (
        (
            *(Timing(Task(name), 9, 0.0) for name in STAGES),
            Timing(Task("image", steps=10), 6, 0.0, MAIN),
            Timing(_ONE_IMAGE, 6, 0.0, MAIN),
        ),
        (Timing(Task("image", steps=10), 3, 0.0),),
        tuple(Timing(Task("image", batch, 5), 2, 0.0, MAIN) for batch in BATCHES),
    ),
    start_rounds=3,
    start_steps=2,
    targets=(
        Target("diffusers-eager-fp32", _ONE_IMAGE, 2.4),
        Target("diffusers-eager-bf16", _ONE_IMAGE, 2.0),
        Target("straight-openvino-fp32", _ONE_IMAGE, 1.05),
        Target("straight-openvino-bf16", _ONE_IMAGE, 1.05),
    ),
)
#: Has not yet run on hardware. CUDA_VISIBLE_DEVICES chooses among several GPUs.
GPU = Plan(
    "gpu",
    "the published architecture with seeded random weights, on a GPU",
    256,
    (
        (
            *(Timing(Task(name), 30, 0.2) for name in STAGES),
            *(Timing(Task("image", steps=steps), 6, 0.5) for steps in (10, 50)),
        ),
        tuple(Timing(Task("image", batch, 20), 3, 0.5) for batch in BATCHES),
    ),
    start_rounds=3,
    start_steps=10,
    device="gpu:0",
    reference="ours-onnxruntime-fp32",
    reduced_reference="ours-onnxruntime-fp16",
)
PLANS = {plan.model: plan for plan in (SHAPES, LARGE, GPU)}
