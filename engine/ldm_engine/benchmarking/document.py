"""Results as a JSON document with every sample, and back: read with distrust, like a bundle."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import ResultsError
from .reading import UnexpectedValueError, get, read
from .results import SCENARIOS, STAGES, Results, call_settings

FORMAT, FORMAT_VERSION = "ldm-engine bench", 1
_NANOSECONDS = 9  # decimals of a second that a clock resolves
_HASH = re.compile(r"[0-9a-f]{64}")


def to_json(results: Results) -> str:
    """The document: keys carry their units, ``docs/benchmarking.md`` explains them."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(results)}
    for measurement in content["measurements"]:
        for stage, samples in measurement["samples_s"].items():
            measurement["samples_s"][stage] = [round(s, _NANOSECONDS) for s in samples]
    settings = content["settings"]
    content["settings"] = {**settings.pop("call"), **settings}
    return json.dumps(content, indent=1) + "\n"


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
        settings = read(dict, get(content, "settings"), "settings")
        content["settings"] = {**settings, "call": _call(settings)}
        return _checked(read(Results, content, "document"))
    except (UnexpectedValueError, OverflowError) as error:
        raise ResultsError(
            f"{path} is damaged or was edited: {error}. Copy it again from its source, or measure "
            "again with `ldm-engine bench --json`."
        ) from error


def _call(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an image; those that came later than the document have their default."""
    call = {}
    for setting in call_settings():
        if setting.is_later:
            kind = list[int] if setting.kind is list else setting.kind
            value = settings.get(setting.name, setting.default)
            call[setting.name] = read(kind | None, value, setting.name)
        else:
            call[setting.name] = read(setting.kind, get(settings, setting.name), setting.name)
    return call


def _checked(results: Any) -> Results:
    """What types do not say: the names of scenarios, a hash, samples of every stage."""
    if not results.scenarios or set(results.scenarios) - set(SCENARIOS):
        raise UnexpectedValueError(f"`scenarios` is {list(results.scenarios)}")
    if not _HASH.fullmatch(results.bundle.digest):
        raise UnexpectedValueError(f"`digest` is {results.bundle.digest!r}")
    for measurement in results.measurements:
        for stage in STAGES:
            samples = get(measurement.samples_s, stage)
            if not samples or min(samples) <= 0:
                raise UnexpectedValueError(f"`{stage}` is not a list of seconds above 0")
    return results  # type: ignore[no-any-return]
