"""What counts as a number, a whole number or text, of Python or NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentTypeError, InvalidArgumentError


def is_whole(value: Any) -> bool:
    """Whether `value` is a whole number, of Python or NumPy, and no boolean."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether `value` is a real number, of Python or NumPy, and no boolean."""
    real = isinstance(value, (int, float, np.integer, np.floating))
    return real and not isinstance(value, bool)


def check_texts(name: str, texts: Sequence[Any]) -> None:
    """Raise an error that calls them `name` unless all `texts` are Unicode text."""
    for text in texts:
        if not isinstance(text, str):
            raise ArgumentTypeError(
                f"`{name}` holds {text!r} ({type(text).__name__}); text is accepted."
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(
                f"`{name}` holds {text!r}, which is not valid Unicode ({error.reason}). "
                "Decode the input as UTF-8 first."
            ) from error


def list_texts(name: str, value: Any) -> list[Any]:
    """One text or a list of texts, as a list that is not empty."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, (list, tuple)):
        raise ArgumentTypeError(
            f"`{name}` is {value!r} ({type(value).__name__}); text or a list of texts is accepted."
        )
    if not value:
        raise InvalidArgumentError(f"`{name}` is an empty list; give at least one text.")
    return list(value)


def shown(value: Any) -> str:
    """`value` as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        text = "a huge number"
    return text if len(text) <= 80 else f"{text[:77]}..."
