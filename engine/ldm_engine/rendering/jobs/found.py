"""What was found at the places of pictures when a run first looked, for its second reading."""

from __future__ import annotations

import hashlib
import struct

from ...errors import InputError, LDMEngineError
from ...sampling.pictures import PictureFile
from ...sampling.settings import Limits, Setting

_FACTS = struct.Struct("<II32s")  # height, width, the file's sha256


class FoundPictures:
    """Looks at each place once in a run, however many rows name it.

    A file that comes, goes or changes later changes nothing of what the run planned: whoever reads
    its pixels notices. A million places take about 250 MB.
    """

    def __init__(self) -> None:
        self._found: dict[bytes, bytes | str] = {}  # facts, or what is wrong

    def find(self, setting: Setting, place: str, limits: Limits) -> PictureFile:
        """The picture at `place`, an absolute path or a URL.

        Raises:
            InputError: if there was none, or one that is not accepted.
        """
        key = hashlib.sha256(f"{setting.name} {place}".encode(errors="replace")).digest()[:16]
        if key not in self._found:
            self._found[key] = self._look(setting, place, limits)
        facts = self._found[key]
        if isinstance(facts, str):
            raise InputError(facts)
        height, width, digest = _FACTS.unpack(facts)
        return PictureFile(place, (height, width), digest.hex())

    def _look(self, setting: Setting, place: str, limits: Limits) -> bytes | str:
        try:
            picture = setting.checked(place, limits)
        except LDMEngineError as error:
            return str(error)
        return _FACTS.pack(*picture.size, bytes.fromhex(picture.sha256))
