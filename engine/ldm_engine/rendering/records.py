"""What a run records of its images: a line for each."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from ..machine.tables import Row
from ..sampling.settings import HASH_BYTES, SETTINGS, recorded, settings_hash
from ..sampling.tokenizer import PromptTruncatedWarning, UnknownWordsWarning
from .jobs.loaded import Loaded
from .jobs.rows import Task

#: A line of ``records.jsonl``, or with the key "error" one of ``failures.jsonl``.
Outcome = dict[str, Any]
_MAX_WORDS = 500  #: characters of unknown words in a record


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


def reading_of(prompt: str, remarks: Sequence[Warning]) -> dict[str, Any]:
    """What the tokenizer remarked of one prompt."""
    cut = (r for r in remarks if isinstance(r, PromptTruncatedWarning))
    unknown = (r for r in remarks if isinstance(r, UnknownWordsWarning))
    words = next((r.words for r in unknown if r.prompt == prompt), ())
    return {
        "prompt_truncated": any(r.prompt == prompt for r in cut),
        "unknown_words": " ".join(words)[:_MAX_WORDS],
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


def refused(task: Task, reason: str) -> Outcome:
    """The line of an image that a check refused, which no later run tries again."""
    settings = settings_hash(task.values).hex()
    return {"row": task.row, "id": task.identity.id, "error": reason, "settings": settings}


def unrendered(one: Loaded) -> Outcome:
    """The line of an image that was refused, or whose pictures cannot be read now.

    The latter a later run tries again.
    """
    if one.is_refused:
        return refused(one.source, one.fault)
    return {"row": one.source.row, "id": one.source.identity.id, "error": one.fault}


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
