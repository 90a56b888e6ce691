"""Reads JSON values as dataclasses, and names the first value that is not of its field's type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

_KINDS: dict[type, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class UnexpectedValueError(Exception):
    """A value is missing or of another type than its field."""


def read(kind: Any, value: Any, name: str) -> Any:
    """`value`, called `name`, as a `kind`: a dataclass, or what its fields may hold.

    Those are plain values, ``tuple[X, ...]``, ``list[X]``, ``Mapping[str, X]``, ``X | None`` and
    ``Any``. Keys without a field are passed over, and a field that has a default may be missing.

    Raises:
        UnexpectedValueError: if something is missing or of another type.
    """
    if is_dataclass(kind):
        content, hints = read(dict, value, name), get_type_hints(kind)
        given = {
            f.name: read(hints[f.name], get(content, f.name), f.name)
            for f in fields(kind)
            if f.name in content or f.default is MISSING
        }
        return kind(**given)  # type: ignore[operator]  # it is a class
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (tuple, list):
        return origin(read(inner[0], item, name) for item in read(list, value, name))
    if origin is Mapping:
        return {key: read(inner[1], item, key) for key, item in read(dict, value, name).items()}
    if inner:  # X | None
        return None if value is None else read(inner[0], value, name)
    return value if kind is Any else _plain(kind, value, name)


def get(content: Mapping[str, Any], name: str) -> Any:
    """The value called `name`.

    Raises:
        UnexpectedValueError: if there is none.
    """
    if name not in content:
        raise UnexpectedValueError(f"`{name}` is missing")
    return content[name]


def _plain(kind: type, value: Any, name: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise UnexpectedValueError(f"`{name}` is or holds {str(value)[:60]!r}, not {_KINDS[kind]}")
    return value
