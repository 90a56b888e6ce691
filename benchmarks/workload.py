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
    solver: str = "ddim"

    def __str__(self) -> str:
        if self.name != "image":
            return self.name
        solver = "" if self.solver == "ddim" else f" of {self.solver}"
        return f"{self.name} batch {self.batch}, {self.steps} steps{solver}"


@dataclass(frozen=True)
class Timing:
    """How often a task is timed: `rounds` turns of at least `turn_s` seconds each."""

    task: Task
    rounds: int
    turn_s: float
    peers: tuple[str, ...] | None = None  #: who does it; None for all
    #: Who takes turns with them; None: the plan's reference of the precision.
    baseline: str | None = None
    baseline_task: Task | None = None  #: what that one does; None: the same


@dataclass(frozen=True)
class Target:
    """What the project set out to reach: `peer` takes at least `ratio` times as long as ours."""

    peer: str
    task: Task
    ratio: float
    baseline: str | None = None  #: whom "ours" is; None: the plan's reference of the precision
    baseline_task: Task | None = None  #: what that one does; None: the same


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
    loop_solver: str = "ddim"  #: by which the loop's cost is accounted for

    @property
    def tasks(self) -> list[Task]:
        """All that anyone does."""
        timings = [timing for group in self.groups for timing in group]
        both = [task for timing in timings for task in (timing.task, timing.baseline_task) if task]
        return list(dict.fromkeys(both))


#: Whom the longest runs of the large model compare: what a user would pick instead, and int8.
MAIN = (
    *("diffusers-eager-fp32", "straight-openvino-fp32"),
    *("diffusers-eager-bf16", "straight-openvino-bf16", "ours-openvino-int8"),
)
_ONE_IMAGE = Task("image", steps=50)
#: The fewest calls by which the shapes model's pictures, at this guidance, are as near to the
#: converged ones as with 50 of DDIM: in median, 10th percentile and least.
_DPMSOLVER = Task("image", steps=30, solver="dpmsolver++")
_FITTED = Task("image", steps=17, solver="fitted")
_OTHERS = ("diffusers-eager-{}", "straight-openvino-{}")


def _fewest(rounds: int, turn_s: float) -> tuple[Timing, ...]:
    """Ours fitted, in turn with what it saves: 50 steps of all, and the fewest of the others."""
    fastest = ("ours-openvino-int8", _FITTED)
    timings = [Timing(_ONE_IMAGE, rounds, turn_s, ("diffusers-eager-fp32",), *fastest)]
    for precision, others in (("fp32", _OTHERS), ("bf16", _OTHERS), ("int8", ())):
        ours, peers = f"ours-openvino-{precision}", tuple(o.format(precision) for o in others)
        timings += [
            Timing(_ONE_IMAGE, rounds, turn_s, (ours, *peers), ours, _FITTED),
            Timing(_DPMSOLVER, rounds, turn_s, peers, ours, _FITTED),
        ]
    return tuple(timings)


SHAPES = Plan(
    "shapes",
    "the shapes model that the repository ships",
    64,
    (
        (
            *(Timing(Task(name), 6, 0.2) for name in STAGES),
            *(Timing(Task("image", steps=steps), 6, 0.2) for steps in (10, 50)),
        ),
        (
            *_fewest(6, 0.2),
            Timing(_ONE_IMAGE, 6, 0.2, ("ppdiffusers-fp32",), "ours-openvino-fp32", _FITTED),
            Timing(_DPMSOLVER, 6, 0.2, ("ppdiffusers-fp32",), "ours-openvino-fp32", _FITTED),
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
#: What ``LARGE`` leaves out: an hour by itself.
LARGE_FEWEST = Plan(
    "large-fewest",
    LARGE.description,
    LARGE.image_size,
    (_fewest(5, 0.0),),
    start_rounds=0,
    start_steps=2,
    loop_solver="fitted",
    targets=(
        Target("ours-openvino-bf16", _ONE_IMAGE, 2.63, "ours-openvino-bf16", _FITTED),
        Target("diffusers-eager-bf16", _ONE_IMAGE, 4.0, "ours-openvino-bf16", _FITTED),
        Target("diffusers-eager-bf16", _DPMSOLVER, 2.5, "ours-openvino-bf16", _FITTED),
        Target("diffusers-eager-fp32", _ONE_IMAGE, 15.0, "ours-openvino-int8", _FITTED),
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
PLANS = {plan.model: plan for plan in (SHAPES, LARGE, LARGE_FEWEST, GPU)}
