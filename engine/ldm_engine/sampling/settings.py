"""THE list of an image's settings: each is declared here, once.

The call's checks, the commands' options, the job fields with their defaults, the recipe, the hash
by which a changed job is noticed, the gallery's facts and ``tests/data/settings.json``, which holds
the twin in C++ (``cpp/src/sampling/settings.cpp``), are made from ``SETTINGS``.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.model import MAX_SIZE, ModelInfo
from ..errors import ArgumentTypeError, InvalidArgumentError, ShapeError
from .fitted import DIGEST_DIGITS, Tables
from .pictures import Given, find_mask, find_picture
from .schedule import NoiseSchedule
from .solvers import FITTED, SOLVERS
from .values import check_prompts, is_number, is_whole, list_texts, shown

MAX_SEED = 2**32 - 1
MAX_GUIDANCE = 10_000  #: far beyond use; keeps float32 finite
HASH_BYTES = 7
AUTO = "auto"
_SHA256_DIGITS = 64
_FINDERS = {"image": find_picture, "mask_image": find_mask}

#: The values of one image by the settings' names, all of them, checked.
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """What a bundle accepts."""

    model: ModelInfo
    schedule: NoiseSchedule
    tables: Tables = field(default_factory=Tables)
    no_pictures: str = ""  #: why no picture can be started from

    @property
    def max_steps(self) -> int:
        """Timesteps that the model was trained with."""
        return self.schedule.num_train_timesteps


@dataclass(frozen=True)
class Setting:
    """One thing that may be set for an image.

    Numbers have a range, whose error text is ``accepted`` with ``{minimum}`` and ``{maximum}``
    filled in; ``check`` is for what a range cannot say.
    """

    name: str
    kind: type[str] | type[int] | type[float] | type[list[int]] | type[Path]
    help: str  #: of the commands' option; empty: the setting is each image's own
    default: Any = None  #: of Python's call and of jobs
    command_default: Any = None  #: of ``generate`` and ``render``, where it is another one
    minimum: float | None = None
    maximum: float | Callable[[Limits], float] | None = None
    accepted: str = ""
    choices: tuple[str, ...] = ()  #: of a text, if it is one of a few
    word: str = ""  #: that is accepted in the place of a whole number
    short: str = ""  #: its name as a field of jobs and an option, where that is another one
    #: Gives the checked value of one image, or raises.
    check: Callable[[Setting, Any, Limits], Any] | None = None
    #: Where a call takes one value an image: spreads what a call gives over B images, as
    #: ``_spread_numbers`` does. None: a call has one value, and so has a batch.
    spread: Callable[[Setting, Any, int], Sequence[Any]] | None = None
    #: Of a value that is spread, what images must have in common to share a batch nevertheless.
    batch_key: Callable[[Any], Hashable] | None = None
    #: What other programs call it, in small letters and digits: refused as a field of a job.
    aliases: str = ""
    #: True for all that is added: files that were written before it have no such setting, so its
    #: default is left out of recipes, hashes and fingerprints.
    is_later: bool = True

    @property
    def is_common(self) -> bool:
        """Whether the images of a run may share a default, which commands have an option for."""
        return bool(self.help)

    @property
    def field(self) -> str:
        """Its name as a field of jobs; with dashes, as an option."""
        return self.short or self.name

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture, which jobs and commands name by path or URL."""
        return self.kind is Path

    def checked(self, value: Any, limits: Limits) -> Any:
        """The `value` of one image.

        Raises:
            InvalidArgumentError: if it is outside the range (``ShapeError`` for sizes).
            ArgumentTypeError: if a text is none.
        """
        if self.check is not None:
            return self.check(self, value, limits)
        if self.word and isinstance(value, str) and value == self.word:
            return value
        if self.choices:
            if not isinstance(value, str) or value not in self.choices:
                raise InvalidArgumentError(
                    f"`{self.name}` is {shown(value)}; {', '.join(self.choices)} is accepted."
                )
            return value
        if self.kind is str:
            check_prompts(self.name, [value])
            return value
        maximum = self.maximum(limits) if callable(self.maximum) else self.maximum
        fits = is_whole(value) if self.kind is int else is_number(value)
        low, high = self.minimum, maximum
        if not (fits and (low is None or low <= value) and (high is None or value <= high)):
            accepted = self.accepted.format(minimum=low, maximum=high)
            raise InvalidArgumentError(f"`{self.name}` is {shown(value)}; {accepted}")
        return self.kind(value)

    def is_recorded(self, value: Any) -> bool:
        """Whether `value` takes part in recipes, hashes and fingerprints.

        Of a picture its hash does, which is a setting of its own.
        """
        return not self.is_picture and (not self.is_later or value != self.default)


def _check_negative_prompt(setting: Setting, value: Any, limits: Limits) -> str:
    text = "" if value is None else value
    check_prompts(setting.name, [text])
    return str(text)


def _check_size(setting: Setting, value: Any, limits: Limits) -> int:
    model = limits.model
    if value is None:
        return model.default_size
    multiple = model.pixel_multiple
    if not is_whole(value) or not 0 < value <= MAX_SIZE or value % multiple:
        raise ShapeError(
            f"`{setting.name}` is {shown(value)}; multiples of {multiple} up to {MAX_SIZE} pixels "
            f"are accepted: the autoencoder shrinks by {model.scale_factor}, and the UNet's levels "
            f"by {model.size_multiple} more. The model was trained at {model.default_size}."
        )
    return int(value)


def _check_timesteps(setting: Setting, value: Any, limits: Limits) -> tuple[int, ...] | None:
    """Numbers, or text with commas between them, since a command and CSV have nothing else."""
    if value is None or (isinstance(value, str) and not value):
        return None
    timesteps: list[Any] = []
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}(, *\d{1,9})*", value, re.ASCII):
        timesteps = [int(number) for number in value.split(",")]
    elif isinstance(value, (list, tuple, range)) or np.ndim(value) == 1:
        timesteps = list(value)
    if (
        not timesteps
        or not all(is_whole(t) and 0 <= t < limits.max_steps for t in timesteps)
        or any(later >= earlier for earlier, later in pairwise(timesteps))
    ):
        raise InvalidArgumentError(
            f"`{setting.name}` is {shown(value)}; a descending list of whole numbers from "
            f"{limits.max_steps - 1} to 0 is accepted, such as 999, 749, 499, 249."
        )
    return tuple(int(t) for t in timesteps)


def _check_digest(setting: Setting, value: Any, limits: Limits) -> str | None:
    if value is None or value == "":
        return None
    digits = DIGEST_DIGITS if setting.name == "solver_table" else _SHA256_DIGITS
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
        raise InvalidArgumentError(
            f"`{setting.name}` is {shown(value)}; the {digits} digits that a recipe has are "
            "accepted."
        )
    return value


def _check_picture(setting: Setting, value: Any, limits: Limits) -> Given | None:
    return _found(setting, value)


def _found(setting: Setting, value: Any) -> Given | None:
    if value is None:
        return None
    return _FINDERS[setting.name](setting.field, value)


def _check_strength(setting: Setting, value: Any, limits: Limits) -> float | None:
    if value is None:
        return None
    if not is_number(value) or not 0 < value <= 1:
        raise InvalidArgumentError(
            f"`{setting.name}` is {shown(value)}; a number above 0 (as the picture is) up to 1 "
            "(little of it is left) is accepted."
        )
    return float(value)


def _check_seed(setting: Setting, value: Any, limits: Limits) -> int:
    """The type was checked when the seeds were spread."""
    if not 0 <= value <= MAX_SEED:
        raise InvalidArgumentError(
            f"`seed` asks for {value}; whole numbers from 0 to {MAX_SEED} (2**32 - 1) "
            "are accepted for every image."
        )
    return int(value)


def _spread_prompts(setting: Setting, value: Any, count: int) -> Sequence[Any]:
    return list_texts(setting.name, value)


def _spread_texts(setting: Setting, value: Any, count: int) -> Sequence[Any]:
    texts = list_texts(setting.name, setting.default if value is None else value)
    if isinstance(value, (list, tuple)) and len(texts) != count:
        raise InvalidArgumentError(
            f"`{setting.name}` lists {len(texts)} texts for {count} prompts; "
            "give one an image, or one text for all."
        )
    return texts if len(texts) == count else texts * count


def _spread_numbers(setting: Setting, value: Any, count: int) -> Sequence[Any]:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, (list, tuple, np.ndarray)):
        return [value] * count
    if len(value) != count:
        raise InvalidArgumentError(
            f"`{setting.name}` lists {len(value)} numbers for {count} images; give one an image, "
            "or one number for all."
        )
    return list(value)


def _spread_pictures(setting: Setting, value: Any, count: int) -> Sequence[Any]:
    """One for all, or a list of one an image; each is looked at once."""
    if not isinstance(value, (list, tuple)):
        return [_found(setting, value)] * count
    if len(value) != count:
        raise InvalidArgumentError(
            f"`{setting.field}` lists {len(value)} pictures for {count} images; give one an image, "
            "or one for all."
        )
    if all(picture is None for picture in value):
        return list(value)
    if any(picture is None for picture in value):
        raise InvalidArgumentError(
            f"`{setting.field}` lists None among its pictures; give one for each image, and render "
            "images without in a call of their own."
        )
    found = {id(picture): _found(setting, picture) for picture in value}
    return [found[id(picture)] for picture in value]


def _spread_seeds(setting: Setting, value: Any, count: int) -> Sequence[int]:
    """A list as it is, one number s as s, s + 1, ..., None at random."""
    if value is None:
        return [secrets.randbelow(MAX_SEED + 1) for _ in range(count)]
    if isinstance(value, (str, bytes)):
        raise _not_a_seed(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, (Sequence, np.ndarray)):
        first = _whole_seed(value)
        return list(range(first, first + count))
    seeds = [_whole_seed(s) for s in value]
    if len(seeds) != count:
        raise InvalidArgumentError(
            f"`seed` lists {len(seeds)} seeds for {count} images; give one an image, "
            "or one number s for the seeds s, s + 1, ..."
        )
    return seeds


def _whole_seed(value: Any) -> int:
    if not is_whole(value) or isinstance(value, np.bool_):
        raise _not_a_seed(value)
    return int(value)


def _not_a_seed(value: Any) -> ArgumentTypeError:
    return ArgumentTypeError(
        f"`seed` is {value!r} ({type(value).__name__}); a whole number, a list of them, "
        "or None for random seeds is accepted."
    )


#: In the order of recipes and records.
SETTINGS: list[Setting] = [
    Setting(
        "prompt",
        str,
        "",
        spread=_spread_prompts,
        aliases="prompts positiveprompt textprompt",
        is_later=False,
    ),
    Setting(
        "negative_prompt",
        str,
        "What to guide away from.",
        default="",
        check=_check_negative_prompt,
        spread=_spread_texts,
        aliases="negative neg negprompt nprompt negativetext negativeprompts uncond "
        "unconditionalprompt uncondprompt",
        is_later=False,
    ),
    Setting(
        "seed",
        int,
        "",
        minimum=0,
        maximum=MAX_SEED,
        check=_check_seed,
        spread=_spread_seeds,
        aliases="seeds seedvalue randomseed randseed noiseseed manualseed rngseed generatorseed "
        "rng generator sed seeed sead sede",
        is_later=False,
    ),
    Setting(
        "num_inference_steps",
        int,
        "Denoising steps, each a call of the UNet; auto for the fewest of a solver fitted to the "
        "bundle with which pictures are as near to the converged ones as with 50 of ddim.",
        default=50,
        minimum=1,
        maximum=lambda limits: limits.max_steps,
        accepted="a whole number from {minimum} to {maximum} is accepted, or auto.",
        word=AUTO,
        aliases="steps setps stesp numsteps nsteps stepcount numberofsteps samplingsteps "
        "samplesteps numsamplingsteps inferencesteps ninferencesteps ddimsteps denoisingsteps "
        "diffusionsteps",
        is_later=False,
    ),
    Setting(
        "guidance_scale",
        float,
        "How closely to follow the prompt; 1.0 is off, which is Python's default.",
        default=1.0,
        command_default=6.0,
        minimum=-MAX_GUIDANCE,
        maximum=MAX_GUIDANCE,
        accepted="a number, or a list of one an image, is accepted, between {minimum} and "
        "{maximum}. 1.0 turns guidance off.",
        spread=_spread_numbers,
        batch_key=lambda scale: scale != 1.0,
        aliases="guidance guidanceweight guidancestrength cfg cfgscale cfgweight cfgguidancescale "
        "scale condscale classifierfreeguidance classifierfreeguidancescale "
        "unconditionalguidancescale",
        is_later=False,
    ),
    Setting(
        "eta",
        float,
        "Noise added at each step: 0 (deterministic) to 1 (as noisy as DDPM).",
        default=0.0,
        minimum=0,
        maximum=1,
        accepted="a number from {minimum} (deterministic) to {maximum} (as noisy as DDPM) "
        "is accepted.",
        spread=_spread_numbers,
        aliases="ddimeta etaddim etas",
        is_later=False,
    ),
    Setting(
        "solver",
        str,
        "How the steps are taken: ddim; dpmsolver++, which needs fewer; or fitted, which needs the "
        "fewest, for bundles that `ldm-engine fit` was run on.",
        default=SOLVERS[0],
        choices=SOLVERS,
        aliases="sampler samplername samplerindex samplingmethod scheduler schedulername",
    ),
    Setting(
        "timesteps",
        list,
        "Timesteps of the training schedule to step over, descending, with commas. Default: as the "
        "solver spaces its steps.",
        check=_check_timesteps,
    ),
    Setting("solver_table", str, "", check=_check_digest),  # of a fitted solver
    Setting(
        "image",
        Path,
        "Picture to start from: a path or URL.",
        check=_check_picture,
        spread=_spread_pictures,
        batch_key=lambda picture: picture is not None,
        aliases="initimage initimg inputimage inputimg sourceimage img imagepath imagefile "
        "imageurl initimages picture",
    ),
    Setting(
        "mask_image",
        Path,
        "Mask of that picture, white where it is to be painted anew: a path or URL.",
        short="mask",
        check=_check_picture,
        spread=_spread_pictures,
        batch_key=lambda mask: mask is not None,
        aliases="maskimage maskpath maskfile maskurl inpaintmask inpaintingmask",
    ),
    Setting(
        "strength",
        float,
        "How much of the picture is painted anew: of N steps the last N times this are taken. "
        "Default: 0.8, and 1 with a mask.",
        check=_check_strength,
        aliases="denoisingstrength denoise denoising imagestrength initimagestrength "
        "img2imgstrength",
    ),
    # sha256 of the files that were read, or of pixels that came in memory.
    Setting("image_sha256", str, "", check=_check_digest, spread=_spread_numbers),
    Setting("mask_sha256", str, "", check=_check_digest, spread=_spread_numbers),
    *(
        Setting(
            name,
            int,
            f"{name.capitalize()} in pixels. Default: as trained.",
            check=_check_size,
            aliases=f"{name[0]} image{name} img{name} pixel{name} output{name}",
            is_later=False,
        )
        for name in ("height", "width")
    ),
]

#: Those that are about a picture to start from.
PICTURE_SETTINGS = ("image", "mask_image", "strength", "image_sha256", "mask_sha256")


def common_settings() -> list[Setting]:
    """Those that the images of a run may share a default of."""
    return [setting for setting in SETTINGS if setting.is_common]


def default_values() -> dict[str, Any]:
    """What a call and a job get where they do not say otherwise, by setting."""
    return {setting.name: setting.default for setting in common_settings()}


def as_call(images: Sequence[Values]) -> dict[str, Any]:
    """The settings of a call for `images`, which share what a call has one value for."""
    return {
        s.name: [values[s.name] for values in images] if s.spread else images[0][s.name]
        for s in SETTINGS
    }


def recorded(values: Values) -> dict[str, Any]:
    """Those of an image's `values` that stand in recipes and records, in their order."""
    return {s.name: values[s.name] for s in SETTINGS if s.is_recorded(values[s.name])}


def settings_hash(values: Values) -> bytes:
    """A short hash of all that decides over the pixels, beside the bundle and the machine.

    It stays the same for images that leave a later setting at its default.
    """
    decisive = [
        (s.name, values[s.name]) if s.is_later else values[s.name]
        for s in SETTINGS
        if s.is_recorded(values[s.name])
    ]
    return hashlib.sha256(repr(tuple(decisive)).encode()).digest()[:HASH_BYTES]


def batch_key(values: Values) -> tuple[Hashable, ...]:
    """What an image has in common with those that it can share a batch with."""
    shared = [values[s.name] for s in SETTINGS if s.spread is None]
    keys = [s.batch_key(values[s.name]) for s in SETTINGS if s.batch_key is not None]
    if values["solver"] == FITTED:  # its weights belong to one guidance
        keys.append(values["guidance_scale"])
    return *shared, *keys
