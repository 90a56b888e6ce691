"""One run at a time in one place, or the shards of one run beside each other; others are refused.

Here the kernel holds the lock and frees it when its process ends, however it ends. At a URL a small
object says who is at work and when it was last seen. That keeps out whoever comes later, and one of
two that come at once; it does not if their clocks are more than a minute apart, if a request takes
longer than a second just then, or if the first was suspended and taken for gone meanwhile.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import LDMEngineError, OutputError
from .file_locks import lock, try_lock
from .files import reason
from .remote import RemoteStorage
from .storage import ALONE, LocalStorage, Storage

LOCKS = ".locks"
_BEAT_S = 20.0
_STALE_S = 90.0
_SETTLE_S = 1.0  #: in which what others wrote at the same time is there to be seen
#: What file systems answer that know no locks, as Lustre does unless it is mounted with them.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class OutputInUseError(LDMEngineError):
    """Another process renders into the same place."""


@contextmanager
def locked(storage: Storage, label: str) -> Iterator[None]:
    """Hold the place for the run or shard called `label`.

    Raises:
        OutputInUseError: naming the process that holds it.
        OutputError: if nothing can be written there.
    """
    if isinstance(storage, LocalStorage):
        with _locked_folder(storage.folder, label):
            yield
    elif isinstance(storage, RemoteStorage):
        with _locked_url(storage, label):
            yield


def _compatible(label: str, other: str) -> bool:
    """Whether runs with these labels may work beside each other: other shards of as many."""
    return label != other and ALONE not in (label, other) and _count(label) == _count(other)


def _count(label: str) -> str:
    return label.rsplit("-", 1)[-1]


def _describe(label: str) -> dict[str, Any]:
    host, pid = socket.gethostname(), os.getpid()
    return {"label": label, "pid": pid, "host": host, "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _in_use(place: str, holder: dict[str, Any], remedy: str) -> OutputInUseError:
    label = holder.get("label", ALONE)
    what = "a run" if label == ALONE else f"shard {label.replace('-of-', '/')}"
    return OutputInUseError(
        f"{place} is in use: process {holder.get('pid', '?')} on {holder.get('host', '?')} has "
        f"rendered {what} into it since {holder.get('since', '?')}. Wait for it or stop it, or "
        "choose another --output; several processes share one only as --shard 1/n, 2/n, ..."
        + remedy
    )


@contextmanager
def _locked_folder(folder: Path, label: str) -> Iterator[None]:
    try:
        (folder / LOCKS).mkdir(parents=True, exist_ok=True)
        with (folder / LOCKS / "guard").open("a+") as guard:
            lock(guard)  # for the moment in which the others are looked at
            for path in (folder / LOCKS).glob("*.json"):
                if not _compatible(label, path.stem):
                    _check_free(folder, path)
            own = (folder / LOCKS / f"{label}.json").open("a+")
            lock(own)  # which is free: the guard is held
            own.truncate(0)
            own.write(json.dumps(_describe(label)))
            own.flush()
    except OSError as error:
        if isinstance(error, LDMEngineError):
            raise
        wrong, remedy = "cannot be written to", "Make it writable, or make room"
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            wrong, remedy = "is no folder", "Give a folder, or the name of a new one"
        if error.errno in _NO_LOCKS:
            wrong, remedy = "cannot be locked", "Mount its file system with locks (flock)"
        raise OutputError(
            f"{folder} {wrong}: {reason(error)}. {remedy}, or choose another --output."
        ) from error
    with own:
        yield


def _check_free(folder: Path, path: Path) -> None:
    with path.open("r+") as other:  # NFS gives an exclusive lock only over what may be written
        if not try_lock(other):
            raise _in_use(str(folder), _parsed(other.read().encode()), "")


@contextmanager
def _locked_url(storage: RemoteStorage, label: str) -> Iterator[None]:
    name = f"{LOCKS}/{label}.json"
    mine = {**_describe(label), "token": secrets.token_hex(8)}
    ended = threading.Event()

    def beat() -> None:
        storage.write(name, json.dumps({**mine, "seen": time.time()}).encode())

    def keep_beating() -> None:
        while not ended.wait(_BEAT_S):
            with suppress(OutputError):  # the next image reports it
                beat()

    for holder in _holders(storage, label):
        raise _in_use_url(storage, holder)
    beat()
    thread = threading.Thread(target=keep_beating, daemon=True)
    thread.start()
    try:
        time.sleep(_SETTLE_S)
        _give_way(storage, label, mine["token"])
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OutputError):
            if _parsed(storage.read(name)).get("token") == mine["token"]:
                storage.remove(name)


def _holders(storage: RemoteStorage, label: str) -> Iterator[dict[str, Any]]:
    """Those who are at work and may not be beside the run or shard called `label`."""
    for other in storage.names(LOCKS):
        if not _compatible(label, other.removesuffix(".json")):
            holder = _parsed(storage.read(f"{LOCKS}/{other}"))
            if not _is_gone(holder):
                yield holder


def _give_way(storage: RemoteStorage, label: str, token: str) -> None:
    """Raise ``OutputInUseError`` if this is not the one of several that came at once which stays.

    Of those with the same label it is the last to write, and then the one with the least token.
    """
    for holder in _holders(storage, label):
        other = str(holder.get("token", ""))
        if other != token and (holder.get("label") == label or other < token):
            raise _in_use_url(storage, holder)


def _in_use_url(storage: RemoteStorage, holder: dict[str, Any]) -> OutputInUseError:
    remedy = f" If it is gone, wait {_STALE_S:.0f} seconds."
    return _in_use(storage.output, holder, remedy)


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether a holder has ended, as far as can be seen from here."""
    seen = holder.get("seen")
    if not isinstance(seen, (int, float)) or time.time() - seen > _STALE_S:
        return True
    # On Windows the signal 0 is a Ctrl-C: there only silence says that a process has ended.
    if holder.get("host") != socket.gethostname() or sys.platform == "win32":
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except (ProcessLookupError, ValueError, KeyError):
        return True
    except PermissionError:
        pass
    return False


def _parsed(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
