from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from conftest import SHAPES
from ldm_engine import PromptTruncatedWarning, UnknownWordsWarning
from ldm_engine.bundle.model import AddedToken, TokenizerInfo
from ldm_engine.errors import ArgumentTypeError, BundleError, InvalidArgumentError
from ldm_engine.sampling.tokenizer import Tokenizer
from ldm_engine.sampling.values import check_texts

LENGTH = 77
SPECIALS = [
    AddedToken(content, number, special=True, normalized=False)
    for number, content in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
]
VOCABULARY = SHAPES / "tokenizer" / "vocab.txt"

TEXTS = [
    "",
    " ",
    "a small red circle on the left",
    "A SMALL Red cirCLE",
    "two  spaces\tand\nlines",
    "café naïve Ångström",
    "punctuation, and (more)! star-shaped; it's 50%",
    "日本語のテキスト",
    "emoji 🐿️ and a 🍔",
    "control\x00characters\x07here\u200b",
    "a" * 300,
    "[CLS] [MASK] [SEP] [PAD]",
    "line\u2028separator \u00a0nbsp",
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(VOCABULARY, LENGTH, TokenizerInfo("wordpiece", True), 30522)


@pytest.fixture(scope="module")
def reference():
    return BertTokenizer(str(VOCABULARY))


def _reference_ids(reference, text):
    encoded = reference([text], padding="max_length", max_length=LENGTH, truncation=True)
    return encoded["input_ids"][0]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_the_reference_tokenizer(tokenizer, reference, text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert tokenizer([text])[0].tolist() == _reference_ids(reference, text)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=120))
def test_any_text_gives_the_ids_of_the_reference(tokenizer, reference, text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids = tokenizer([text])
    assert ids.shape == (1, LENGTH)
    assert ids[0].tolist() == _reference_ids(reference, text)


def test_what_is_cut_off_is_shown(tokenizer):
    kept, cut = "red " * 75, "blue star at the top"
    with pytest.warns(PromptTruncatedWarning, match=f"no effect: '{cut}'"):
        ids = tokenizer([kept + cut])
    assert ids.shape == (1, LENGTH)


def test_a_prompt_that_just_fits_is_not_warned_about(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer(["red " * 75])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\nworld\n",
        b"\xff\xfe\x00",
        b"[CLS]\n[SEP]\n",
        b"[CLS]\n[SEP]\n[PAD]\n",  # no [UNK]: unknown words would fail while rendering
        b"[CLS]\n[SEP]\n[PAD]\n[UNK]\n" + b"\n".join(b"w%d" % i for i in range(30522)),
    ],
)
def test_a_bad_vocabulary_is_refused(tmp_path, content):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"vocab\.txt"):
        Tokenizer(path, LENGTH, TokenizerInfo("wordpiece", True), 30522)


@pytest.mark.parametrize("normalized", [True, False])
def test_an_added_token_of_white_space_that_takes_more_of_it_along_is_refused(normalized):
    # Behind one with `rstrip`, transformers' own tokenizer panics in some texts.
    token = AddedToken(" \t", 144, normalized=normalized, lstrip=True)
    info = TokenizerInfo("wordpiece", True, added_tokens=(*SPECIALS, token))
    with pytest.raises(BundleError, match="white space alone"):
        Tokenizer(VOCABULARY, LENGTH, info, 30522)
    info = replace(info, added_tokens=(*SPECIALS, replace(token, lstrip=False)))
    assert 144 in Tokenizer(VOCABULARY, LENGTH, info, 30522)(["a \t \tb"]) or normalized


def test_added_tokens_have_the_ids_that_the_bundle_says():
    info = TokenizerInfo("wordpiece", True, added_tokens=(*SPECIALS, AddedToken("<x>", 145)))
    with pytest.raises(BundleError, match="'<x>' the id 144; the bundle says 145"):
        Tokenizer(VOCABULARY, LENGTH, info, 30522)


def test_texts_must_be_valid_text():
    check_texts("prompt", ["fine", ""])
    with pytest.raises(ArgumentTypeError, match="bytes"):
        check_texts("prompt", ["fine", b"bytes"])
    with pytest.raises(InvalidArgumentError, match="UTF-8"):
        check_texts("prompt", ["lone \ud800 surrogate"])


def test_of_what_is_cut_off_a_warning_shows_200_characters(tokenizer):
    with pytest.warns(PromptTruncatedWarning) as caught:
        tokenizer(["red " * 2000])
    message = str(caught[0].message)
    assert len(message) < 400
    assert message.endswith("red …'")


def test_words_without_a_token_are_named(tokenizer):
    with pytest.warns(UnknownWordsWarning, match="no token for.*: '🐿', '🍔'") as caught:
        tokenizer(["a 🐿️ and a 🍔 and a 🍔"])
    assert len(caught) == 1
    assert caught[0].message.words == ("🐿", "🍔")
    many = " ".join(chr(0x1F400 + i) for i in range(9))
    with pytest.warns(UnknownWordsWarning, match="'🐄' and 4 more"):
        tokenizer([many])


@pytest.mark.parametrize("text", ["a small red circle", "", "[UNK] [MASK]"])
def test_words_with_one_are_not(tokenizer, text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer([text])


def test_an_unknown_word_that_is_cut_off_is_not_named(tokenizer):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer(["red " * 80 + "🍔"])
    assert [w.category for w in caught] == [PromptTruncatedWarning]
