"""Texts that tokenizers may read differently: all scripts, marks, white space, and added tokens."""

from __future__ import annotations

import random
import unicodedata

#: First and last code points of what a text may be made of.
ALPHABETS = [
    [(0x61, 0x7A), (0x41, 0x5A), (0x20, 0x20)],
    [(0x21, 0x7E), (0x20, 0x20), (0x2010, 0x2027), (0x3001, 0x3011)],
    [(0xC0, 0x17F), (0x1E00, 0x1EFF), (0x61, 0x66), (0x20, 0x20)],
    [(0x61, 0x68), (0x300, 0x36F), (0x1AB0, 0x1ABE), (0x20D0, 0x20F0)],
    [(0x386, 0x3FF), (0x400, 0x52F), (0x10A0, 0x10FF), (0x13A0, 0x13FF), (0x20, 0x20)],
    [(0x591, 0x5F4), (0x600, 0x6FF), (0x20, 0x20)],
    [(0x900, 0x97F), (0xB80, 0xBFF), (0xE00, 0xE5B), (0x20, 0x20)],
    [(0x4E00, 0x4E60), (0x3041, 0x30FF), (0xAC00, 0xAC80), (0x1100, 0x11FF), (0x61, 0x64)],
    [(0x3400, 0x3405), (0x2A6DC, 0x2A703), (0x2B81C, 0x2B824), (0x2F800, 0x2F805),
     (0xF900, 0xF905)],
    [(0x1F600, 0x1F64F), (0x1F3FB, 0x1F3FF), (0x200D, 0x200D), (0xFE0E, 0xFE0F), (0x61, 0x63)],
    [(0x1, 0x1F), (0x7F, 0xA0), (0x200B, 0x200F), (0x2028, 0x202F), (0x61, 0x64)],
    [(0x9, 0xD), (0x20, 0x20), (0x85, 0x85), (0x2000, 0x200B), (0x3000, 0x3000), (0x61, 0x7A)],
    [(0x1, 0xD7FF), (0xE000, 0x2FFFF)],
]  # fmt: skip
WORDS = ["a", "red", "small", "circle", "unbelievable", "burgers", "Cafe", "İI", "ß", "ﬁ"]


def _variant(draw: random.Random, token: str) -> str:
    """`token` as it is, or as the normalizer may or may not make it."""
    kind = draw.randrange(6)
    if kind == 1:
        return token.upper()
    if kind == 2:
        return token.lower()
    if kind == 3:
        return unicodedata.normalize("NFD", token)
    if kind == 4:
        at = draw.randrange(len(token) + 1)
        return token[:at] + draw.choice("\u0301\u200d\u00ad x") + token[at:]
    return token


def random_texts(count: int, tokens: list[str], seed: int = 0) -> list[str]:
    """`count` texts, the same for the same arguments; `tokens` stand in them in many ways."""
    draw = random.Random(seed)
    joints = ["", "", " ", " ", "  ", "\t", "-", "_", "x", "é", "\u0301", "9", "中", "\u3000"]
    texts = ["", " ", "\u0301", "\u200b", *(c * n for c in "aé中😀" for n in (99, 100, 101, 300))]
    while len(texts) < count:
        ranges = draw.choice(ALPHABETS)
        parts = []
        for _ in range(draw.choice((1, 1, 2, 3, 4))):
            if draw.random() < 0.5:
                length = draw.choice((1, 2, 3, 5, 8, 12))
                parts += [chr(draw.randint(*draw.choice(ranges))) for _ in range(length)]
            else:
                known = draw.choice(WORDS) if draw.random() < 0.3 else draw.choice(tokens)
                parts.append(_variant(draw, known))
            parts.append(draw.choice(joints))
        texts.append("".join(parts))
    return texts[:count]
