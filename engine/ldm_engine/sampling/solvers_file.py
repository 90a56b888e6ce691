"""``solvers.json``: the solvers that were fitted to a bundle, sealed and read with distrust.

The file names the bundle that it belongs to and carries its own hash, so that it can be replaced in
one step, and the manifest stays as it is. What is wrong with it is told when a fitted solver is
asked for; nothing else needs it. ``docs/bundle-format.md`` documents it.

Its twins are ``cpp/src/sampling/solvers_file.cpp`` and ``examples/browser/fitted.mjs``;
``tests/data/solvers_files.json`` holds what they accept and refuse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..bundle.bundle import SOLVERS, Bundle, parse_json_object
from ..bundle.seals import is_sealed, sealed
from ..errors import BundleError
from ..machine.files import write_atomically
from .fitted import Figures, Origin, Table, Tables
from .schedule import NoiseSchedule
from .values import is_number, is_whole, shown

FORMAT_VERSION = 1
MAX_TERMS = 16  #: of history, this call's among them
MAX_WEIGHT = 100.0  #: far beyond what a fit gives; keeps float32 finite
MAX_TABLES, MAX_STEPS = 1000, 200
_MAX_GUIDANCE, _MAX_DB = 10_000.0, 1000.0
_MAX_BYTES = 64 << 20
SEAL = "solvers_sha256"
_REMEDY = "Fit it again with `ldm-engine fit`, or remove the file."


def load_tables(bundle: Bundle, schedule: NoiseSchedule) -> Tables:
    """The tables of a bundle; what is wrong with them is raised when one is asked for."""
    path = bundle.path / SOLVERS
    try:
        if not path.exists():
            return Tables()
        if not path.is_file():  # a pipe would be waited for
            raise BundleError(f"{path} is not a file. {_REMEDY}")
        with path.open("rb") as stream:
            text = stream.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise BundleError(f"{path} is larger than {_MAX_BYTES >> 20} MiB. {_REMEDY}")
        return Tables(parse_tables(str(path), text, bundle.digest, schedule))
    except OSError as error:
        return Tables(fault=f"{path} cannot be read: {error}. {_REMEDY}")
    except BundleError as error:
        return Tables(fault=str(error))


def save_tables(bundle: Bundle, tables: Tables, schedule: NoiseSchedule) -> None:
    """Write the tables of a bundle, whole or not at all.

    Raises:
        BundleError: if they are not such as are read, for huge weights perhaps.
        OutputError: if they cannot be written. Those that the bundle had are untouched.
    """
    path, text = bundle.path / SOLVERS, sealed(tables_content(bundle.digest, tables), SEAL)
    parse_tables(str(path), text, bundle.digest, schedule)
    write_atomically(path, text)


def tables_content(digest: str, tables: Tables) -> dict[str, Any]:
    """What the file says of the bundle with this digest, but for the hash."""
    return {
        "format_version": FORMAT_VERSION,
        SEAL: "",
        "bundle": digest,
        "tables": [asdict(table) for table in tables.tables],
    }


def parse_tables(
    where: str, text: bytes, digest: str, schedule: NoiseSchedule
) -> tuple[Table, ...]:
    """The tables, in order, in the `text` of a file that is called `where` in errors.

    Raises:
        BundleError: naming the first thing that is not as it must be for the bundle of `digest`.
    """
    raw = parse_json_object(Path(where), text, _REMEDY)
    version = raw.get("format_version")
    if not is_whole(version) or version != FORMAT_VERSION:
        raise BundleError(
            f"{where} has format version {shown(version)}; {FORMAT_VERSION} is accepted. Upgrade "
            f"ldm-engine if the file is newer. {_REMEDY}"
        )
    if not is_sealed(text, SEAL, raw.get(SEAL)):
        raise BundleError(
            f"{where} was altered after it was written: it does not match its recorded sha256. "
            f"{_REMEDY}"
        )
    if raw.get("bundle") != digest:
        raise BundleError(
            f"{where} was fitted to the bundle {shown(raw.get('bundle'))[:13]}…, and this is "
            f"{digest[:12]}…: weights of another model would make wrong pictures. {_REMEDY}"
        )
    entries = _Entry(raw, where).list("tables", 0, MAX_TABLES)
    tables = [
        _read_table(_Entry.of(entry, f"{where}, table {number}"), schedule)
        for number, entry in enumerate(entries, 1)
    ]
    if len({table.key for table in tables}) < len(tables):
        raise BundleError(f"{where} has two tables for one guidance and step count. {_REMEDY}")
    return tuple(sorted(tables, key=lambda table: table.key))


@dataclass(frozen=True)
class _Entry:
    """An object of the file, called `where` in errors."""

    content: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, content: Any, where: str) -> _Entry:
        if not isinstance(content, Mapping):
            raise BundleError(f"{where} is {shown(content)}; an object is expected. {_REMEDY}")
        return cls(content, where)

    def require(self, holds: bool, name: str, value: Any, accepted: str) -> None:
        if not holds:
            raise BundleError(
                f"{self.where}: `{name}` is {shown(value)}; {accepted} is expected. {_REMEDY}"
            )

    def number(self, name: str, limit: float) -> float:
        value: Any = self.content.get(name)
        self.require(_is_within(value, limit), name, value, f"a number up to {limit:g}")
        return float(value)

    def text(self, name: str, pattern: str) -> str:
        value: Any = self.content.get(name)
        holds = isinstance(value, str) and re.fullmatch(pattern, value) is not None
        self.require(holds, name, value, f"text of the form {pattern}")
        return str(value)

    def count(self, name: str) -> int:
        value: Any = self.content.get(name)
        self.require(is_whole(value) and 0 < value < 2**31, name, value, "a positive whole number")
        return int(value)

    def list(self, name: str, least: int, most: int) -> list[Any]:
        value: Any = self.content.get(name)
        holds = isinstance(value, list) and least <= len(value) <= most
        self.require(holds, name, value, f"a list of {least} to {most}")
        return list(value)

    def object(self, name: str) -> _Entry:
        return _Entry.of(self.content.get(name), f"{self.where}, {name}")


def _read_table(entry: _Entry, schedule: NoiseSchedule) -> Table:
    timesteps, last = entry.list("timesteps", 1, MAX_STEPS), schedule.num_train_timesteps - 1
    entry.require(
        all(is_whole(t) and 0 <= t <= last for t in timesteps)
        and all(first > second for first, second in pairwise(timesteps)),
        "timesteps",
        timesteps,
        f"a descending list of whole numbers from {last} to 0",
    )
    weights = entry.list("weights", len(timesteps), len(timesteps))
    for number, row in enumerate(weights, 1):
        most = 1 + min(number, MAX_TERMS)
        entry.require(
            isinstance(row, list)
            and 2 <= len(row) <= most
            and all(_is_within(weight, MAX_WEIGHT) for weight in row),
            f"weights of step {number}",
            row,
            f"a list of 2 to {most} numbers up to {MAX_WEIGHT:g}",
        )
    return Table(
        entry.number("guidance_scale", _MAX_GUIDANCE),
        tuple(timesteps),
        tuple(tuple(map(float, row)) for row in weights),
        figures=_read_figures(entry.object("figures")),
        ddim_50=_read_figures(entry.object("ddim_50")),
        dpmsolver=_read_figures(entry.object("dpmsolver")),
        reference_db=entry.number("reference_db", _MAX_DB),
        origin=_read_origin(entry.object("origin")),
    )


def _read_figures(entry: _Entry) -> Figures:
    median, tenth, least = (
        entry.number(name, _MAX_DB) for name in ("median", "tenth_percentile", "least")
    )
    return Figures(entry.count("count"), median, tenth, least)


def _read_origin(entry: _Entry) -> Origin:
    return Origin(
        entry.text("runtime", "[a-z0-9_-]{1,32}"),
        entry.text("precision", "[a-z0-9]{1,16}"),
        entry.count("images"),
        entry.text("prompts_sha256", "[0-9a-f]{64}"),
        entry.text("version", r"[0-9A-Za-z.+-]{1,64}"),
    )


def _is_within(value: Any, limit: float) -> bool:
    return is_number(value) and abs(value) <= limit  # which NaN is not
