"""A checkpoint's tokenizer gives the ids of transformers, or is refused by name."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import BertTokenizer

from conftest import DATA
from ldm_engine import PromptTruncatedWarning
from ldm_engine.sampling.tokenizer import Tokenizer
from ldm_export.checkpoint.tokenizer import read_tokenizer
from ldm_export.checkpoint.tokenizer_files import find_tokenizer
from texts import random_texts

VOCABULARY = DATA / "wordpiece_vocab.txt"
LENGTH = 77
SPECIALS = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"]
#: Each flag, alone and together; some overlap, some are in the vocabulary, some are not normalized.
ADDED = [
    AddedToken("<x>"),
    AddedToken("<x>y"),
    AddedToken("BigCat", single_word=True),
    AddedToken("café"),
    AddedToken("Éa", normalized=False),
    AddedToken("Éa b", normalized=False, single_word=True, rstrip=True),
    AddedToken("中a"),
    AddedToken("İz"),
    AddedToken("red", single_word=True, lstrip=True),
    AddedToken("of", normalized=False, rstrip=True),
    AddedToken(" q", normalized=False, lstrip=True),
    AddedToken("<s>", normalized=False, special=True, lstrip=True, rstrip=True),
    AddedToken("<T>", normalized=True, special=True, single_word=True, lstrip=True, rstrip=True),
]
TEXTS = random_texts(10_000, [*SPECIALS, *(token.content for token in ADDED)])
COMBINATIONS = list(itertools.product((True, False), (None, True, False), (True, False)))


def _ours(folder: Path, class_name: str | None = None) -> Tokenizer:
    read = read_tokenizer(find_tokenizer([folder], None), class_name).fitting(1 << 20)
    vocabulary = folder / "read.txt"
    vocabulary.write_bytes(read.vocabulary)
    return Tokenizer(vocabulary, LENGTH, read.info, 1 << 20)


def _assert_equal(ours: Tokenizer, theirs: Any, texts: list[str]) -> None:
    expected = theirs(
        texts, padding="max_length", max_length=LENGTH, truncation=True,
        return_attention_mask=False, return_token_type_ids=False,
    ).input_ids  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptTruncatedWarning)
        ids = ours(texts)
    different = np.flatnonzero((ids != np.asarray(expected)).any(axis=1))
    assert not len(different), [(texts[i], ids[i], expected[i]) for i in different[:3]]


@pytest.mark.parametrize("added", [False, True], ids=["plain", "added"])
@pytest.mark.parametrize(("lower", "strip", "chinese"), COMBINATIONS)
def test_ids_are_those_of_transformers(
    tmp_path: Path, lower: bool, strip: bool | None, chinese: bool, added: bool
) -> None:
    options = {"do_lower_case": lower, "strip_accents": strip, "tokenize_chinese_chars": chinese}
    made = BertTokenizer(str(VOCABULARY), **options)
    if added:
        made.add_tokens(ADDED)
    made.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    _assert_equal(_ours(tmp_path), BertTokenizer.from_pretrained(tmp_path), TEXTS)
