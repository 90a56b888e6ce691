"""Writes how the ``tokenizers`` library classes each code point, for C++ and for the browser.

That library, which the Python engine uses, carries Unicode tables of several ages. Asking it is
the one way to agree with it on every character. Run this again when the Python engine moves to a
version that gives other tables; tests/data/tokenizer.json then changes too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import NFD, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

ROOT = Path(__file__).parents[2]
CPP = ROOT / "cpp/src/sampling/bert_characters.inc"
BROWSER = ROOT / "examples/browser/characters.mjs"
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
_SEPARATOR = "|"


def normalized(**steps: bool) -> list[str]:
    """What the normalizer makes of each code point alone, with only `steps` switched on."""
    off = {
        "clean_text": False,
        "handle_chinese_chars": False,
        "strip_accents": False,
        "lowercase": False,
    }
    parts = BertNormalizer(**{**off, **steps}).normalize_str(_SEPARATOR.join(map(chr, CODE_POINTS)))
    results = parts.split(_SEPARATOR)
    at = CODE_POINTS.index(ord(_SEPARATOR))  # between its own separators it leaves two empty parts
    return [*results[:at], _SEPARATOR, *results[at + 2 :]]


def punctuation(spaces: set[int]) -> list[int]:
    """The code points that the pre-tokenizer makes words of their own."""
    asked = [c for c in CODE_POINTS if c not in spaces]
    text = " ".join(f"a{chr(c)}a" for c in asked)
    words = iter(word for word, _ in BertPreTokenizer().pre_tokenize_str(text))
    found = []
    for c in asked:
        if next(words) == f"a{chr(c)}a":
            continue
        word = next(words)
        if word == chr(c):
            found.append(c)
            word = next(words)
        assert word == "a", hex(c)  # else it was a space
    return found


def word_characters() -> list[int]:
    """The code points beside which a token that must stand alone is not found."""
    tokenizer = Tokenizer(WordPiece({"[UNK]": 0, "-": 1}, unk_token="[UNK]"))
    tokenizer.add_tokens([AddedToken("-", single_word=True, normalized=False)])
    encoded = tokenizer.encode_batch([f"{chr(c)}-" for c in CODE_POINTS])
    return [c for c, e in zip(CODE_POINTS, encoded, strict=True) if 1 not in e.ids]


def reordered() -> list[int]:
    """The code points that canonical decomposition changes, or puts in another order."""
    nfd = NFD()
    last, first = "\u0345", "\u0334"  # of the highest combining class, and of the lowest
    alone = {c: nfd.normalize_str(chr(c)) for c in CODE_POINTS}
    return [
        c
        for c, text in alone.items()
        if text != chr(c)
        or nfd.normalize_str(last + chr(c)) != last + text
        or nfd.normalize_str(chr(c) + first) != text + first
    ]


def ranges(code_points: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each run."""
    runs: list[tuple[int, int]] = []
    for c in sorted(code_points):
        if runs and runs[-1][1] == c - 1:
            runs[-1] = (runs[-1][0], c)
        else:
            runs.append((c, c))
    return runs


class Letters(NamedTuple):
    """Capitals at even distances, each as far from its small letter."""

    first: int
    last: int
    step: int
    shift: int


def letters(small: Mapping[int, int]) -> list[Letters]:
    """The capitals of `small`, which maps them to their small letters, in as few runs as can be."""
    runs: list[Letters] = []
    for c, other in sorted(small.items()):
        before = runs[-1] if runs else Letters(c, -2, 1, 0)
        step = c - before.last
        is_one = before.first == before.last
        if before.shift == other - c and (step == before.step or (is_one and step <= 2)):
            runs[-1] = Letters(before.first, c, step, before.shift)
        else:
            runs.append(Letters(c, c, 1, other - c))
    return runs


def camel(name: str) -> str:
    """The C++ name of a table."""
    return "k" + "".join(word.capitalize() for word in name.split("_"))


def cpp_table(name: str, comment: str, rows: Sequence[Sequence[int]]) -> str:
    """A C++ array."""
    kind = "Letters" if len(rows[0]) > 2 else "CodePointRange"
    cells = ["{" + ", ".join(hex_of(n) for n in row) + "}," for row in rows]
    lines = [" ".join(cells[i : i + 4]) for i in range(0, len(cells), 4)]
    body = "\n".join(f"    {line}" for line in lines)
    return f"// {comment}\ninline constexpr {kind} {camel(name)}[] = {{\n{body}\n}};\n"


def hex_of(number: int) -> str:
    """As C++ writes it."""
    return f"{'-' if number < 0 else ''}0x{abs(number):X}"


def browser_table(name: str, comment: str, rows: Sequence[Sequence[int]]) -> str:
    """A JavaScript text: numbers in hex, all of letters, of ranges the last where it differs."""
    cells = [
        " ".join(f"{n:x}" for n in row)
        if len(row) > 2
        else "-".join(f"{n:x}" for n in dict.fromkeys(row))
        for row in rows
    ]
    return f'/** {comment} */\nexport const {name} =\n  "{",".join(cells)}";\n'


def main() -> None:
    """Write both files."""
    cleaned = dict(zip(CODE_POINTS, normalized(clean_text=True), strict=True))
    spaced = dict(zip(CODE_POINTS, normalized(handle_chinese_chars=True), strict=True))
    stripped = dict(zip(CODE_POINTS, normalized(strip_accents=True), strict=True))
    lowered = dict(zip(CODE_POINTS, normalized(lowercase=True), strict=True))
    spaces = {c for c, text in cleaned.items() if text == " "}
    # With accents left on, small letters of one capital are two characters.
    assert [c for c, text in lowered.items() if len(text) > 1] == [0x130]
    small = {c: ord(text) for c, text in lowered.items() if len(text) == 1 and text != chr(c)}
    tables: dict[str, tuple[str, Sequence[Sequence[int]]]] = {
        "REMOVED": (
            "dropped: control, format and private characters, and U+FFFD",
            ranges(c for c, text in cleaned.items() if not text),
        ),
        "SPACES": ("white space", ranges(spaces)),
        "IDEOGRAPHS": (
            "words of their own: CJK",
            ranges(c for c, text in spaced.items() if text == f" {chr(c)} "),
        ),
        "ACCENTS": (
            "dropped after decomposition where the tokenizer lower-cases",
            ranges(c for c, text in stripped.items() if not text),
        ),
        "PUNCTUATION": ("words of their own: punctuation", ranges(punctuation(spaces))),
        "NORMALIZED": ("what canonical decomposition changes or reorders", ranges(reordered())),
        "LOWERCASE": ("capitals: first, last, step, distance to the small letter", letters(small)),
        "WORD_CHARACTERS": (
            "beside which a token that must stand alone is not found",
            ranges(word_characters()),
        ),
    }
    origin = (
        "// How tokenizers classes each code point; written by\n"
        f"// cpp/tools/make_bert_characters.py with tokenizers {tokenizers.__version__}.\n\n"
    )
    for target, write in ((CPP, cpp_table), (BROWSER, browser_table)):
        target.write_text(origin + "\n".join(write(n, *rest) for n, rest in tables.items()))


if __name__ == "__main__":
    main()
