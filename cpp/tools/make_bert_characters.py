"""Writes src/sampling/bert_characters.inc: how the ``tokenizers`` library classes each code point.

That library, which the Python engine uses, carries Unicode tables of several ages. Asking it is
the one way to agree with it on every character. Run this again when the Python engine moves to a
version that gives other tables; tests/data/tokenizer.json then changes too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import NFD, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

TARGET = Path(__file__).parent.parent / "src" / "sampling" / "bert_characters.inc"
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


def ranges(code_points: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each run."""
    runs: list[tuple[int, int]] = []
    for c in sorted(code_points):
        if runs and runs[-1][1] == c - 1:
            runs[-1] = (runs[-1][0], c)
        else:
            runs.append((c, c))
    return runs


def table(name: str, comment: str, pairs: Sequence[tuple[int, int]]) -> str:
    """A C++ array of `pairs`."""
    cells = [f"{{0x{a:X}, 0x{b:X}}}," for a, b in pairs]
    lines = [" ".join(cells[i : i + 5]) for i in range(0, len(cells), 5)]
    body = "\n".join(f"    {line}" for line in lines)
    return f"// {comment}\ninline constexpr CodePointPair {name}[] = {{\n{body}\n}};\n"


def main() -> None:
    """Write the file."""
    cleaned = dict(zip(CODE_POINTS, normalized(clean_text=True), strict=True))
    spaced = dict(zip(CODE_POINTS, normalized(handle_chinese_chars=True), strict=True))
    stripped = dict(zip(CODE_POINTS, normalized(strip_accents=True), strict=True))
    lowered = dict(zip(CODE_POINTS, normalized(lowercase=True), strict=True))
    spaces = {c for c, text in cleaned.items() if text == " "}
    decomposable = [c for c in CODE_POINTS if unicodedata.decomposition(chr(c))]
    decomposed = {c: NFD().normalize_str(chr(c)) for c in decomposable}
    whole = [c for c, text in decomposed.items() if text != unicodedata.normalize("NFD", chr(c))]
    assert all(decomposed[c] == chr(c) for c in whole)
    # With accents left on, small letters of one capital are two characters.
    assert [c for c, text in lowered.items() if len(text) > 1] == [0x130]
    unlike = [c for c, text in lowered.items() if text != chr(c).lower() and len(text) == 1]
    tables = [
        table("kRemoved", "dropped: control, format and private characters, and U+FFFD",
              ranges(c for c, text in cleaned.items() if not text)),
        table("kSpaces", "white space", ranges(spaces)),
        table("kIdeographs", "words of their own: CJK",
              ranges(c for c, text in spaced.items() if text == f" {chr(c)} ")),
        table("kAccents", "dropped after decomposition where the tokenizer lower-cases",
              ranges(c for c, text in stripped.items() if not text)),
        table("kPunctuation", "words of their own: punctuation", ranges(punctuation(spaces))),
        table("kLowercase", "capital and small letters that Unicode 14 does not pair so",
              [(c, ord(lowered[c])) for c in unlike]),
        table("kUndecomposed", "left whole, though Unicode decomposes them",
              ranges(whole)),
        table("kWordCharacters", "beside which a token that must stand alone is not found",
              ranges(word_characters())),
    ]  # fmt: skip
    TARGET.write_text(
        "// How tokenizers classes each code point; written by tools/make_bert_characters.py with\n"
        f"// tokenizers {tokenizers.__version__} and Unicode {unicodedata.unidata_version}.\n\n"
        + "\n".join(tables)
    )


if __name__ == "__main__":
    main()
