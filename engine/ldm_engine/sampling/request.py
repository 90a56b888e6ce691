"""One call's settings: everything the caller asked for, checked, with its defaults filled in.

Its twin in C++ is ``cpp/src/request.cpp``; ``tests/data/requests.json`` holds what both refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import Bundle
from ..bundle.model import MAX_SIZE, ModelInfo
from ..errors import ArgumentTypeError, InvalidArgumentError, ShapeError
from .noise import resolve_seeds
from .scheduler import DDIMScheduler, DDIMStep, batch_steps, check_eta, is_number
from .tokenizer import check_texts

MAX_BATCH = 1024  #: images of one batch that a command accepts
MAX_GUIDANCE = 10_000  #: far beyond use; keeps float32 finite
OUTPUT_TYPES = ("pil", "np")


@dataclass(frozen=True)
class Request:
    """A checked request for B images."""

    prompts: tuple[str, ...]  #: B
    negative_prompts: tuple[str, ...]  #: B; empty text is the unconditional one
    height: int  #: pixels
    width: int
    steps: tuple[DDIMStep, ...]
    guidance: NDArray[np.float32] | None  #: [B, 1, 1, 1], or None: no guidance
    seeds: tuple[int, ...]  #: B
    latents: NDArray[np.float32] | None  #: [B, C, h, w] in place of the seeds' first draw
    latents_shape: tuple[int, int, int, int]

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the batch's rows, B or with guidance 2B: [unconditional, text]."""
        return self.prompts if self.guidance is None else self.negative_prompts + self.prompts


def resolve_request(
    model: ModelInfo,
    scheduler: DDIMScheduler,
    *,
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None,
    height: int | None,
    width: int | None,
    num_inference_steps: int,
    guidance_scale: float | Sequence[float],
    eta: float | Sequence[float],
    seed: int | Sequence[int] | None,
    latents: Any,
) -> Request:
    """Check the arguments of ``LDMTextToImagePipeline.__call__``, which documents them."""
    prompts = _texts("prompt", prompt)
    count = len(prompts)
    height, width = check_size("height", height, model), check_size("width", width, model)
    shape = (
        count,
        model.latent_channels,
        height // model.scale_factor,
        width // model.scale_factor,
    )
    return Request(
        prompts=prompts,
        negative_prompts=_negative_prompts(negative_prompt, count),
        height=height,
        width=width,
        steps=_steps(scheduler, num_inference_steps, eta, count),
        guidance=_guidance(guidance_scale, count),
        seeds=tuple(resolve_seeds(seed, count)),
        latents=None if latents is None else _latents(latents, shape, model),
        latents_shape=shape,
    )


def check_request(
    bundle: Bundle,
    *,
    prompt: Sequence[str],
    negative_prompt: str | Sequence[str] | None = None,
    seed: int | Sequence[int] = 0,
    **settings: Any,
) -> Request:
    """Refuse what a pipeline over `bundle` would refuse, before it loads gigabytes."""
    scheduler = DDIMScheduler.from_config(bundle.scheduler_config)
    return resolve_request(
        bundle.model,
        scheduler,
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=seed,
        latents=None,
        **settings,
    )


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    elif not isinstance(value, (list, tuple)):
        raise ArgumentTypeError(
            f"`{name}` is {value!r} ({type(value).__name__}); text or a list of texts is accepted."
        )
    if not value:
        raise InvalidArgumentError(f"`{name}` is an empty list; give at least one text.")
    check_texts(name, value)
    return tuple(value)


def _negative_prompts(value: Any, count: int) -> tuple[str, ...]:
    texts = _texts("negative_prompt", "" if value is None else value)
    if isinstance(value, (list, tuple)) and len(texts) != count:
        raise InvalidArgumentError(
            f"`negative_prompt` lists {len(texts)} texts for {count} prompts; "
            "give one an image, or one text for all."
        )
    return texts if len(texts) == count else texts * count


def check_size(name: str, value: Any, model: ModelInfo) -> int:
    """`value` pixels, or the model's own size for None; raises ``ShapeError`` if it has no such."""
    if value is None:
        return model.default_size
    multiple = model.pixel_multiple
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not 0 < value <= MAX_SIZE or value % multiple:
        raise ShapeError(
            f"`{name}` is {value!r}; multiples of {multiple} up to {MAX_SIZE} pixels are accepted: "
            f"the autoencoder shrinks by {model.scale_factor}, and the UNet's levels by "
            f"{model.size_multiple} more. The model was trained at {model.default_size}."
        )
    return int(value)


def check_guidance_scale(value: Any) -> None:
    """Raise ``InvalidArgumentError`` unless `value` is a number in the accepted range."""
    if not is_number(value) or not abs(value) <= MAX_GUIDANCE:
        raise InvalidArgumentError(
            f"`guidance_scale` is {value!r}; a number, or a list of one an image, is accepted, "
            f"between -{MAX_GUIDANCE} and {MAX_GUIDANCE}. 1.0 turns guidance off."
        )


def _steps(scheduler: DDIMScheduler, count: int, eta: Any, batch_size: int) -> tuple[DDIMStep, ...]:
    if isinstance(eta, np.ndarray) and eta.ndim == 0:
        eta = eta.item()
    etas = list(eta) if isinstance(eta, (list, tuple, np.ndarray)) else [eta] * batch_size
    if len(etas) != batch_size:
        raise InvalidArgumentError(
            f"`eta` lists {len(etas)} numbers for {batch_size} images; give one an image, or one "
            "number for all."
        )
    for value in etas:
        check_eta(value)
    etas = [float(value) for value in etas]  # NumPy's own scalars would widen the loop's arrays
    schedules = {value: scheduler.steps(count, value) for value in dict.fromkeys(etas)}
    return batch_steps([schedules[value] for value in etas])


def _guidance(value: Any, count: int) -> NDArray[np.float32] | None:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    values = value if isinstance(value, (list, tuple, np.ndarray)) else [value] * count
    for scale in values:
        check_guidance_scale(scale)
    if len(values) != count:
        raise InvalidArgumentError(
            f"`guidance_scale` lists {len(values)} numbers for {count} images; give one an image, "
            "or one number for all."
        )
    if all(scale == 1.0 for scale in values):
        return None
    return np.asarray(values, dtype=np.float32).reshape(count, 1, 1, 1)


def _latents(value: Any, shape: tuple[int, ...], model: ModelInfo) -> NDArray[np.float32]:
    try:
        latents = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(
            f"`latents` is a {type(value).__name__} that is no array ({error}); "
            f"a floating-point array of shape {shape} is accepted."
        ) from error
    if not np.issubdtype(latents.dtype, np.floating):
        raise ArgumentTypeError(
            f"`latents` has dtype {latents.dtype}; a floating-point array is accepted."
        )
    if latents.shape != shape:
        size = f"{shape[3] * model.scale_factor}x{shape[2] * model.scale_factor}"
        raise ShapeError(
            f"`latents` has shape {latents.shape}; {shape} is accepted here: {shape[0]} images of "
            f"{size} pixels. Pass latents of that shape, or other prompts, height or width."
        )
    latents = latents.astype(np.float32)
    if not np.isfinite(latents).all():
        raise InvalidArgumentError("`latents` contains NaN or infinity; only finite values run.")
    return latents
