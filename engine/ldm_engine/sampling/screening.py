"""A check of the application's own: it may refuse a prompt before it is rendered, or its picture.

What it is asked is not rendered, or not kept, unless it answers that it is accepted.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence

from PIL import Image

from ..errors import ArgumentTypeError, LDMEngineError, RefusedError

#: Called with (prompt, None) before a prompt is rendered and with (prompt, picture) after; returns
#: why it is refused, or None.
Check = Callable[[str, Image.Image | None], str | None]
_MAX_REASON = 500  # characters


def name_of(check: Check) -> str:
    """What a check is called where runs are compared, and in errors: MODULE:NAME."""
    name = getattr(check, "__qualname__", None) or type(check).__qualname__
    return f"{getattr(check, '__module__', None) or 'unknown'}:{name}"


def can_travel(check: Check) -> bool:
    """Whether another process can import the check by its name."""
    try:
        pickle.dumps(check)
    except Exception:  # each kind of what cannot be pickled raises its own
        return False
    return not name_of(check).startswith("__main__:")


def refusal(check: Check | None, prompt: str, picture: Image.Image | None = None) -> str:
    """Why `check` refuses a prompt, or the picture of one; empty if it does not.

    Raises:
        LDMEngineError: if it fails: nothing goes unchecked then.
        ArgumentTypeError: if it returns neither text nor None.
    """
    if check is None:
        return ""
    try:
        reason = check(prompt, None if picture is None else picture.copy())
    except Exception as error:
        raise LDMEngineError(
            f"The check {name_of(check)} failed: {type(error).__name__}: {str(error)[:300]}. "
            "Nothing goes on unchecked: mend it, and start again."
        ) from error
    if reason is None:
        return ""
    if not isinstance(reason, str) or not reason:
        raise ArgumentTypeError(
            f"The check {name_of(check)} returned {str(reason)[:80]!r} ({type(reason).__name__}); "
            "the reason as text is accepted, or None where it refuses nothing."
        )
    what = "prompt" if picture is None else "picture"
    return f"the check {name_of(check)} refused the {what}: {reason[:_MAX_REASON]}"


def require_accepted(
    check: Check | None, prompts: Iterable[str], pictures: Sequence[Image.Image] | None = None
) -> None:
    """Raise ``RefusedError`` at the first of `prompts`, or of their `pictures`, that is refused."""
    if pictures is None:
        asked = [(prompt, refusal(check, prompt)) for prompt in dict.fromkeys(prompts)]
    else:
        pairs = zip(prompts, pictures, strict=True)
        asked = [(prompt, refusal(check, prompt, picture)) for prompt, picture in pairs]
    for prompt, reason in asked:
        if reason:
            raise RefusedError(
                f"{prompt[:80]!r}: {reason}. Give another prompt, or another seed if it was the "
                "picture."
            )
