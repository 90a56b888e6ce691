"""The keywords of a pipeline's call, as type checkers read them (PEP 692).

``LDMTextToImagePipeline.__call__`` documents them; the tests hold these to its signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from .sampler import StepCallback


class OwnKeywords(TypedDict, total=False):
    """What diffusers' call does not have, in keywords alone."""

    num_images_per_prompt: int
    seed: int | Sequence[int] | None
    negative_prompt: str | Sequence[str] | None
    solver: str
    timesteps: Sequence[int] | None
    solver_table: str | None
    image: Any
    mask_image: Any
    strength: float | None
    image_sha256: str | Sequence[str] | None
    mask_sha256: str | Sequence[str] | None
    callback_on_step_end: StepCallback | None


class CallKeywords(OwnKeywords, total=False):
    """All but the prompt and what decides the type of the result."""

    height: int | None
    width: int | None
    num_inference_steps: int | Literal["auto"]
    guidance_scale: float | Sequence[float]
    eta: float | Sequence[float]
    generator: None
    latents: Any
