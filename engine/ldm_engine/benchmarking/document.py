"""Results as a JSON document with every sample, and back: read with distrust, like a bundle."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ResultsError
from .results import (
    FIGURES,
    SCENARIOS,
    STAGES,
    Case,
    Failure,
    Measurement,
    Results,
    Samples,
    Settings,
)

FORMAT, FORMAT_VERSION = "ldm-engine bench", 1
_NANOSECONDS = 9  # decimals of a second that a clock can tell
_HASH = re.compile(r"[0-9a-f]{64}")

_KINDS: dict[type, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}

Kind = TypeVar("Kind")


def to_json(results: Results) -> str:
    """The document: keys carry their units, ``docs/benchmarking.md`` explains them."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "date_utc": results.date_utc,
        "is_complete": results.is_complete,
        "bundle": {"digest": results.bundle_digest, "source": results.bundle_source},
        "load_average": results.load_average,
        "machine": dict(results.machine),
        "versions": dict(results.versions),
        "settings": asdict(results.settings),
        "scenarios": results.scenarios,
        "batch_sizes": results.batch_sizes,
        "measurements": [_measurement_to_json(m) for m in results.measurements],
        "failures": [{**asdict(f.case), "reason": f.reason} for f in results.failures],
    }
    return json.dumps(content, indent=1) + "\n"


def _measurement_to_json(measurement: Measurement) -> dict[str, Any]:
    samples = {
        stage: [round(s, _NANOSECONDS) for s in measurement.samples_s[stage]] for stage in STAGES
    }
    figures = {name: getattr(measurement, name) for name in FIGURES}
    return {**asdict(measurement.case), **figures, "samples_s": samples}


def read_results(path: Path) -> Results:
    """Read a document that ``to_json`` made.

    Raises:
        ResultsError: if it cannot be read, is something else, or of another format version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(
            f"{path} cannot be read: {error.strerror}. Give a file that `ldm-engine bench --json` "
            "wrote."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ResultsError(
            f"{path} is no JSON document, or only a part of one: {error}. Copy it again from its "
            "source, or measure again with `ldm-engine bench --json`."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ResultsError(
            f"{path} is JSON, but not of `ldm-engine bench`: it has no `format` of {FORMAT!r}. "
            "Give a file that `ldm-engine bench --json` wrote."
        )
    version = content.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise ResultsError(
            f"{path} has the format version {version!r}; this version of ldm-engine reads "
            f"{FORMAT_VERSION}. Compare with the version that wrote it, or measure again."
        )
    try:
        return _results(content)
    except (_UnexpectedError, OverflowError) as error:
        raise ResultsError(
            f"{path} is damaged or was edited: {error}. Copy it again from its source, or measure "
            "again with `ldm-engine bench --json`."
        ) from error


class _UnexpectedError(Exception):
    """What is not as ``to_json`` writes it."""


def _results(content: Mapping[str, Any]) -> Results:
    bundle = _get(content, "bundle", dict)
    versions = _get(content, "versions", dict)
    scenarios = tuple(_all(_get(content, "scenarios", list), str, "scenarios"))
    unknown = set(scenarios) - set(SCENARIOS)
    if unknown or not scenarios:
        raise _UnexpectedError(f"`scenarios` is {list(scenarios)}")
    digest = _get(bundle, "digest", str)
    if not _HASH.fullmatch(digest):
        raise _UnexpectedError(f"`digest` is {digest!r}")
    return Results(
        date_utc=_get(content, "date_utc", str),
        is_complete=_get(content, "is_complete", bool),
        bundle_digest=digest,
        bundle_source=_get(bundle, "source", str),
        load_average=_get(content, "load_average", float),
        machine=_get(content, "machine", dict),
        versions={n: None if versions[n] is None else _get(versions, n, str) for n in versions},
        settings=_settings(_get(content, "settings", dict)),
        scenarios=scenarios,
        batch_sizes=tuple(_all(_get(content, "batch_sizes", list), int, "batch_sizes")),
        measurements=tuple(_measurement(m) for m in _objects(content, "measurements")),
        failures=tuple(
            Failure(_case(f), _get(f, "reason", str)) for f in _objects(content, "failures")
        ),
    )


def _settings(content: Mapping[str, Any]) -> Settings:
    kinds: dict[str, type] = {"int": int, "float": float}
    return Settings(**{f.name: _get(content, f.name, kinds[str(f.type)]) for f in fields(Settings)})


def _measurement(content: Mapping[str, Any]) -> Measurement:
    samples = _get(content, "samples_s", dict)
    figures: dict[str, Any] = {name: _get(content, name, kind) for name, kind in FIGURES.items()}
    return Measurement(
        case=_case(content), samples_s={s: _samples(samples, s) for s in STAGES}, **figures
    )


def _case(content: Mapping[str, Any]) -> Case:
    return Case(
        _get(content, "runtime", str),
        _get(content, "precision", str),
        _get(content, "batch_size", int),
    )


def _samples(content: Mapping[str, Any], stage: str) -> Samples:
    samples = tuple(_all(_get(content, stage, list), float, stage))
    if not samples or min(samples) <= 0:
        raise _UnexpectedError(f"`{stage}` is not a list of seconds above 0")
    return samples


def _objects(content: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return list(_all(_get(content, name, list), dict, name))


def _all(values: Iterable[Any], kind: type[Kind], name: str) -> Iterable[Kind]:
    return (_of_kind(value, kind, name) for value in values)


def _get(content: Mapping[str, Any], name: str, kind: type[Kind]) -> Kind:
    if name not in content:
        raise _UnexpectedError(f"`{name}` is missing")
    return _of_kind(content[name], kind, name)


def _of_kind(value: Any, kind: type[Kind], name: str) -> Kind:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise _UnexpectedError(f"`{name}` is or holds {str(value)[:60]!r}, not {_KINDS[kind]}")
    return value  # type: ignore[no-any-return]
