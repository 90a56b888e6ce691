"""The journals of an output: which images are done or failed, one line each, in order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence

from ..errors import OutputError
from ..machine.storage import ALONE, FileStatus, Storage
from .jobs.identities import Identity, identify
from .options import Shard
from .records import Outcome, from_line, is_cut, to_line
from .selection import DONE, FAILED, STAGED, States

RECORDS, FAILURES = "records", "failures"
_SHOWN = 5


class Journals:
    """``records.jsonl`` and ``failures.jsonl`` of one output, or a shard's own ones."""

    def __init__(self, storage: Storage, shard: Shard, replace_changed: bool = False) -> None:
        self._storage = storage
        self._replaces = replace_changed
        self._edited: dict[str, None] = {}  #: paths of images that were changed since
        self._recorded_ns = 0  #: when the last record was written
        self._shard = shard
        self._whole = shard.label == ALONE
        self._states = States()
        self._is_outdone = False  #: whether there are failures that a later try outdid
        self.records = self._own(RECORDS)
        self.failures = self._own(FAILURES)

    def load(self, states: States) -> None:
        """Learn what is done, and bring the journals into order; `states` is kept up to date.

        A record whose image is gone or cut is left out, so that the image is made again; with
        ``replace_changed`` so is one whose image was changed. Bad rows are left out too: each run
        records them anew from the job file as it is now. A run that is no shard takes over what
        shards wrote; a shard only reads it.
        """
        self._states = states
        found = map(self._storage.status, self._storage.journals(RECORDS))
        self._recorded_ns = max((status.written_ns or 0 for status in found if status), default=0)
        self._load(RECORDS, DONE)
        self._load_unpacked()
        self._load(FAILURES, FAILED)  # what is done is none any more

    def commit(self, outcomes: Sequence[Outcome]) -> None:
        """Write down a batch whose images are there."""
        self._write_down(self.records, [o for o in outcomes if "error" not in o], DONE)
        self._write_down_failures([o for o in outcomes if "error" in o])

    def record_bad_rows(self, failures: Sequence[Outcome]) -> None:
        """Write down rows that no image comes from."""
        if failures:
            self._storage.append(self.failures, [to_line(f) for f in failures])

    def finish(self, is_complete: bool) -> None:
        """Bring everything into its final place, or only what is due before a later start."""
        if self._is_outdone:
            self._storage.rewrite(
                self.failures, self._kept([self.failures], FAILED, with_bad_rows=True)
            )

    @property
    def changed(self) -> int:
        """Images that were changed since they were written, and are left."""
        return len(self.edited)

    def notices(self) -> Iterator[str]:
        """What a person is to know of the images that are there, one sentence each."""
        if changed := list(self._edited):
            noun = "image was" if len(changed) == 1 else "images were"
            more = ", …" if len(changed) > _SHOWN else ""
            outcome = (
                "made again, as --replace-changed says"
                if self._replaces
                else "left so; --replace-changed makes them again"
            )
            yield (
                f"{len(changed)} {noun} changed in {self._storage.output} after being written "
                f"there, and now {outcome}: {', '.join(changed[:_SHOWN])}{more}."
            )

    @property
    def edited(self) -> Collection[str]:
        """Paths of images that their user has changed, and that are left."""
        return () if self._replaces else self._edited.keys()

    def read_records(self) -> Iterator[Outcome]:
        """All records of the output, other shards' among them."""
        return self._read(RECORDS)

    def read_failures(self) -> Iterator[Outcome]:
        """Likewise all failures."""
        return self._read(FAILURES)

    def _read(self, kind: str) -> Iterator[Outcome]:
        for name in self._storage.journals(kind):
            for line in self._storage.lines(name):
                yield json.loads(line)

    def _load_unpacked(self) -> None:
        """Learn what is done and not yet where it belongs; here it always is."""

    def _before_dropping(self) -> None:
        """Called before lines are dropped whose images are gone."""

    def _own(self, kind: str) -> str:
        """The name of this run's or shard's own journal."""
        return f"{kind}.jsonl" if self._whole else f"{kind}-{self._shard.label}.jsonl"

    def _mine(self, kind: str) -> list[str]:
        """The journals that are this run's to keep: a whole run takes over those of all."""
        names = self._storage.journals(kind)
        return [name for name in names if self._whole or name == self._own(kind)]

    def _write_down(self, name: str, outcomes: Sequence[Outcome], flags: int) -> None:
        if outcomes:
            self._storage.append(name, [to_line(o) for o in outcomes])
        for outcome in outcomes:
            key, settings = identify(outcome["id"]).key, bytes.fromhex(outcome["settings"])
            self._is_outdone |= bool(self._states.get(key)[0] & FAILED)
            self._states.add(key, flags, settings)

    def _write_down_failures(self, failures: Sequence[Outcome]) -> None:
        """Those without settings are tried again, as rows are of which no image comes."""
        self._write_down(self.failures, [o for o in failures if "settings" in o], FAILED)
        self.record_bad_rows([o for o in failures if "settings" not in o])

    def _load(self, kind: str, flag: int) -> None:
        """Read all journals of a kind; write this run's anew if lines of it do not count."""
        own, mine = self._own(kind), self._mine(kind)
        stale = mine not in ([], [own])
        for name in [*(n for n in self._storage.journals(kind) if n not in mine), *mine]:
            for outcome in self._outcomes(name):
                is_only_one = self._learn(outcome, flag)
                stale |= name in mine and not is_only_one
        if stale:
            self._before_dropping()
            self._storage.rewrite(own, self._kept(mine, flag))
            for name in mine:
                if name != own:
                    self._storage.remove(name)

    def _learn(self, outcome: Outcome, flag: int) -> bool:
        """Take over what a line says, unless an earlier one or the lack of its image forbids it.

        Of several failures the last is taken. Returns False if the line must be dropped.
        """
        identity = _identity(outcome)
        if identity is None:
            return False
        before, _ = self._states.get(identity.key)
        if before & DONE or not self._is_there(outcome, identity, flag):
            return False
        self._states.add(identity.key, flag, bytes.fromhex(outcome["settings"]))
        return not before

    def _kept(
        self, names: Sequence[str], flag: int, with_bad_rows: bool = False
    ) -> Iterator[bytes]:
        """The lines that count, of each image one."""
        written = States()
        for name in names:
            for outcome in self._outcomes(name):
                identity = _identity(outcome)
                if identity is None:
                    if with_bad_rows:
                        yield to_line(outcome)
                elif not written.get(identity.key)[0] and self._counts(outcome, identity, flag):
                    written.add(identity.key, flag)
                    yield to_line(outcome)

    def _counts(self, outcome: Outcome, identity: Identity, flag: int) -> bool:
        """Whether a line agrees with the state of its image."""
        flags, settings = self._states.get(identity.key)
        return (
            flags & (DONE | FAILED | STAGED) == flag
            and settings == bytes.fromhex(outcome["settings"])
            and self._is_there(outcome, identity, flag)
        )

    def _is_there(self, record: Outcome, identity: Identity, flag: int) -> bool:
        """Whether the image of a record is, or what its user made of it.

        A failure has none that could be missing, and for another shard's images that one looks.
        """
        if "error" in record or not self._shard.holds(identity):
            return True
        path = record["path"]
        status = self._storage.status(path)
        if status is None or status.size == -1 or "member" in record:
            return status is not None
        if flag != DONE:  # it waits for an archive, where nobody is to edit it
            return bool(status.size == record["bytes"])
        if path not in self._edited and self._may_differ(record, status):
            content = self._storage.read(path) or b""
            if is_cut(content, record["bytes"]):
                return False
            if hashlib.sha256(content).hexdigest() != record.get("sha256"):
                self._edited[path] = None
        return not (self._replaces and path in self._edited)

    def _may_differ(self, record: Outcome, status: FileStatus) -> bool:
        """Whether an image must be read to know that it is as recorded.

        It is older than the line that records it, and so than the journal's last one.
        """
        if self._replaces or status.size != record["bytes"]:
            return True
        return status.written_ns is not None and status.written_ns > self._recorded_ns

    def _outcomes(self, name: str) -> Iterator[Outcome]:
        for number, line in enumerate(self._storage.lines(name), 1):
            try:
                yield from_line(line)
            except (ValueError, KeyError, TypeError) as error:
                raise OutputError(
                    f"{self._storage.locate(name, number)} is not one that this version wrote. "
                    "Remove it and start the same command again: its image is then made again."
                ) from error


def _identity(outcome: Outcome) -> Identity | None:
    """The identity of an image; None for a row that no image comes from."""
    return identify(outcome["id"]) if "settings" in outcome else None
