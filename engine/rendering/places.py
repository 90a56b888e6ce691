"""The place of a run: the output asked for, or with ``--force`` the next one beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .remote import RemoteStorage, is_url
from .run_file import FingerprintError, check_same, load_run_file
from .storage import LocalStorage, Storage

_LOCAL_URL = re.compile(r"^(?:file|local)://")


def open_storage(output: str, label: str) -> Storage:
    """The storage at a path or URL; runs at one place at the same time have different labels."""
    output = _LOCAL_URL.sub("", output)
    return RemoteStorage(output) if is_url(output) else LocalStorage(Path(output), label)


def find_place(output: str, label: str, fingerprint: Mapping[str, Any], force: bool) -> Storage:
    """A storage that is new or holds a run with this `fingerprint`, whose None may be anything.

    With `force`, that is the first such of `output`, `output`-2, `output`-3, ...; so the same
    command goes on with what it began.

    Raises:
        FingerprintError: without `force`, if another run is there, saying what differs.
    """
    count = 1
    while True:
        place = output if count == 1 else f"{output.rstrip('/')}-{count}"
        storage = open_storage(place, label)
        try:
            held = load_run_file(storage)
            if held is not None:
                check_same(storage, held.fingerprint, fingerprint)
            return storage
        except FingerprintError:
            if not force:
                raise
        count += 1
