"""A row of a job file as images to render: fields checked, defaults filled in, ids and seeds."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ArgumentTypeError, InputError, InvalidArgumentError
from ...machine.remote import within
from ...sampling.names import Names
from ...sampling.pictures import PictureFile
from ...sampling.rules import SETTING, check_image
from ...sampling.settings import (
    MAX_SEED,
    PICTURE_SETTINGS,
    SETTINGS,
    Limits,
    Setting,
    Values,
    batch_key,
    common_settings,
    default_values,
)
from ...sampling.values import as_number, check_texts, shown
from .found import FoundPictures
from .identities import Identity, identify

MAX_IMAGES = 10_000  #: of one row
MAX_TEXT = 5_000  #: characters of a prompt; twice that fits the metadata of a JPEG
MAX_EXTRA_BYTES = 65_536  #: of other fields, as JSON; 10,000 images may wait for others in memory
#: A row that says one of these has the other by itself too, whatever is common.
_SPACING = {name: default_values()[name] for name in ("num_inference_steps", "timesteps")}
_OF_PICTURES = ("mask", "strength")
_FIELDS = {setting.name: setting.field for setting in SETTINGS}


@dataclass(frozen=True)
class Defaults:
    """What a row gets that does not say otherwise."""

    num_images: int = 1
    settings: Mapping[str, Any] = field(default_factory=default_values)
    seed: int = 0  #: added to those that images get from their ids


@dataclass(frozen=True, slots=True)
class Task:
    """One image to render."""

    identity: Identity
    row: int  #: of the job file
    values: Values  #: of its settings
    extra: Mapping[str, Any] = field(default_factory=dict)  #: fields carried into the record

    @property
    def group(self) -> Hashable:
        """Equal for images that can share a batch."""
        return batch_key(self.values)


#: The fields of a row beside its settings, and what other programs call them.
_OTHERS: Mapping[str, Iterable[str]] = {
    "id": (),
    "num_images": (
        "numimagesperprompt", "imagesperprompt", "nsamples", "numsamples", "numoutputs", "n",
        "niter", "batchsize", "batchcount", "numimage",
    ),
}  # fmt: skip


def job_fields() -> tuple[str, ...]:
    """The fields of a row that the engine reads; all others are carried into the records."""
    return Names(_OTHERS).known


class RowReader:
    """Turns rows into tasks for one model."""

    def __init__(self, limits: Limits, defaults: Defaults) -> None:
        """Raises ``InvalidArgumentError`` if a default is outside its range."""
        self._limits = limits
        common = {_FIELDS[name]: value for name, value in defaults.settings.items()}
        self._defaults = {"num_images": defaults.num_images, **common}
        self._names = Names(_OTHERS)
        self._found = FoundPictures()
        self._seed = 0  # which the check of the defaults needs none of
        self._has_pictures = self._has_guidance = False
        try:
            for setting in common_settings():
                value = common[setting.field]
                if setting.is_picture and value is not None:  # looked at once for all rows
                    path = _text(setting.field, value)
                    self._defaults[setting.field] = setting.checked(path, limits)
                elif setting.name in PICTURE_SETTINGS:  # which may be for rows with a picture
                    setting.checked(value, limits)
            self.tasks(1, {"prompt": ""})
            self._has_guidance = False
            seed = as_number("seed", defaults.seed, whole=True)
            self._seed = SETTING["seed"].checked(seed, limits)
        except (InvalidArgumentError, ArgumentTypeError, InputError) as error:
            raise type(error)(f"A default for all jobs does not hold: {error}") from error

    def tasks(
        self,
        row: int,
        fields: Mapping[str, Any],
        columns: Iterable[str] = (),
        folder: str = "",
    ) -> list[Task]:
        """The images that a row describes; a field that is None counts as absent.

        Their other fields have all `columns`, as None where the row has them not. Paths of pictures
        begin at `folder`, which may be a URL.

        Raises:
            InvalidArgumentError: naming what is wrong with the row.
            ArgumentTypeError: if a field has the wrong type.
            InputError: if a picture cannot be read.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        extra = {name: given[name] for name in self.others(given)}
        if faults := self._names.faults(extra, given):
            raise InvalidArgumentError(" ".join(faults))
        if "prompt" not in given:
            raise InvalidArgumentError("`prompt` is missing; every job needs one, '' is accepted.")
        own = {name: given[name] for name in self._names.known if name in given}
        read = {**self._defaults, **own}
        if own.keys() & _SPACING.keys():
            read |= {**_SPACING, **own}
        if read.get("image") is None:  # what is common of pictures is for rows that have one
            read |= {name: own.get(name) for name in _OF_PICTURES}
        else:
            self._has_pictures = True
        for setting in SETTINGS:
            if setting.is_picture and isinstance(own.get(setting.field), str):
                place = within(folder, _text(setting.field, own[setting.field]))
                read[setting.field] = self._found.find(setting, place, self._limits)
        values = {s.name: _parsed(s, read.get(s.field)) for s in SETTINGS}
        _check_extra(extra)
        extra = {**dict.fromkeys(columns), **extra}
        (first, seed), *others = _images(row, read, self._seed)
        values = check_image({**values, "seed": seed}, self._limits)
        self._has_guidance |= values["guidance_scale"] != 1.0
        return [
            Task(first, row, values, extra),
            *(Task(identity, row, {**values, "seed": seed}, extra) for identity, seed in others),
        ]

    def unused(self) -> Iterator[tuple[str, str]]:
        """Defaults that no row read so far has a use for, and what the rows lack."""
        if not self._has_pictures:
            for name in _OF_PICTURES:
                if self._defaults.get(name) is not None:
                    yield name, "starts from an `image`"
        if not self._has_guidance and self._defaults["negative_prompt"]:
            yield "negative_prompt", "has a `guidance_scale` other than 1, which is without"

    def others(self, fields: Iterable[str]) -> list[str]:
        """Those of `fields` that are not read and go into the record."""
        return [name for name in fields if name not in self._names.known]


def _parsed(setting: Setting, value: Any) -> Any:
    """The `value` of a field, which may be text, as the setting's type."""
    if setting.name == "seed" or (value is None and setting.default is None):
        return None
    if setting.kind is list or isinstance(value, PictureFile):
        return value
    if setting.kind in (str, Path):
        return _text(setting.field, value)
    return as_number(setting.name, value, whole=setting.kind is int, word=setting.word)


def _images(row: int, fields: Mapping[str, Any], offset: int) -> list[tuple[Identity, int]]:
    """Id and seed of each image: `id`, `id`-2, `id`-3, ...; seeds s, s + 1, ... or the ids' own.

    The run's `offset` is added to the latter, modulo 2**32.
    """
    count = as_number("num_images", fields["num_images"], whole=True)
    if not 1 <= count <= MAX_IMAGES:
        raise InvalidArgumentError(f"`num_images` is {count}; 1 to {MAX_IMAGES} is accepted.")
    text = _id(fields.get("id", row))
    identities = [identify(text if i == 0 else f"{text}-{i + 1}") for i in range(int(count))]
    first = fields.get("seed")
    if first is None:
        return [(identity, (identity.seed + offset) % (MAX_SEED + 1)) for identity in identities]
    first = int(as_number("seed", first, whole=True))
    if not 0 <= first <= MAX_SEED - (len(identities) - 1):
        raise InvalidArgumentError(
            f"`seed` is {first} for {len(identities)} images; whole numbers from 0 to {MAX_SEED} "
            "are accepted for each, and images get the seeds s, s + 1, ..."
        )
    return [(identity, first + i) for i, identity in enumerate(identities)]


def _id(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # pandas makes a column of whole numbers one of these if one is missing
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ArgumentTypeError(
            f"`id` is {shown(value)} ({type(value).__name__}); text or a whole number is accepted."
        )
    text = str(value)
    if not text:
        raise InvalidArgumentError("`id` is empty; give one, or leave it out for the row's number.")
    check_texts("id", [text])
    return text


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ArgumentTypeError(
            f"`{name}` is {shown(value)} ({type(value).__name__}); text is accepted."
        )
    if len(value) > MAX_TEXT:
        raise InvalidArgumentError(
            f"`{name}` has {len(value)} characters; up to {MAX_TEXT} are accepted."
        )
    return value


def _check_extra(extra: Mapping[str, Any]) -> None:
    try:
        size = len(json.dumps(extra, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(
            f"the fields {shown(list(extra))} cannot be kept as JSON: {error}"
        ) from error
    if size > MAX_EXTRA_BYTES:
        raise InvalidArgumentError(
            f"the fields {shown(list(extra))} have {size} bytes as JSON; up to {MAX_EXTRA_BYTES} "
            "are accepted. Keep what is longer elsewhere, by the id."
        )
