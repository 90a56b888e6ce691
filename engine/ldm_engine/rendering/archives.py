"""The layout ``webdataset``: tar archives of so many images each, with their facts beside them.

Finished images wait in a folder of their own, with a journal, until there are enough for an
archive. It appears whole, then its records; so a kill costs no more than in the other layout, and
the archives of an interrupted run are those of an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from ..errors import OutputError
from ..machine.storage import ALONE, SUFFIX, Storage
from .jobs.identities import identify
from .journals import Journals
from .options import Shard
from .records import Outcome, to_line
from .selection import DONE, STAGED

_STAGED, _LOST = "staged", "lost"
_STAGED_FOLDER = re.compile(rf"{_STAGED}{SUFFIX}")
_ARCHIVES = "shards"
_ARCHIVE = re.compile(rf"({_ARCHIVES}/(?:\d+-of-\d+-)?)(\d{{6,}})\.tar")
_END = bytes(2 * tarfile.BLOCKSIZE)
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
        self._sizes: dict[str, int] = {}  #: bytes of archives as recorded
        self._gone: Counter[str] = Counter()  #: images of archives that are no longer there
        self._next = 0  #: number of the next archive

    def _load_unpacked(self) -> None:
        """Learn what waits for an archive, once those that a kill left are recorded."""
        self._recover()
        self._load(_STAGED, DONE | STAGED)
        self._waiting = list(self._outcomes(self._staged))

    def _learn(self, outcome: Outcome, flag: int) -> bool:
        if "member" in outcome:
            path = outcome["path"]
            self._sizes[path] = outcome["archive_bytes"]
            if self._is_mine(path) and self._storage.size(path) is None:
                self._gone[path] += 1
        return super()._learn(outcome, flag)

    def _before_dropping(self) -> None:
        """Write down which archives are gone: who read them knows them by their numbers."""
        known = {line["archive"] for line in self._lost()}
        lines = [
            json.dumps({"archive": path, "images": count}).encode() + b"\n"
            for path, count in self._gone.items()
            if path not in known
        ]
        if lines:
            self._storage.append(self._own(_LOST), lines)

    def _lost(self) -> Iterator[dict[str, Any]]:
        """Archives that were gone at this start or at one before."""
        for name in self._storage.journals(_LOST):
            for line in self._storage.lines(name):
                with suppress(ValueError):
                    yield {"archive": "", **json.loads(line)}

    def notices(self) -> Iterator[str]:
        """Beside those of images: which archives are gone."""
        yield from super().notices()
        if self._gone:
            noun = "archive is" if len(self._gone) == 1 else "archives are"
            yield (
                f"{len(self._gone)} {noun} no longer there: {', '.join(sorted(self._gone)[:5])}. "
                f"What was in there (images: {self._gone.total()}) is rendered again, into "
                f"archives with new numbers; {self._own(_LOST)} lists the old ones."
            )

    def commit(self, outcomes: Sequence[Outcome]) -> None:
        """Write down a batch, and pack an archive if there is enough for one."""
        finished = [o for o in outcomes if "error" not in o]
        self._write_down_failures([o for o in outcomes if "error" in o])
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
                if name == self._folder or (self._whole and _STAGED_FOLDER.fullmatch(name)):
                    self._storage.clear(name)

    def _pack(self, count: int) -> None:
        """Move the first `count` images that wait into an archive."""
        packed = self._waiting[:count]
        path = f"{self._prefix}{self._next:06}.tar"
        size = self._storage.write(path, self._archive(packed))
        self._storage.sync([path])
        self._record(packed, path, size)
        self._waiting = self._waiting[count:]
        self._storage.rewrite(self._staged, map(to_line, self._waiting))
        for record in packed:
            self._storage.remove(record["path"])
        self._next += 1

    def _archive(self, records: Sequence[Outcome]) -> Iterator[bytes]:
        """The bytes of an archive: image, caption and facts of each record, nothing of the time."""
        for record in records:
            key = identify(record["id"]).member
            facts = {name: value for name, value in record.items() if name not in _LEFT_OUT}
            yield from _member(_image_name(record), self._image(record))
            yield from _member(f"{key}.txt", record["prompt"].encode())
            yield from _member(f"{key}.json", json.dumps(facts, ensure_ascii=False).encode())
        yield _END

    def _image(self, record: Outcome) -> bytes:
        """An image that waits; one that is not as it was written waits no longer."""
        content = self._storage.read(record["path"]) or b""
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            others = [other for other in self._waiting if other is not record]
            self._storage.rewrite(self._staged, map(to_line, others))
            raise OutputError(
                f"{self._storage.output}/{record['path']} has vanished or was changed. Start the "
                "same command again: the image is then made again."
            )
        return content

    def _record(self, records: Sequence[Outcome], path: str, size: int) -> None:
        """Write down that the images of `records` are in the archive `path` of `size` bytes."""
        moved = [
            {**r, "path": path, "member": _image_name(r), "archive_bytes": size} for r in records
        ]
        self._write_down(self.records, moved, DONE)

    def _recover(self) -> None:
        """Write the records that archives lack, where a kill came between the two.

        Raises:
            OutputError: if an archive is not as recorded. None is ever removed.
        """
        waiting = {_image_name(r): r for name in self._mine(_STAGED) for r in self._outcomes(name)}
        there = {f"{_ARCHIVES}/{name}" for name in self._storage.names(_ARCHIVES)}
        latest = {_parts(path)[0]: path for path in sorted(self._sizes, key=_parts)}
        for path in sorted(filter(self._is_mine, there)):
            if path not in self._sizes or (waiting and path in latest.values()):
                is_whole = self._complete(path, waiting)
            else:
                is_whole = self._storage.size(path) in (-1, self._sizes[path])
            if not is_whole:
                raise OutputError(
                    f"{self._storage.output}/{path} is not as {self.records} has it: it was cut, "
                    "changed or written by another program, or records are lost. Bring back what "
                    "is missing, or move this archive away, and start the same command again: "
                    "images without a record or without their archive are then made again."
                )
        lost = {line["archive"] for line in self._lost()}
        numbered = map(_parts, {*there, *self._sizes, *lost})
        self._next = 1 + max((n for series, n in numbered if series == self._prefix), default=-1)

    def _is_mine(self, path: str) -> bool:
        """Whether a file is an archive of this shard's; a whole run takes over those of all."""
        series, _ = _parts(path)
        return series == self._prefix or (self._whole and series != "")

    def _complete(self, path: str, waiting: Mapping[str, Outcome]) -> bool:
        """Write the records that an archive lacks, of images that still wait.

        Returns whether it is then as recorded; if it is in no record, all in it must wait.
        """
        content = self._storage.read(path) or b""
        images = _images_of(content)
        found = [waiting[name] for name in images if name in waiting]
        if path in self._sizes:
            is_whole = len(content) == self._sizes[path]
        else:
            is_whole = 0 < len(images) == len(found)
        if is_whole:
            self._sizes[path] = len(content)
            self._record([r for r in found if not self._is_done(r)], path, len(content))
        return is_whole

    def _is_done(self, record: Outcome) -> bool:
        return bool(self._states.get(identify(record["id"]).key)[0] & DONE)


def _parts(path: str) -> tuple[str, int]:
    """The path of an archive without its number, and that; none if it is not one of a run's."""
    found = _ARCHIVE.fullmatch(path)
    return (found[1], int(found[2])) if found else ("", -1)


def _images_of(content: bytes) -> list[str]:
    """The names of the images in an archive, none if it is not whole."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            names = archive.getnames() if content.endswith(_END) else []
    except tarfile.TarError:
        return []
    return [name for name in names if not name.endswith((".txt", ".json"))]


def _image_name(record: Outcome) -> str:
    return identify(record["id"]).member + PurePosixPath(record["path"]).suffix


def _member(name: str, content: bytes) -> Iterator[bytes]:
    """A file of an archive: header, content, padding."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    yield info.tobuf(tarfile.GNU_FORMAT)
    yield content
    yield bytes(-len(content) % tarfile.BLOCKSIZE)
