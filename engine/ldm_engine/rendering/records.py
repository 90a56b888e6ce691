"""What a run records of its images: a line for each, and a page that shows them all."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from itertools import islice
from typing import Any

from ..machine.storage import Storage
from ..machine.tables import Row
from ..sampling.settings import HASH_BYTES, SETTINGS, recorded, settings_hash
from .jobs.rows import Task

#: A line of ``records.jsonl``, or with the key "error" one of ``failures.jsonl``.
Outcome = dict[str, Any]
PAGE = "index.html"
_FOLDER = "gallery"
_PART_IMAGES = 2000
#: A browser holds this many with ease; ``records.jsonl`` has them all.
MAX_IMAGES = 100_000
#: Of a run's fingerprint, the part of the recipe that all its images share.
_COMMON = ("bundle", "model", "runtime", "runtime_version", "threads", "batch_size", "ldm_engine")


def record(task: Task, path: str, file: Mapping[str, Any], facts: Mapping[str, Any]) -> Outcome:
    """The line of an image in the file `path`, with its hash and size, and `facts` of rendering.

    It has no `extra` if no job has other fields: Parquet knows no object without a field.
    """
    return {
        "id": task.identity.id,
        "path": path,
        "row": task.row,
        **file,
        **recorded(task.values),
        **_pictures(task),
        **facts,
        **({"extra": dict(task.extra)} if task.extra else {}),
    }


def is_cut(content: bytes, size: int) -> bool:
    """Whether a file that was of `size` bytes has lost its end, rather than been edited."""
    if len(content) >= size:
        return False
    for begin, end in ((b"\x89PNG", b"IEND\xaeB`\x82"), (b"\xff\xd8\xff", b"\xff\xd9")):
        if content.startswith(begin):
            return end not in content
    if content.startswith(b"RIFF"):
        return len(content) < 8 + int.from_bytes(content[4:8], "little")
    return len(content) < 4 or not content.strip(b"\0")


def _pictures(task: Task) -> dict[str, str]:
    """Where the pictures of an image came from, by the names of jobs' fields."""
    return {
        s.field: task.values[s.name].place
        for s in SETTINGS
        if s.is_picture and task.values[s.name] is not None
    }


def failure(task: Task, fault: str) -> Outcome:
    """The line of an image that came out unusable."""
    return {
        "row": task.row,
        "id": task.identity.id,
        "error": f"{fault}. Check the bundle with `ldm-engine verify`, or change the prompt, the "
        "seed or the guidance.",
        "settings": settings_hash(task.values).hex(),
    }


def picture_failure(task: Task, fault: str) -> Outcome:
    """The line of an image whose pictures cannot be read now; a later run tries again."""
    return {"row": task.row, "id": task.identity.id, "error": fault}


def row_failure(row: Row, fault: str) -> Outcome:
    """The line of a row that no image comes from."""
    given = row.fields.get("id") if row.fields else None
    named = isinstance(given, (str, int)) and not isinstance(given, bool)
    shown = str(given)[:1000].encode(errors="replace").decode() if named else None
    error = fault[:2000].encode(errors="replace").decode()
    return {"row": row.number, "id": shown, "error": error}


def to_line(outcome: Outcome) -> bytes:
    """One line of a journal."""
    return json.dumps(outcome, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def from_line(line: bytes) -> Outcome:
    """A line as this version writes it; else ``ValueError``, ``KeyError`` or ``TypeError``."""
    found: Outcome = json.loads(line.decode())
    if "settings" in found:
        texts = [found["id"], found["settings"]]
        if "error" not in found:
            texts.append(found["path"])
            operator.index(found["archive_bytes" if "member" in found else "bytes"])
        "".join(texts).encode()
        if len(bytes.fromhex(found["settings"])) != HASH_BYTES:
            raise ValueError("settings")
    elif "error" not in found:
        raise KeyError("settings")
    return found


def write_gallery(
    storage: Storage, records: Iterable[Outcome], fingerprint: Mapping[str, Any]
) -> None:
    """Write the page over `records`, unless there are none.

    The data lie in parts of 2,000 images each as ``gallery/*.js``: from the disk, a page may load
    scripts but not read files.
    """
    parts = images = 0
    records = iter(records)
    shown = islice(records, MAX_IMAGES)
    while part := list(_entries(islice(shown, _PART_IMAGES))):
        # ASCII, so that it does not matter how the file is taken to be encoded.
        storage.write(f"{_FOLDER}/{parts:03}.js", f"addImages({json.dumps(part)});\n".encode())
        parts, images = parts + 1, images + len(part)
    if not parts:
        return
    page = resources.files(__package__).joinpath("gallery.html").read_text(encoding="utf-8")
    common = {name: fingerprint[name] for name in _COMMON if name in fingerprint}
    facts = {"parts": parts, "isCut": next(records, None) is not None, "recipe": common}
    storage.write(
        PAGE, page.replace("/*FACTS*/ {}", json.dumps(facts).replace("<", "\\u003c")).encode()
    )


def _entries(records: Iterable[Outcome]) -> Iterator[dict[str, object]]:
    # In the order in which the page shows them.
    names = (s.field for s in SETTINGS)
    shown = ("id", *names, "precision", "path", "member", "row", "extra")
    for outcome in records:
        extra = {name: v for name, v in (outcome.get("extra") or {}).items() if v is not None}
        facts = {**outcome, "extra": extra}
        yield {name: facts[name] for name in shown if facts.get(name) not in (None, "", {})}
