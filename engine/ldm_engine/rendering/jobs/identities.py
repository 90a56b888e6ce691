"""What follows from an image's id alone: key, seed, shard, a file name that is safe anywhere.

All of it is cut from one sha256 of the id's UTF-8 bytes, so it depends on no order, shard or batch.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

#: Ids that are their own file name: lower case, since some file systems take cases for the same.
_PLAIN = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,98}[a-z0-9_-])?")
#: Names that Windows gives to devices, with any suffix.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|com[0-9]|lpt[0-9])(?:\..*)?")
_REMINDER = re.compile(r"[^A-Za-z0-9_]+")
_MAX_REMINDER = 40


@dataclass(frozen=True, slots=True)
class Identity:
    """An id and the hash that everything is derived from."""

    id: str
    digest: bytes  #: sha256 of the id in UTF-8

    @property
    def key(self) -> bytes:
        """16 bytes that stand for the id where a million of them are kept."""
        return self.digest[:16]

    @property
    def seed(self) -> int:
        """The seed of an image whose job gives none: the first 8 hex digits of the sha256."""
        return int.from_bytes(self.digest[:4], "big")

    @property
    def stem(self) -> str:
        """Folder and file name without suffix, of ASCII alone and different for each id.

        The folder is one of 256. A name holds ``~`` and 32 hex digits of the hash unless the id
        is safe as it stands, which an id with ``~`` is not: the two kinds never meet.
        """
        plain = _PLAIN.fullmatch(self.id) and not _RESERVED.fullmatch(self.id)
        return f"{self.digest[:1].hex()}/{self.id if plain else self._marked}"

    @property
    def member(self) -> str:
        """The same without folder or dots: readers of tar archives cut names at the first dot."""
        name = self.stem.split("/")[1]
        return self._marked if "." in name else name

    @property
    def _marked(self) -> str:
        """What reminds of the id, and the hash."""
        ascii_id = unicodedata.normalize("NFKD", self.id[:1000]).encode("ascii", "ignore").decode()
        reminder = _REMINDER.sub("-", ascii_id).strip("-")[:_MAX_REMINDER]
        return f"{reminder or 'id'}~{self.digest.hex()[:32]}"

    def shard(self, count: int) -> int:
        """Which of `count` shards renders it, from 0."""
        return int.from_bytes(self.digest[8:16], "big") % count


def identify(text: str) -> Identity:
    """The identity of the id `text`."""
    return Identity(text, hashlib.sha256(text.encode()).digest())
