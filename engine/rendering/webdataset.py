"""The layout ``webdataset``: tar archives of so many images each, with their facts beside them.

Finished images wait in a folder of their own, with a journal, until there are enough for an
archive. It appears whole, then its records; so a kill costs no more than in the other layout, and
the archives of an interrupted run are those of an uninterrupted one.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from .identity import identify
from .journals import RECORDS, Journals, to_line
from .known import DONE, FAILED, STAGED, KnownIds
from .renderer import Outcome
from .selection import Shard
from .storage import ALONE, Storage

_STAGED = "staged"
_ARCHIVES = "shards"
#: Of a record, what differs between runs or is only about the file.
_LEFT_OUT = ("path", "seconds", "settings", "row")


def staged_folder(label: str) -> str:
    """Where the images of a run or shard wait."""
    return _STAGED if label == ALONE else f"{_STAGED}-{label}"


class TarJournals(Journals):
    """Journals of a run whose images go into archives."""

    def __init__(self, storage: Storage, shard: Shard, images_per_tar: int) -> None:
        super().__init__(storage, shard)
        self._images_per_tar = images_per_tar
        self._folder = staged_folder(shard.label)
        self._staged = self._own(_STAGED)
        self._prefix = f"{_ARCHIVES}/" if self._whole else f"{_ARCHIVES}/{shard.label}-"
        self._waiting: list[Outcome] = []
        self._next = 0  #: number of the next archive

    def load(self, known: KnownIds) -> None:
        """Learn what lies in archives and what waits for one."""
        self._recover()
        super().load(known)

    def _load_unpacked(self) -> None:
        self._load(_STAGED, DONE | STAGED)
        self._waiting = list(self._outcomes(self._staged))

    def commit(self, outcomes: Sequence[Outcome]) -> None:
        """Write down a batch, and pack an archive if there is enough for one."""
        finished = [o for o in outcomes if "error" not in o]
        self._write_down(self.failures, [o for o in outcomes if "error" in o], FAILED)
        self._write_down(self._staged, finished, DONE | STAGED)
        self._waiting += finished
        while len(self._waiting) >= self._images_per_tar:
            self._pack(self._images_per_tar)

    def finish(self, is_complete: bool) -> None:
        """Pack what is left over if the run is complete."""
        super().finish(is_complete)
        while len(self._waiting) >= self._images_per_tar:
            self._pack(self._images_per_tar)
        if is_complete and self._waiting:
            self._pack(len(self._waiting))
        if not self._waiting:
            self._storage.remove(self._staged)
            for name in self._storage.names(""):
                if name == self._folder or (self._whole and name.startswith(_STAGED)):
                    self._storage.clear(name)

    def _pack(self, count: int) -> None:
        """Move the first `count` images that wait into an archive."""
        packed, self._waiting = self._waiting[:count], self._waiting[count:]
        path = f"{self._prefix}{self._next:06}.tar"
        self._storage.write(path, self._archive(packed))
        self._storage.sync([path])
        self._storage.append(self.records, self._lines(packed, path))
        self._storage.rewrite(self._staged, self._lines(self._waiting))
        for record in packed:
            self._storage.remove(record["path"])
        self._next += 1

    def _archive(self, records: Sequence[Outcome]) -> Iterator[bytes]:
        """The bytes of an archive: image, caption and facts of each record, nothing of the time."""
        for record in records:
            key = identify(record["id"]).member
            facts = {name: value for name, value in record.items() if name not in _LEFT_OUT}
            yield from _member(_image_name(record), self._storage.read(record["path"]) or b"")
            yield from _member(f"{key}.txt", record["prompt"].encode())
            yield from _member(f"{key}.json", json.dumps(facts, ensure_ascii=False).encode())
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _lines(self, records: Sequence[Outcome], archive: str | None = None) -> list[bytes]:
        """Lines of a journal, of records as they wait or as they lie in an archive."""
        moved = {} if archive is None else {"path": archive}
        return [to_line({**r, **moved, "member": _image_name(r)} if moved else r) for r in records]

    def _recover(self) -> None:
        """Bring archives and records together where a kill came between the two.

        An archive without any record is removed, since what is in it still waits; the records that
        one with some lacks are written.
        """
        recorded: dict[str, set[str]] = {}  # members by archive; empty for all but the latest
        latest: dict[str, str] = {}
        for name in self._storage.journals(RECORDS):
            for record in self._outcomes(name):
                path = record["path"]
                before = latest.get(_series(path), "")
                if path > before:
                    recorded[before] = set()  # it is whole: the next one has begun
                    latest[_series(path)] = path
                recorded.setdefault(path, set()).add(record["member"])
        for file in self._storage.names(_ARCHIVES):
            path = f"{_ARCHIVES}/{file}"
            if self._is_mine(path) and path not in recorded:
                self._storage.remove(path)
        for path in filter(self._is_mine, latest.values()):
            self._complete(path, recorded[path])
        own = latest.get(self._prefix)
        self._next = 0 if own is None else _number(own) + 1

    def _is_mine(self, path: str) -> bool:
        """Whether an archive is this shard's; a whole run takes over those of all."""
        return self._whole or _series(path) == self._prefix

    def _complete(self, path: str, recorded: set[str]) -> None:
        """Write the records that an archive lacks."""
        with tarfile.open(fileobj=io.BytesIO(self._storage.read(path) or b"")) as archive:
            missing = set(archive.getnames()) - recorded
        for name in self._storage.journals(_STAGED):
            left = [r for r in self._outcomes(name) if _image_name(r) in missing]
            if left:
                self._storage.append(self.records, self._lines(left, path))


def _series(path: str) -> str:
    """The path of an archive without its number."""
    return path[: -len("000000.tar")]


def _number(path: str) -> int:
    return int(path[-len("000000.tar") : -len(".tar")])


def _image_name(record: Outcome) -> str:
    return identify(record["id"]).member + PurePosixPath(record["path"]).suffix


def _member(name: str, content: bytes) -> Iterator[bytes]:
    """A file of an archive: header, content, padding."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    yield info.tobuf(tarfile.GNU_FORMAT)
    yield content
    yield bytes(-len(content) % tarfile.BLOCKSIZE)
