"""A row of a job file as images to render: fields checked, defaults filled in, ids and seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..bundle.model import ModelInfo
from ..errors import ArgumentTypeError, InvalidArgumentError
from ..sampling.noise import MAX_SEED
from ..sampling.request import check_guidance_scale, check_size
from ..sampling.scheduler import check_eta, check_num_inference_steps
from ..sampling.tokenizer import check_texts
from .identity import Identity, identify
from .known import SETTINGS_BYTES

MAX_IMAGES = 10_000  #: that one row may ask for
MAX_TEXT = 5_000  #: characters of a prompt; twice that fits the metadata of a JPEG
MAX_EXTRA_BYTES = 65_536  #: of other fields, as JSON; 10,000 images may wait for others in memory
#: The fields of a row that the engine reads; all others are carried into the records.
FIELDS = (
    "id", "prompt", "seed", "num_images", "num_inference_steps", "guidance_scale", "eta",
    "negative_prompt", "height", "width",
)  # fmt: skip

#: Images with the same key can share a batch: (height, width, steps, guided).
Group = tuple[int, int, int, bool]


@dataclass(frozen=True)
class Defaults:
    """What a row gets that does not say otherwise."""

    num_images: int = 1
    num_inference_steps: int = 50
    guidance_scale: float = 1.0
    eta: float = 0.0
    negative_prompt: str = ""
    height: int | None = None  #: None: the model's own size
    width: int | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One image to render."""

    identity: Identity
    row: int  #: of the job file
    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    eta: float
    height: int
    width: int
    extra: Mapping[str, Any] = field(default_factory=dict)  #: fields carried into the record

    @property
    def group(self) -> Group:
        """What the images of one batch have in common."""
        return self.height, self.width, self.num_inference_steps, self.guidance_scale != 1.0

    @property
    def settings(self) -> bytes:
        """A short hash of all that decides over the pixels, beside the bundle and the machine."""
        decisive = (
            self.prompt, self.negative_prompt, self.seed, self.num_inference_steps,
            self.guidance_scale, self.eta, self.height, self.width,
        )  # fmt: skip
        return hashlib.sha256(repr(decisive).encode()).digest()[:SETTINGS_BYTES]


class RowReader:
    """Turns rows into tasks for one model."""

    def __init__(self, model: ModelInfo, max_steps: int, defaults: Defaults) -> None:
        """Raises ``InvalidArgumentError`` if a default is outside its range.

        `max_steps` is the largest number of denoising steps.
        """
        self._model = model
        self._max_steps = max_steps
        self._defaults = asdict(defaults)
        try:
            self.tasks(1, {"prompt": ""})
        except (InvalidArgumentError, ArgumentTypeError) as error:
            raise type(error)(f"A default for all jobs does not hold: {error}") from error

    def tasks(self, row: int, fields: Mapping[str, Any]) -> list[Task]:
        """The images that a row asks for; a field that is None counts as absent.

        Raises:
            InvalidArgumentError: naming what is wrong with the row.
            ArgumentTypeError: if a field has the wrong type.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        if "prompt" not in given:
            raise InvalidArgumentError("`prompt` is missing; every job needs one, '' is accepted.")
        settings = {**self._defaults, **{n: given[n] for n in FIELDS if n in given}}
        prompt = _text("prompt", settings["prompt"])
        negative_prompt = _text("negative_prompt", settings["negative_prompt"])
        steps = _number("num_inference_steps", settings["num_inference_steps"], whole=True)
        check_num_inference_steps(steps, self._max_steps)
        guidance = _number("guidance_scale", settings["guidance_scale"])
        check_guidance_scale(guidance)
        eta = _number("eta", settings["eta"])
        check_eta(eta)
        height, width = (self._size(name, settings[name]) for name in ("height", "width"))
        extra = {name: value for name, value in given.items() if name not in FIELDS}
        _check_extra(extra)
        return [
            Task(
                identity=identity,
                row=row,
                prompt=prompt,
                negative_prompt=negative_prompt,
                seed=seed,
                num_inference_steps=int(steps),
                guidance_scale=float(guidance),
                eta=float(eta),
                height=height,
                width=width,
                extra=extra,
            )
            for identity, seed in _images(row, settings)
        ]

    def _size(self, name: str, value: Any) -> int:
        return check_size(name, value if value is None else _number(name, value, True), self._model)


def _images(row: int, settings: Mapping[str, Any]) -> list[tuple[Identity, int]]:
    """Id and seed of each image: `id`, `id`-2, `id`-3, ...; seeds s, s + 1, ... or the ids' own."""
    count = _number("num_images", settings["num_images"], whole=True)
    if not 1 <= count <= MAX_IMAGES:
        raise InvalidArgumentError(f"`num_images` is {count}; 1 to {MAX_IMAGES} is accepted.")
    text = _id(settings.get("id", row))
    identities = [identify(text if i == 0 else f"{text}-{i + 1}") for i in range(int(count))]
    first = settings.get("seed")
    if first is None:
        return [(identity, identity.seed) for identity in identities]
    first = int(_number("seed", first, whole=True))
    if not 0 <= first <= MAX_SEED - (len(identities) - 1):
        raise InvalidArgumentError(
            f"`seed` is {first} for {len(identities)} images; whole numbers from 0 to {MAX_SEED} "
            "are accepted for each, and images get the seeds s, s + 1, ..."
        )
    return [(identity, first + i) for i, identity in enumerate(identities)]


def _id(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ArgumentTypeError(
            f"`id` is {_shown(value)} ({type(value).__name__}); text or a whole number is accepted."
        )
    text = str(value)
    if not text:
        raise InvalidArgumentError("`id` is empty; give one, or leave it out for the row's number.")
    check_texts("id", [text])
    return text


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ArgumentTypeError(
            f"`{name}` is {_shown(value)} ({type(value).__name__}); text is accepted."
        )
    check_texts(name, [value])
    if len(value) > MAX_TEXT:
        raise InvalidArgumentError(
            f"`{name}` has {len(value)} characters; up to {MAX_TEXT} are accepted."
        )
    return value


def _number(name: str, value: Any, whole: bool = False) -> Any:
    """`value` as a number; text is read as one, since CSV knows nothing else."""
    number = value
    if isinstance(value, str):
        try:
            number = int(value)
        except ValueError:
            try:
                number = float(value)
            except ValueError:
                number = None
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        number = None
    elif whole and isinstance(number, float):
        number = int(number) if number.is_integer() else None
    if number is None:
        kind = "a whole number" if whole else "a number"
        raise ArgumentTypeError(
            f"`{name}` is {_shown(value)} ({type(value).__name__}); {kind} is accepted."
        )
    return number


def _check_extra(extra: Mapping[str, Any]) -> None:
    try:
        size = len(json.dumps(extra, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(
            f"the fields {_shown(list(extra))} cannot be kept as JSON: {error}"
        ) from error
    if size > MAX_EXTRA_BYTES:
        raise InvalidArgumentError(
            f"the fields {_shown(list(extra))} have {size} bytes as JSON; up to {MAX_EXTRA_BYTES} "
            "are accepted. Keep what is longer elsewhere, by the id."
        )


def _shown(value: Any) -> str:
    """`value` as Python writes it, cut where it is long."""
    try:
        shown = repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        shown = "a huge number"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
