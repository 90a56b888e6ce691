"""The C++ tokenizer gives the ids of the Python one for every option, on many texts."""

from __future__ import annotations

import itertools
import json
import subprocess
import warnings

import numpy as np

from conftest import DATA
from ldm_engine import PromptTruncatedWarning
from ldm_engine.bundle.bundle import MANIFEST
from ldm_engine.bundle.manifest import open_bundle, seal
from ldm_engine.bundle.model import AddedToken, TokenizerInfo
from ldm_engine.sampling.tokenizer import Tokenizer
from texts import random_texts

BASE = json.loads((DATA / "manifests.json").read_text())["base"]
VOCABULARY = (DATA / "wordpiece_vocab.txt").read_text()
SPECIALS = ["[UNK]", "[SEP]", "[CLS]", "[PAD]", "[MASK]"]
FLAGS = ("normalized", "single_word", "lstrip", "rstrip")
CONTENTS = [
    "<x>",
    "<x>y",
    "BigCat",
    "café",
    "Éa",
    "Éa b",
    "中a",
    "İz",
    "red",
    "of",
    " q",
    "<s>",
    "-",
]


def _added() -> tuple[AddedToken, ...]:
    """Every combination of the flags, and some twice; a few are in the vocabulary."""
    lines = VOCABULARY.split("\n")
    new = itertools.count(len(lines) - 1)
    known = [AddedToken(c, lines.index(c), special=True, normalized=False) for c in SPECIALS]
    flags = itertools.cycle(itertools.product((True, False), repeat=len(FLAGS)))
    for content, values in zip([*CONTENTS, "un", "##s", "a a"], flags, strict=False):
        number = lines.index(content) if content in lines else next(new)
        known.append(AddedToken(content, number, **dict(zip(FLAGS, values, strict=True))))
    return tuple(known)


def _tokenizers() -> list[TokenizerInfo]:
    options = itertools.product(
        (True, False), (None, True, False), (True, False), (True, False), (None, _added())
    )
    made = [
        TokenizerInfo("wordpiece", lower, strip, chinese, clean, added_tokens=added)
        for lower, strip, chinese, clean, added in options
    ]
    names = {"unk_token": "a", "cls_token": "red", "sep_token": "[MASK]", "pad_token": "of"}
    made.append(TokenizerInfo("wordpiece", True, **names))
    made.append(TokenizerInfo("wordpiece", True, max_input_chars_per_word=3))
    made.append(TokenizerInfo("wordpiece", True, continuing_subword_prefix="e"))
    return made


def _bundle(folder, info):
    folder.mkdir()
    (folder / "vocab.txt").write_text(VOCABULARY)
    (folder / MANIFEST).write_bytes(seal({**BASE, "tokenizer": info.section()}))
    return open_bundle(folder)


def test_ids_are_those_of_python_for_every_option(cpp_build, tmp_path):
    texts = random_texts(10_000, [*SPECIALS, *CONTENTS], seed=1)
    bundles = [_bundle(tmp_path / str(i), info) for i, info in enumerate(_tokenizers())]
    lines = [json.dumps(text) for text in texts]
    asked = [line for b in bundles for line in (json.dumps({"folder": str(b.path)}), *lines)]
    done = subprocess.run(
        [cpp_build.tree / "tests" / "ldm_engine_tokenize"],
        input="\n".join(asked), capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    found = np.fromstring(done.stdout, dtype=np.int64, sep=" ")
    found = found.reshape(len(bundles), len(texts), BASE["model"]["token_length"] + 1)
    for bundle, theirs in zip(bundles, found, strict=True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PromptTruncatedWarning)
            ours = Tokenizer.of(bundle)(texts)
        different = np.flatnonzero((ours != theirs[:, :-1]).any(axis=1))
        assert not len(different), (
            bundle.tokenizer,
            [(texts[i], ours[i], theirs[i]) for i in different[:3]],
        )
        said = [w.message for w in caught if isinstance(w.message, PromptTruncatedWarning)]
        cut = [len(warning.cut.encode()) for warning in said]
        assert theirs[:, -1][theirs[:, -1] > 0].tolist() == cut
