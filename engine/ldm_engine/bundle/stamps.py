"""Files verified and unchanged since; they are not hashed again.

Its twin in C++, ``cpp/src/bundle/stamps.cpp``, keeps the same notes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import OutputError
from ..machine.cache import cache_folder
from ..machine.files import Stamp, stamp_file, write_atomically


def unchanged_files(folder: Path, hashes: Mapping[str, str]) -> set[str]:
    """The files of `folder` among `hashes` that had these hashes and were not written since.

    Damage on the disk itself, without a write, is not noticed; ``ldm-engine verify`` reads all.
    """
    verified = _read(folder)
    return {
        name
        for name, sha256 in hashes.items()
        if verified.get(name) == [sha256, stamp_file(folder / name)]
    }


def stamp_files(folder: Path, names: Iterable[str]) -> dict[str, Stamp | None]:
    """The stamp of each of the files `names`, which any write changes; take it before reading."""
    return {name: stamp_file(folder / name) for name in names}


def remember_files(
    folder: Path, hashes: Mapping[str, str], stamps: Mapping[str, Stamp | None]
) -> None:
    """Record that the files with these `stamps` were read and had these `hashes`."""
    place = _place(folder)
    if place is None:
        return
    verified = _read(folder)
    verified.update({name: [hashes[name], stamp] for name, stamp in stamps.items()})
    with suppress(OutputError):
        write_atomically(place, json.dumps(verified).encode())


def _read(folder: Path) -> dict[str, object]:
    place = _place(folder)
    try:
        content = json.loads(place.read_text()) if place else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _place(folder: Path) -> Path | None:
    parent = cache_folder("verified")
    key = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()
    return parent / f"{key[:32]}.json" if parent else None
