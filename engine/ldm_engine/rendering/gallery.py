"""The gallery: one page and its data as scripts, which a browser opens from the disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from itertools import islice
from typing import Any

from ..machine.storage import Storage
from .renderer import Outcome

PAGE = "index.html"
_FOLDER = "gallery"
_PART_IMAGES = 2000
#: A browser holds this many with ease; ``records.jsonl`` has them all.
MAX_IMAGES = 100_000
#: Of a record, in the order in which the page shows them.
_SHOWN = (
    "id", "prompt", "negative_prompt", "seed", "num_inference_steps", "guidance_scale", "eta",
    "height", "width", "precision", "path", "member", "row", "extra",
)  # fmt: skip
#: Of a run's fingerprint, the part of the recipe that all its images share.
_COMMON = ("bundle", "model", "runtime", "runtime_version", "threads", "batch_size", "ldm_engine")


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
    for record in records:
        yield {name: record[name] for name in _SHOWN if record.get(name) not in (None, "", {})}
