"""Prompts from a text file, one a line, and which of them are held out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidArgumentError

MAX_FILE_BYTES = 1 << 20


def read_prompts(
    path: str | os.PathLike[str], what: str, minimum: int, maximum: int
) -> tuple[str, ...]:
    """The prompts in a UTF-8 text file, one a line; empty lines and repeated ones do not count.

    Errors call them `what`.

    Raises:
        InvalidArgumentError: if there is no such file, or it does not hold `minimum` to `maximum`
            different prompts.
    """
    accepted = (
        f"A UTF-8 text file with {minimum} to {maximum} different prompts, one a line, is accepted."
    )
    file = Path(path)
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidArgumentError(
            f"The {what} {file} cannot be read: {reason}. {accepted}"
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise InvalidArgumentError(
            f"The {what} {file} are more than {MAX_FILE_BYTES >> 20} MiB. {accepted}"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidArgumentError(
            f"The {what} {file} are not UTF-8: line {line} holds the byte "
            f"0x{content[error.start]:02x}. {accepted} Save it as UTF-8."
        ) from error
    if "\0" in text:
        raise InvalidArgumentError(
            f"The {what} {file} hold the character U+0000, as UTF-16 does that is read as UTF-8. "
            f"{accepted} Save it as UTF-8."
        )
    prompts = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not minimum <= len(prompts) <= maximum:
        raise InvalidArgumentError(
            f"The {what} {file} hold {len(prompts)} different prompts. {accepted}"
        )
    return prompts


def hold_out(prompts: Sequence[str], every: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those to fit to, and of each `every` the last, which are held out."""
    fitted = tuple(p for i, p in enumerate(prompts, 1) if i % every)
    return fitted, tuple(prompts[every - 1 :: every])
