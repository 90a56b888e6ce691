"""Writes the page and its data: images in parts, and the run's facts and failures."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib import resources
from itertools import islice
from typing import Any

from ...machine.storage import Storage
from ...sampling.settings import SETTINGS
from ..records import Outcome

PAGE = "index.html"
_FOLDER = "gallery"
_RUN = f"{_FOLDER}/run.js"
_PART_IMAGES = 2000
#: A browser holds so many with ease; the journals have them all.
MAX_IMAGES, MAX_FAILURES = 100_000, 10_000
#: Of a run's fingerprint, the part of the recipe that all its images share.
_COMMON = ("bundle", "model", "runtime", "runtime_version", "threads", "batch_size", "ldm_engine")


def write_gallery(
    storage: Storage,
    records: Iterable[Outcome],
    failures: Iterable[Outcome],
    fingerprint: Mapping[str, Any],
    bundle: str,
    edited: Collection[str] = (),
) -> None:
    """Write the page over `records` and `failures`, unless there are none.

    The data lie in parts of 2,000 images each as ``gallery/*.js``: from the disk, a page may load
    scripts but not read files. `bundle` is the path that commands on the page name; the images at
    the paths `edited` were changed by their user.
    """
    parts = images = 0
    records = iter(records)
    shown = islice(records, MAX_IMAGES)
    while part := list(_entries(islice(shown, _PART_IMAGES), edited)):
        _write_script(storage, f"{_FOLDER}/{parts:03}.js", "addImages", part)
        parts, images = parts + 1, images + len(part)
    failures = iter(failures)
    failed = [_failure(outcome) for outcome in islice(failures, MAX_FAILURES)]
    if not parts and not failed:
        return
    is_cut, are_failures_cut = (next(rest, None) is not None for rest in (records, failures))
    # What differs from run to run is in a file of its own: the page itself does not.
    run = {
        "bundlePath": bundle,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "files": [*storage.journals("records"), *storage.journals("failures"), "run.json"],
        "failures": failed,
        "areFailuresCut": are_failures_cut,
    }
    _write_script(storage, _RUN, "setRun", run)
    page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    common = {name: fingerprint[name] for name in _COMMON if name in fingerprint}
    precision = fingerprint.get("precision", "")
    facts = {"parts": parts, "isCut": is_cut, "precision": precision, "recipe": common}
    storage.write(
        PAGE, page.replace("/*FACTS*/ {}", json.dumps(facts).replace("<", "\\u003c")).encode()
    )


def _write_script(storage: Storage, name: str, function: str, data: Any) -> None:
    # ASCII, so that it does not matter how the file is taken to be encoded.
    storage.write(name, f"{function}({json.dumps(data)});\n".encode())


def _failure(outcome: Outcome) -> dict[str, object]:
    return {name: outcome[name] for name in ("row", "id", "error") if outcome.get(name) is not None}


def _entries(records: Iterable[Outcome], edited: Collection[str]) -> Iterator[dict[str, object]]:
    # In the order in which the page shows them.
    names = (s.field for s in SETTINGS)
    shown = (
        "id", *names, "precision", "path", "member", "row", "prompt_truncated", "unknown_words",
        "notice", "edited", "extra",
    )  # fmt: skip
    for outcome in records:
        extra = {name: v for name, v in (outcome.get("extra") or {}).items() if v is not None}
        facts = {**outcome, "extra": extra, "edited": outcome["path"] in edited}
        yield {name: facts[name] for name in shown if not _is_empty(facts.get(name))}


def _is_empty(value: object) -> bool:
    return value is None or value is False or value in ("", {})
