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
                f"`{name}` holds {shown(text)} ({type(text).__name__}); text is accepted."
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(
                f"`{name}` holds {shown(text)}, which is not valid Unicode ({error.reason}). "
                "Decode the input as UTF-8 first."
            ) from error


def check_prompts(name: str, texts: Sequence[Any]) -> None:
    """``check_texts``, and that no text holds U+0000, the mark of UTF-16 that was read as UTF-8."""
    check_texts(name, texts)
    for text in texts:
        if "\0" in text:
            raise InvalidArgumentError(
                f"`{name}` holds {shown(text)}, with the character U+0000; text without it is "
                "accepted. Decode the input as what it is, UTF-16 perhaps."
            )


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


def number_text(value: float) -> str:
    """A number with all of its digits, and without a point where it is whole."""
    return repr(float(value)).removesuffix(".0")


def as_number(name: str, value: Any, whole: bool = False, word: str = "") -> Any:
    """The number `value` of a job; text is read as one, since CSV knows nothing else.

    Raises:
        ArgumentTypeError: if it is none, nor the `word` that is accepted in its place.
    """
    if word and value == word:
        return value
    number = value
    if isinstance(value, str):
        try:
            number = int(value)
        except ValueError:
            try:
                number = float(value)
            except ValueError:
                number = None
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        number = None
    elif whole and isinstance(number, float):
        number = int(number) if number.is_integer() else None
    if number is None:
        kind = ("a whole number" if whole else "a number") + (f" or {word}" if word else "")
        raise ArgumentTypeError(
            f"`{name}` is {shown(value)} ({type(value).__name__}); {kind} is accepted."
        )
    return number
