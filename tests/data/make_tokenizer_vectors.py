"""Writes tokenizer.json and its vocabulary: texts, and the ids that the Python engine gives them.

tests/engine/sampling/test_shared_vectors.py holds the Python engine to them;
tests/export/checkpoint/test_tokenizer.py holds it to Hugging Face's own, and
cpp/tests/test_tokenizer.cpp the C++ one to them.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
import unicodedata
import warnings
from pathlib import Path

from tokenizers.normalizers import BertNormalizer

from ldm_engine.bundle.bundle import MANIFEST
from ldm_engine.bundle.manifest import open_bundle, seal
from ldm_engine.bundle.model import TokenizerInfo
from ldm_engine.sampling.tokenizer import PromptTruncatedWarning, Tokenizer

HERE = Path(__file__).parent
VOCABULARY = HERE / "wordpiece_vocab.txt"
TOKEN_LENGTH = 24  #: short, so that many texts are cut off
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "a", "red", "small", "circle", "on", "the", "left", "blue", "star", "right", "white",
    "background", "painting", "of", "squirrel", "eating", "burger", "##s", "##ing", "##er", "un",
    "##believ", "##able", "naive", "cafe", "Cafe", "angstrom", "Angstrom",
]  # fmt: skip
RANDOM_TEXTS = 2200

#: First and last code points of what random texts are made of.
ALPHABETS = {
    "latin": [(0x41, 0x5A), (0x61, 0x7A), (0x20, 0x20)],
    "punctuated": [(0x21, 0x7E), (0x20, 0x20), (0x2010, 0x2027), (0x3001, 0x3011)],
    "accents": [(0xC0, 0x17F), (0x1E00, 0x1EFF), (0x61, 0x66), (0x20, 0x20)],
    "combining": [(0x61, 0x68), (0x300, 0x36F), (0x1AB0, 0x1ABE), (0x20D0, 0x20F0)],
    "greek and cyrillic": [(0x386, 0x3FF), (0x400, 0x52F), (0x20, 0x20)],
    "right to left": [(0x591, 0x5F4), (0x600, 0x6FF), (0x20, 0x20)],
    "indic": [(0x900, 0x97F), (0xB80, 0xBFF), (0xE00, 0xE5B), (0x20, 0x20)],
    "cjk": [(0x4E00, 0x4E60), (0x3041, 0x30FF), (0xAC00, 0xAC80), (0x1100, 0x11FF)],
    "rare ideographs": [
        (0x3400, 0x3405), (0x20000, 0x20005), (0x2A6DC, 0x2A703), (0x2B81C, 0x2B824),
        (0x2B91C, 0x2B923), (0x2F800, 0x2F805), (0xF900, 0xF905),
    ],
    "emoji": [
        (0x1F600, 0x1F64F), (0x1F3FB, 0x1F3FF), (0x200D, 0x200D), (0xFE0E, 0xFE0F),
        (0x1F1E6, 0x1F1FF), (0x2600, 0x26FF), (0xE0062, 0xE0067), (0x61, 0x63),
    ],
    "control": [(0x0, 0x1F), (0x7F, 0xA0), (0x200B, 0x200F), (0x2028, 0x202F), (0x61, 0x64)],
    "spaces": [(0x9, 0xD), (0x20, 0x20), (0x85, 0x85), (0x1680, 0x1680), (0x2000, 0x200B),
               (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0x61, 0x7A)],
    "private and unassigned": [(0xE000, 0xE010), (0xFFF0, 0xFFFD), (0xF0000, 0xF0005),
                               (0x10FFF0, 0x10FFFD), (0x378, 0x37F), (0x61, 0x64)],
    "anything": [(0x0, 0xD7FF), (0xE000, 0x2FFFF)],
}  # fmt: skip

FIXED = [
    "",
    " ",
    "A SMALL Red cirCLE",
    "two  spaces\tand\nlines\r\n",
    "café naïve Ångström CAFÉ",
    "cafe\u0301 nai\u0308ve A\u030angstro\u0308m",
    "unbelievable burgers, eating; it's 50% (more)!",
    "日本語のテキスト 한국어 中文",
    "emoji 🐿️ and a 🍔 👩‍👩‍👧",
    "control\x00characters\x07here\u200b\ufeff\ufffd",
    "[CLS] [MASK] [SEP] [PAD] [UNK] [cls] [ CLS ] x[SEP]y [[MASK]]",
    "line\u2028separator \u00a0nbsp \u3000",
    "İstanbul ŞİŞLİ ﬁ ﬀ ß ẞ Ǆ ǅ",
    "\U00011938 \u1e9b\u0323 \u0344 \uac00\u11a8",
    *(c * n for c in ("a", "é", "e\u0301", "中", "😀") for n in (99, 100, 101, 300)),
    *("red " * n + "x" for n in range(TOKEN_LENGTH - 4, TOKEN_LENGTH + 3)),
    "red " * 20 + "unbelievable burgers, eating [SEP] and more",
]

#: Not UTF-8: cut off, overlong, surrogates, beyond the last plane, stray bytes.
INVALID = [
    "80", "bf", "c3", "c328", "c080", "c1bf", "e28228", "e282", "e08080", "eda080", "edbfbf",
    "f0808080", "f08282ac", "f4908080", "f5808080", "f8888080a0", "fe", "ff", "6162ff",
    "f09f98", "e4b8ade4b8", "61c3", "00ff00", "c3a9e9",
]  # fmt: skip


def texts() -> list[str]:
    """All texts, the same at every run."""
    draw = random.Random(0)
    alphabets = list(ALPHABETS.values())
    made = list(FIXED)
    for i in range(RANDOM_TEXTS):
        ranges = alphabets[i % len(alphabets)]
        length = draw.choice((1, 2, 3, 5, 8, 12, 16))
        made.append("".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(length)))
    classes = (HERE.parent.parent / "cpp/src/sampling/bert_characters.inc").read_text()
    # Word characters matter beside added tokens alone, which other texts have.
    edges = re.findall(r"0x([0-9A-F]+)", classes.partition("kWordCharacters")[0])
    for edge in dict.fromkeys(int(e, 16) for e in edges):
        around = [c for c in (edge - 1, edge, edge + 1) if 0 <= c < 0x110000]
        made.append("".join(f"a{chr(c)}b" for c in around if not 0xD800 <= c < 0xE000))
    return made


def vocabulary(made: list[str]) -> list[str]:
    """Special tokens, a few words, and most characters, alone and inside words."""
    normalizers = [BertNormalizer(lowercase=lowercase) for lowercase in (True, False)]
    seen = {c for text in made for n in normalizers for c in n.normalize_str(text)}
    kept = sorted(c for c in seen if c != " " and (ord(c) < 128 or ord(c) % 16))
    inside = [c for c in kept if not unicodedata.category(c).startswith("P")]
    return [*SPECIALS, *WORDS, *kept, *(f"##{c}" for c in inside)]


def vector(text: str, tokenizers: dict[str, Tokenizer]) -> dict[str, object]:
    """The ids of `text` without padding, and how many bytes of it were cut off."""
    entry: dict[str, object] = {"text": text}
    for name, tokenizer in tokenizers.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ids = tokenizer([text])[0].tolist()
        while ids[-1] == 0:  # padding
            ids.pop()
        entry[name] = ids
        for warning in (w.message for w in caught):
            if isinstance(warning, PromptTruncatedWarning):
                entry[f"{name}_cut_bytes"] = len(warning.cut.encode())
    return entry


def added(content: str, number: int, *flags: str) -> dict[str, object]:
    """An added token with some of its flags."""
    names = ("special", "normalized", "single_word", "lstrip", "rstrip")
    return {"content": content, "id": number, **{n: n in flags for n in names}}


def option_sections(lines: list[str]) -> list[dict[str, object]]:
    """The manifest's `tokenizer` with what it may say beside `lowercase`."""
    new = [
        added("<x>", len(lines), "normalized"), added("<x>y", len(lines) + 1),
        added("BigCat", len(lines) + 2, "normalized", "single_word"),
        added("caf\u00e9", len(lines) + 3, "normalized", "lstrip"),
        added("<s>", len(lines) + 4, "special", "lstrip", "rstrip"),
        added("red", lines.index("red"), "single_word", "rstrip"),
        added("[SEP]", lines.index("[SEP]"), "special"),
    ]  # fmt: skip
    sections: list[dict[str, object]] = [
        {"lowercase": lowercase, "strip_accents": strip, "added_tokens": new}
        for lowercase in (True, False)
        for strip in (None, True, False)
    ]
    sections += [
        {"lowercase": True, "handle_chinese_chars": False, "clean_text": False},
        {"lowercase": False, "max_input_chars_per_word": 3, "continuing_subword_prefix": "e"},
        {"lowercase": True, "unk_token": "a", "cls_token": "red", "sep_token": "[MASK]"},
        {"lowercase": True, "added_tokens": []},
    ]
    return [{"kind": "wordpiece", **section} for section in sections]


def option_texts() -> list[str]:
    """Fixed texts, and random ones in which added tokens stand."""
    draw = random.Random(1)
    parts = ["<x>", "<x>y", "BigCat", "bigcats", "CAF\u00c9", "cafe\u0301", "<s>", "<S>", "red",
             "RED", "[SEP]", "[sep]", "\u0130", "\u4e2d", "e", "a", " ", "  ", "\t", "\u3000", "_",
             "\u0301", "-", "9", "\u200d", "\x85"]  # fmt: skip
    made = [text for text in FIXED if len(text) < 100]
    return made + ["".join(draw.choices(parts, k=draw.randint(1, 9))) for _ in range(150)]


def section_of(section: dict[str, object]) -> TokenizerInfo:
    """What a manifest with this section says."""
    manifest = json.loads((HERE / "manifests.json").read_text())["base"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(seal({**manifest, "tokenizer": section}))
        return open_bundle(folder).tokenizer


def option_vectors(lines: list[str]) -> list[str]:
    """One line for each section, with the ids of all texts."""
    made = []
    for section in option_sections(lines):
        tokenizer = Tokenizer(VOCABULARY, TOKEN_LENGTH, section_of(section), 1 << 20)
        entries = [vector(text, {"ids": tokenizer}) for text in option_texts()]
        for entry in entries:
            if "ids_cut_bytes" in entry:
                entry["cut_bytes"] = entry.pop("ids_cut_bytes")
        made.append(json.dumps({"tokenizer": section, "texts": entries}))
    return made


def main() -> None:
    """Write both files."""
    made = texts()
    lines = vocabulary(made)
    VOCABULARY.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)))
    size = len(dict.fromkeys(lines))
    tokenizers = {
        name: Tokenizer(VOCABULARY, TOKEN_LENGTH, TokenizerInfo("wordpiece", lowercase), size)
        for name, lowercase in (("uncased", True), ("cased", False))
    }
    entries = [json.dumps(vector(text, tokenizers)) for text in made]
    head = f'"token_length": {TOKEN_LENGTH}, "vocab_size": {size}, "invalid": {json.dumps(INVALID)}'
    options = ",\n".join(option_vectors(list(dict.fromkeys(lines))))
    entries_text = ",\n".join(entries)
    (HERE / "tokenizer.json").write_text(
        f'{{{head},\n"options": [\n{options}\n],\n"texts": [\n{entries_text}\n]}}\n'
    )


if __name__ == "__main__":
    main()
