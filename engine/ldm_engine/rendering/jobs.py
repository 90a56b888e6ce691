"""A row of a job file as images to render: fields checked, defaults filled in, ids and seeds.

What follows from an id alone (key, seed, shard, a file name that is safe anywhere) is cut from one
sha256 of its UTF-8 bytes, so it depends on no order, shard or batch.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ArgumentTypeError, InvalidArgumentError
from ..sampling.names import Names
from ..sampling.rules import check_image
from ..sampling.settings import (
    MAX_SEED,
    SETTINGS,
    Limits,
    Setting,
    Values,
    batch_key,
    default_values,
)
from ..sampling.values import as_number, check_texts, shown

MAX_IMAGES = 10_000  #: of one row
MAX_TEXT = 5_000  #: characters of a prompt; twice that fits the metadata of a JPEG
MAX_EXTRA_BYTES = 65_536  #: of other fields, as JSON; 10,000 images may wait for others in memory
#: Ids that are their own file name: lower case, since some file systems take cases for the same.
_PLAIN = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,98}[a-z0-9_-])?")
#: Names that Windows gives to devices, with any suffix.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|com[0-9]|lpt[0-9])(?:\..*)?")
#: A row that says one of these has the other by itself too, whatever is common.
_SPACING = {name: default_values()[name] for name in ("num_inference_steps", "timesteps")}
_REMINDER = re.compile(r"[^A-Za-z0-9_]+")
_MAX_REMINDER = 40


@dataclass(frozen=True, slots=True)
class Identity:
    """An id and the hash that everything is derived from."""

    id: str
    digest: bytes  #: sha256 of the id in UTF-8

    @property
    def key(self) -> bytes:
        """16 bytes that stand for the id where a million of them are kept."""
        return self.digest[:16]

    @property
    def seed(self) -> int:
        """The seed of an image whose job gives none: the first 8 hex digits of the sha256."""
        return int.from_bytes(self.digest[:4], "big")

    @property
    def stem(self) -> str:
        """Folder and file name without suffix, of ASCII alone and different for each id.

        The folder is one of 256. A name holds ``~`` and 32 hex digits of the hash unless the id
        is safe as it stands, which an id with ``~`` is not: the two kinds never meet.
        """
        plain = _PLAIN.fullmatch(self.id) and not _RESERVED.fullmatch(self.id)
        return f"{self.digest[:1].hex()}/{self.id if plain else self._marked}"

    @property
    def member(self) -> str:
        """The same without folder or dots: readers of tar archives cut names at the first dot."""
        name = self.stem.split("/")[1]
        return self._marked if "." in name else name

    @property
    def _marked(self) -> str:
        """What reminds of the id, and the hash."""
        ascii_id = unicodedata.normalize("NFKD", self.id[:1000]).encode("ascii", "ignore").decode()
        reminder = _REMINDER.sub("-", ascii_id).strip("-")[:_MAX_REMINDER]
        return f"{reminder or 'id'}~{self.digest.hex()[:32]}"

    def shard(self, count: int) -> int:
        """Which of `count` shards renders it, from 0."""
        return int.from_bytes(self.digest[8:16], "big") % count


def identify(text: str) -> Identity:
    """The identity of the id `text`."""
    return Identity(text, hashlib.sha256(text.encode()).digest())


@dataclass(frozen=True)
class Defaults:
    """What a row gets that does not say otherwise."""

    num_images: int = 1
    settings: Mapping[str, Any] = field(default_factory=default_values)


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
        self._defaults = {"num_images": defaults.num_images, **defaults.settings}
        self._names = Names(_OTHERS)
        try:
            self.tasks(1, {"prompt": ""})
        except (InvalidArgumentError, ArgumentTypeError) as error:
            raise type(error)(f"A default for all jobs does not hold: {error}") from error

    def tasks(self, row: int, fields: Mapping[str, Any], columns: Iterable[str] = ()) -> list[Task]:
        """The images that a row describes; a field that is None counts as absent.

        Their other fields have all `columns`, as None where the row has them not.

        Raises:
            InvalidArgumentError: naming what is wrong with the row.
            ArgumentTypeError: if a field has the wrong type.
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
        values = {s.name: _parsed(s, read.get(s.name)) for s in SETTINGS if s.name != "seed"}
        _check_extra(extra)
        extra = {**dict.fromkeys(columns), **extra}
        (first, seed), *others = _images(row, read)
        values = check_image({**values, "seed": seed}, self._limits)
        return [
            Task(first, row, values, extra),
            *(Task(identity, row, {**values, "seed": seed}, extra) for identity, seed in others),
        ]

    def others(self, fields: Iterable[str]) -> list[str]:
        """Those of `fields` that are not read and go into the record."""
        return [name for name in fields if name not in self._names.known]


def _parsed(setting: Setting, value: Any) -> Any:
    """The `value` of a field, which may be text, as the setting's type."""
    if value is None and setting.default is None:
        return None
    if setting.kind is list:
        return value
    if setting.kind is str:
        return _text(setting.name, value)
    return as_number(setting.name, value, whole=setting.kind is int, word=setting.word)


def _images(row: int, fields: Mapping[str, Any]) -> list[tuple[Identity, int]]:
    """Id and seed of each image: `id`, `id`-2, `id`-3, ...; seeds s, s + 1, ... or the ids' own."""
    count = as_number("num_images", fields["num_images"], whole=True)
    if not 1 <= count <= MAX_IMAGES:
        raise InvalidArgumentError(f"`num_images` is {count}; 1 to {MAX_IMAGES} is accepted.")
    text = _id(fields.get("id", row))
    identities = [identify(text if i == 0 else f"{text}-{i + 1}") for i in range(int(count))]
    first = fields.get("seed")
    if first is None:
        return [(identity, identity.seed) for identity in identities]
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
