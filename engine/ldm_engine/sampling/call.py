"""The keywords of a pipeline's call: their types for checkers (PEP 692), and checks of its own.

``LDMTextToImagePipeline.__call__`` documents them; the tests hold these to its signature. What
images are set to is checked by ``request.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentTypeError, InvalidArgumentError
from ..machine.bars import Bar
from .output import OUTPUT_TYPES
from .sampler import StepCallback
from .screening import Check
from .values import is_whole, list_texts


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
    check: Check | None


class CallKeywords(OwnKeywords, total=False):
    """All but the prompt and what decides the type of the result."""

    height: int | None
    width: int | None
    num_inference_steps: int | Literal["auto"]
    guidance_scale: float | Sequence[float]
    eta: float | Sequence[float]
    generator: None
    latents: Any


def list_prompts(prompt: Any, count: Any) -> list[Any]:
    """The prompt of each image, `count` of them for each prompt."""
    if not is_whole(count):
        raise ArgumentTypeError(
            f"`num_images_per_prompt` is {count!r} ({type(count).__name__}); a whole number is "
            "accepted."
        )
    if count < 1:
        raise InvalidArgumentError(f"`num_images_per_prompt` is {count}; 1 or more is accepted.")
    return [text for text in list_texts("prompt", prompt) for _ in range(count)]


def advancing(bar: Bar, steps: int, callback: StepCallback | None) -> StepCallback | None:
    """`callback`, after which a `bar` that someone sees moves on."""
    if not bar.is_drawn:
        return callback

    def on_step(step: int, timestep: int, latents: NDArray[np.float32]) -> object:
        bar.advance()
        if step + 1 == steps:
            bar.describe("decoding")
        return None if callback is None else callback(step, timestep, latents)

    return on_step


def check_call(output_type: object, callback: object, check: object) -> None:
    """Raise an error if these, which are no settings of an image, are not accepted."""
    if not isinstance(output_type, str) or output_type not in OUTPUT_TYPES:
        raise InvalidArgumentError(
            f"`output_type` is {output_type!r}; {' or '.join(map(repr, OUTPUT_TYPES))} is accepted."
        )
    if callback is not None and not callable(callback):
        raise ArgumentTypeError(
            f"`callback_on_step_end` is {callback!r}; a function of (step, timestep, latents) "
            "is accepted."
        )
    if check is None:
        return
    if not callable(check):
        raise ArgumentTypeError(
            f"`check` is {check!r}; a function of (prompt, image or None) is accepted."
        )
    if output_type == "latent":
        raise InvalidArgumentError(
            "`check` is given with the `output_type` 'latent', which has no picture to be checked; "
            "'pil' or 'np' is accepted."
        )
