"""The journals of an output: which images are done or failed, one line each, in order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from ..errors import OutputError
from .identity import identify
from .known import DONE, FAILED, SETTINGS_BYTES, STAGED, KnownIds
from .renderer import Outcome
from .storage import ALONE, Storage

RECORDS, FAILURES = "records", "failures"


class Journals:
    """``records.jsonl`` and ``failures.jsonl`` of one output, or a shard's own ones."""

    def __init__(self, storage: Storage, label: str) -> None:
        self._storage = storage
        self._whole = label == ALONE
        suffix = "" if self._whole else f"-{label}"
        self.records = f"{RECORDS}{suffix}.jsonl"
        self.failures = f"{FAILURES}{suffix}.jsonl"

    def load(self, known: KnownIds) -> None:
        """Learn what is done, and bring the journals into order.

        A record whose image is gone or cut is left out, so that the image is made again; so are
        bad rows, which each run tells anew from the job file as it is now. A run that is no shard
        takes over what shards wrote; a shard only reads it.
        """
        self._load(RECORDS, self.records, DONE, known)
        self._load(FAILURES, self.failures, FAILED, known)

    def commit(self, outcomes: Sequence[Outcome], known: KnownIds) -> None:
        """Write down a batch whose images are there."""
        self._write_down(self.records, [o for o in outcomes if "error" not in o], DONE, known)
        self._write_down(self.failures, [o for o in outcomes if "error" in o], FAILED, known)

    def _write_down(
        self, name: str, outcomes: Sequence[Outcome], flags: int, known: KnownIds
    ) -> None:
        if outcomes:
            self._storage.append(name, [to_line(o) for o in outcomes])
        for outcome in outcomes:
            settings = bytes.fromhex(outcome["settings"])
            known.add(identify(outcome["id"]).key, flags, settings)

    def tell_bad_rows(self, failures: Sequence[Outcome]) -> None:
        """Write down rows that no image comes from."""
        if failures:
            self._storage.append(self.failures, [to_line(f) for f in failures])

    def finish(self, is_complete: bool) -> None:
        """Bring everything into its final place, or only what is due before a later start."""

    def read_records(self) -> Iterator[Outcome]:
        """All records of the output, other shards' among them."""
        for name in self._storage.journals(RECORDS):
            for line in self._storage.lines(name):
                yield json.loads(line)

    def _load(self, kind: str, own: str, flag: int, known: KnownIds) -> None:
        """Read all journals of a kind; write this run's anew if lines of it do not count."""
        names = self._storage.journals(kind)
        mine = [name for name in names if self._whole or name == own]
        stale = mine not in ([], [own])
        for name in [*mine, *[n for n in names if n not in mine]]:
            for outcome in self._outcomes(name):
                key = _key(outcome)
                if key is not None and not known.get(key)[0] and self._is_there(outcome):
                    known.add(key, flag, bytes.fromhex(outcome["settings"]))
                else:
                    stale |= name in mine
        if stale:
            self._storage.rewrite(own, self._kept(mine, flag, known))
            for name in mine:
                if name != own:
                    self._storage.remove(name)

    def _kept(self, names: Sequence[str], flag: int, known: KnownIds) -> Iterator[bytes]:
        """The lines that ``_load`` counted."""
        written = KnownIds()
        for name in names:
            for outcome in self._outcomes(name):
                key = _key(outcome)
                if key is None or written.get(key)[0]:
                    continue
                if known.get(key)[0] & (DONE | FAILED | STAGED) == flag and self._is_there(outcome):
                    written.add(key, flag)
                    yield to_line(outcome)

    def _is_there(self, record: Outcome) -> bool:
        """Whether the image of a record is; a failure has none that could be missing."""
        if "error" in record:
            return True
        size = self._storage.size(record["path"])
        if "member" in record:
            return size is not None
        return size == -1 or size == record["bytes"]

    def _outcomes(self, name: str) -> Iterator[Outcome]:
        for number, line in enumerate(self._storage.lines(name), 1):
            try:
                yield _parse(line)
            except (ValueError, KeyError, TypeError) as error:
                raise OutputError(
                    f"Line {number} of {self._storage.output}/{name} is not one that this version "
                    "wrote. Remove it and start the same command again: its image is then made "
                    "again."
                ) from error


def to_line(outcome: Outcome) -> bytes:
    """One line of a journal."""
    return json.dumps(outcome, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _parse(line: bytes) -> Outcome:
    """A line as this version writes it; else ``ValueError``, ``KeyError`` or ``TypeError``."""
    found: Outcome = json.loads(line.decode())
    if "settings" in found:
        texts = [found["id"], found["settings"]]
        if "error" not in found:
            texts.append(found["path"])
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("text")
        if len(bytes.fromhex(found["settings"])) != SETTINGS_BYTES:
            raise ValueError("settings")
    elif "error" not in found:
        raise KeyError("settings")
    return found


def _key(outcome: Outcome) -> bytes | None:
    """The key of an image's id; None for a row that no image comes from."""
    return identify(outcome["id"]).key if "settings" in outcome else None
