"""What a misspelt or foreign name of a field means: which setting it was to be."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping

from .settings import SETTINGS

#: What other programs set by these names, and nothing sets here; small letters and digits alone.
_FOREIGN = {
    **dict.fromkeys(
        ("size", "imagesize", "resolution", "dimensions"), "`height` and `width` are accepted"
    ),
    **dict.fromkeys(
        ("clipskip", "subseed", "subseedstrength",
         "guidancerescale", "sigmas", "latents", "promptembeds",
         "negativepromptembeds", "lora", "loras"), "there is no such setting"
    ),
}  # fmt: skip
_SLIPS = 5, 8  #: letters of a name from which one, and two, of them may be wrong
_LONG = 6  #: letters from which a slip in a word of other programs is noticed
_MOST_KEPT = 10_000


def folded(name: str) -> str:
    """`name` without case, accents and what is neither letter nor digit."""
    parts = unicodedata.normalize("NFKD", name).casefold()
    return "".join(c for c in parts if c.isalnum())


class Names:
    """The fields of a job: names that are read, and those that were meant for them."""

    def __init__(self, others: Mapping[str, Iterable[str]]) -> None:
        """`others` are fields beside the settings, with what other programs call them."""
        self.known = (*others, *(setting.field for setting in SETTINGS))
        self._meant = {alias: name for name, aliases in others.items() for alias in aliases}
        self._meant |= {alias: s.field for s in SETTINGS for alias in s.aliases.split()}
        self._meant |= {folded(name): name for name in self.known}
        #: Those in which a slip is noticed.
        self._long = {w: k for w, k in self._meant.items() if len(w) >= _LONG or w == folded(k)}
        self._found: dict[str, str] = {}

    def faults(self, others: Iterable[str], given: Collection[str]) -> list[str]:
        """What is wrong with `others`, of the fields `given` those that are not read.

        Where there is an ``id``, what is called much like it may be another one.
        """
        found = []
        for name in others:
            fault = self._kept(name)
            if fault and not ("id" in given and self.meant(name) == "id"):
                found.append(fault)
        return found

    def _kept(self, name: str) -> str:
        """The fault of a field by its name, kept: all rows have the same."""
        if name not in self._found:
            if len(self._found) > _MOST_KEPT:
                self._found.clear()
            self._found[name] = self._fault(name)
        return self._found[name]

    def meant(self, name: str) -> str | None:
        """The field that `name` is a misspelling or another program's word of."""
        short = folded(name)
        if short in self._meant:
            return self._meant[short]
        for same in (short.removesuffix("s"), f"{short}s"):
            if same in self._meant:
                return self._meant[same]
        return next((known for word, known in self._long.items() if _is_near(short, word)), None)

    def _fault(self, name: str) -> str:
        if known := self.meant(name):
            return (
                f"`{name[:80]}` is not read; `{known}` is the name here. "
                "Rename it, also if it means something else."
            )
        if reason := _FOREIGN.get(folded(name)):
            return (
                f"`{name[:80]}` is read by other programs, not by this one: "
                f"{reason}. Leave it out, or rename it."
            )
        return ""


def _is_near(text: str, known: str) -> bool:
    """Whether a slip of the finger lies between them, or two in a long name."""
    allowed = sum(len(known) >= length for length in _SLIPS)
    if not allowed or text[:1] != known[:1] or abs(len(text) - len(known)) > allowed:
        return False
    return _distance(text, known) <= allowed


def _distance(a: str, b: str) -> int:
    """Letters to add, drop, replace, or swap with the next (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and (x, a[i - 2]) == (b[j - 2], y):
                best = min(best, last[j - 2] + 1)
            row.append(best)
    return row[-1]
