"""A checked request for B images: their settings as columns, and the loop's arrays and rows.

Its twin in C++ is ``cpp/src/sampling/request.cpp``; ``tests/data/requests.json`` holds what both
refuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.model import ModelInfo
from ..errors import ArgumentTypeError, InvalidArgumentError, ShapeError
from .inputs import Input, read_inputs
from .rules import check_image, steps_to_run
from .settings import SETTINGS, Limits, batch_key
from .solvers import FITTED, Row, join_rows, solver_rows
from .values import list_texts, shown

MAX_BATCH = 1024  #: images of one batch that a command accepts


@dataclass(frozen=True)
class Request:
    """A checked request for B images."""

    limits: Limits  #: that the settings were checked against
    #: By setting the values of the B images, checked; equal ones where a call takes one for all.
    columns: Mapping[str, Sequence[Any]]
    latents: NDArray[np.float32] | None = None  #: [B, C, h, w] in place of the seeds' first draw

    def __len__(self) -> int:
        """B, the number of images."""
        return len(self.columns["prompt"])

    def values(self, image: int) -> dict[str, Any]:
        """The settings of one image."""
        return {name: column[image] for name, column in self.columns.items()}

    def part(self, start: int, stop: int) -> Request:
        """The request for the images from `start` up to `stop`."""
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        latents = None if self.latents is None else self.latents[start:stop]
        return Request(self.limits, columns, latents)

    def parts(self, batch_size: int) -> Iterator[Request]:
        """Requests for `batch_size` images each, or what is left, in order."""
        for start in range(0, len(self), batch_size):
            yield self.part(start, start + batch_size)

    @property
    def model(self) -> ModelInfo:
        """Facts of the model."""
        return self.limits.model

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.columns["height"][0])

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.columns["width"][0])

    @property
    def seeds(self) -> tuple[int, ...]:
        """B seeds."""
        return tuple(self.columns["seed"])

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the batch's rows, B or with guidance 2B: [unconditional, text]."""
        prompts = tuple(self.columns["prompt"])
        if self.guidance is None:
            return prompts
        return tuple(self.columns["negative_prompt"]) + prompts

    @property
    def latents_shape(self) -> tuple[int, int, int, int]:
        """[B, C, h, w]."""
        return latents_shape(self.model, len(self), self.height, self.width)

    @cached_property
    def guidance(self) -> NDArray[np.float32] | None:
        """[B, 1, 1, 1], or None: no image is guided."""
        scales = self.columns["guidance_scale"]
        if all(scale == 1.0 for scale in scales):
            return None
        return np.asarray(scales, dtype=np.float32).reshape(-1, 1, 1, 1)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The solver's rows, one a step."""
        images = [self.values(image) for image in range(len(self))]
        rows = {image["eta"]: self._rows_of(image) for image in images}  # all else is shared
        return join_rows([rows[image["eta"]] for image in images])

    def _rows_of(self, values: Mapping[str, Any]) -> tuple[Row, ...]:
        solver, steps = values["solver"], values["num_inference_steps"]
        if solver == FITTED:
            table = self.limits.tables.find(values["guidance_scale"], steps)
            return table.rows(self.limits.schedule)
        return solver_rows(
            solver, self.limits.schedule, steps, values["timesteps"], values["eta"],
            steps_to_run(values),
        )  # fmt: skip

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """B pictures to start from, or none; read when they are asked for first.

        Raises:
            InputError: if a file cannot be read, or was changed since it was looked at.
            InvalidArgumentError: if it is of a kind that is not accepted.
        """
        return read_inputs([self.values(image) for image in range(len(self))], self.model)

    @property
    def start_level(self) -> tuple[float, float]:
        """The weights of the picture and of the noise, before the first step."""
        return self.limits.schedule.level(self.rows[0].timestep)

    @property
    def levels(self) -> tuple[tuple[float, float], ...]:
        """Likewise after each step."""
        schedule = self.limits.schedule
        return (*(schedule.level(row.timestep) for row in self.rows[1:]), (1.0, 0.0))


def resolve_request(limits: Limits, settings: Mapping[str, Any], latents: Any = None) -> Request:
    """Check `settings`, of which a call gives some by name, and fill in defaults.

    Each is one value, or where ``settings.py`` says how it is spread, one or a list of one an
    image; ``LDMTextToImagePipeline.__call__`` documents them.

    Raises:
        ArgumentTypeError: if a setting is not known or has the wrong type.
        InvalidArgumentError: if a value is outside its range (``ShapeError`` for sizes).
    """
    if unknown := settings.keys() - {setting.name for setting in SETTINGS}:
        raise ArgumentTypeError(
            f"{', '.join(sorted(unknown))} is no setting of an image; "
            f"{', '.join(setting.name for setting in SETTINGS)} are accepted."
        )
    count = len(list_texts("prompt", settings.get("prompt")))
    spread = {}
    for setting in SETTINGS:
        value = settings.get(setting.name, setting.default)
        values = (
            [value] * count if setting.spread is None else setting.spread(setting, value, count)
        )
        spread[setting.name] = values
    images = [
        check_image(dict(zip(spread, values, strict=True)), limits)
        for values in zip(*spread.values(), strict=True)
    ]
    columns = {name: [values[name] for values in images] for name in spread}
    if len({batch_key(values) for values in images}) > 1 and FITTED in columns["solver"]:
        raise InvalidArgumentError(
            f"`guidance_scale` lists {shown(sorted(set(columns['guidance_scale'])))} with the "
            "solver fitted, whose weights belong to one guidance; one for all images of a call is "
            "accepted."
        )
    sizes = sorted(set(zip(columns["width"], columns["height"], strict=True)))
    if len(sizes) > 1:
        raise ShapeError(
            f"`image` lists pictures of {' and '.join(f'{w}x{h}' for w, h in sizes)} pixels; the "
            "images of a call have one size. Give `height` and `width`."
        )
    request = Request(limits, columns)
    if latents is None:
        return request
    if columns["image"][0] is not None:
        raise InvalidArgumentError(
            "`latents` is given beside `image`, whose own latents the steps begin with; one of "
            "them is accepted."
        )
    return Request(limits, columns, _latents(latents, request.latents_shape, limits.model))


def require_effect(request: Request) -> Request:
    """`request`, unless it has a negative prompt and no image of it has guidance.

    A recipe may: pictures were made so, and are made so again.

    Raises:
        InvalidArgumentError: if so.
    """
    if any(request.columns["negative_prompt"]) and request.guidance is None:
        raise InvalidArgumentError(
            "`negative_prompt` is given and has no effect: `guidance_scale` is 1, which is without "
            "guidance. Give another `guidance_scale`, such as 6, or leave it out."
        )
    return request


def latents_shape(
    model: ModelInfo, count: int, height: int, width: int
) -> tuple[int, int, int, int]:
    """[B, C, h, w] of `count` images of `height` and `width` pixels."""
    factor = model.scale_factor
    return count, model.latent_channels, height // factor, width // factor


def check_latents(value: Any, model: ModelInfo) -> NDArray[np.float32]:
    """`value` as latents [B, C, h, w] of any number and size that `model` has.

    Raises:
        ArgumentTypeError, ShapeError: if it is no such array.
    """
    channels, multiple = model.latent_channels, model.size_multiple
    accepted = f"[B, {channels}, h, w] with h and w multiples of {multiple}"
    latents = _floating(value, accepted)
    sides = latents.shape[2:]
    is_fit = latents.ndim == 4 and latents.shape[1] == channels and 0 not in latents.shape
    if not is_fit or any(side % multiple for side in sides):
        raise ShapeError(
            f"`latents` has shape {latents.shape}; {accepted} is accepted, as a call with the "
            "`output_type` 'latent' gives them."
        )
    return latents


def _latents(value: Any, shape: tuple[int, ...], model: ModelInfo) -> NDArray[np.float32]:
    latents = _floating(value, str(shape))
    if latents.shape != shape:
        size = f"{shape[3] * model.scale_factor}x{shape[2] * model.scale_factor}"
        raise ShapeError(
            f"`latents` has shape {latents.shape}; {shape} is accepted here: {shape[0]} images of "
            f"{size} pixels. Pass latents of that shape, or other prompts, height or width."
        )
    if not np.isfinite(latents).all():
        raise InvalidArgumentError("`latents` contains NaN or infinity; only finite values run.")
    return latents


def _floating(value: Any, accepted: str) -> NDArray[np.float32]:
    try:
        latents = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(
            f"`latents` is a {type(value).__name__} that is no array ({error}); "
            f"a floating-point array of shape {accepted} is accepted."
        ) from error
    if not np.issubdtype(latents.dtype, np.floating):
        raise ArgumentTypeError(
            f"`latents` has dtype {latents.dtype}; a floating-point array is accepted."
        )
    return latents.astype(np.float32, copy=False)
