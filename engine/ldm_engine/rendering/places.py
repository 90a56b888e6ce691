"""The place of a run: the output asked for, or with ``--force`` the next one beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from ..machine.lock import LOCKS
from ..machine.remote import RemoteStorage, is_url
from ..machine.storage import SUFFIX, TEMPORARY, LocalStorage, Storage
from .journals import FAILURES
from .run_file import FingerprintError, check_same, load_run_file

_LOCAL_URL = re.compile(r"^(?:file|local)://")
#: What a run leaves that ends before it is begun.
_BEFORE = re.compile(rf"{LOCKS}|{TEMPORARY}|{FAILURES}{SUFFIX}\.jsonl(?:\.parts)?")


def open_storage(output: str, label: str) -> Storage:
    """The storage at a path or URL; runs at one place at the same time have different labels."""
    output = _LOCAL_URL.sub("", output)
    return RemoteStorage(output) if is_url(output) else LocalStorage(Path(output), label)


def find_place(output: str, label: str, fingerprint: Mapping[str, Any], force: bool) -> Storage:
    """A storage that is new or holds a run with this `fingerprint`, whose None may be anything.

    With `force`, that is the first such of `output`, `output`-2, `output`-3, ...; so the same
    command goes on with what it began.

    Raises:
        FingerprintError: without `force`, if another run is there, saying what differs, or
            something that is no run.
        InvalidArgumentError: with `force`, if there can be nothing beside `output`.
    """
    storage, count = open_storage(output, label), 1
    while True:
        try:
            _check(storage, fingerprint)
            return storage
        except FingerprintError:
            if not force:
                raise
        count += 1
        storage = open_storage(_beside(output, count), label)


def _check(storage: Storage, fingerprint: Mapping[str, Any]) -> None:
    # Listed first: of a run that begins meanwhile, the run file is there before anything else.
    others = [name for name in storage.names("") if not _BEFORE.fullmatch(name)]
    held = load_run_file(storage)
    if held is not None:
        check_same(storage, held.fingerprint, fingerprint)
    elif others:
        raise FingerprintError(
            f"{storage.output} is not empty ({', '.join(others[:3])}), and no run of this program "
            "is in it, so that its files could be taken for images of one. Choose another "
            "--output, or go to a folder beside it with --force."
        )


def _beside(output: str, count: int) -> str:
    """The place number `count` beside `output`, which a store's or a disk's root has none."""
    output = _LOCAL_URL.sub("", output)
    if is_url(output):
        *_, path = output.partition("://")
        if "/" in path.strip("/"):  # a bucket's name with a number would be another's bucket
            return f"{output.rstrip('/')}-{count}"
    else:
        folder = Path(output)
        folder = folder.resolve() if folder.name in ("", "..") else folder
        if folder.name:
            return str(folder.with_name(f"{folder.name}-{count}"))
    raise InvalidArgumentError(
        f"`output` is {output}, which can have no folder beside it for `force`; a folder in it is "
        "accepted."
    )
