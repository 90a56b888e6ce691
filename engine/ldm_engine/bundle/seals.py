"""JSON documents sealed with their own hash, so that a change of any byte shows.

The twin in C++ is ``cpp/src/bundle/seals.cpp``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_ZEROS = "0" * 64


def sealed(content: Mapping[str, Any], key: str) -> bytes:
    """The text of `content` with its own hash under `key`.

    That is the sha256 of the whole text with zeros for the hash's 64 digits.
    """
    text = json.dumps({**content, key: _ZEROS}, indent=2) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text.replace(_entry(key, _ZEROS), _entry(key, digest), 1).encode()


def is_sealed(text: bytes, key: str, recorded: object) -> bool:
    """Whether `text` has the hash `recorded`, which it holds under `key`."""
    sealed_entry, entry = (_entry(key, digest).encode() for digest in (recorded, _ZEROS))
    return hashlib.sha256(text.replace(sealed_entry, entry, 1)).hexdigest() == recorded


def _entry(key: str, digest: object) -> str:
    return f'"{key}": "{digest}"'
