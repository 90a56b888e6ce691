"""A checkpoint's tokenizer gives the ids of transformers, or is refused by name."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import BertTokenizer, PreTrainedTokenizerFast

from conftest import DATA, SHAPES
from ldm_engine import PromptTruncatedWarning
from ldm_engine.errors import BundleError, CheckpointError, ConfigError
from ldm_engine.sampling.tokenizer import Tokenizer
from ldm_export.checkpoint.tokenizer import read_tokenizer
from ldm_export.checkpoint.tokenizer_files import find_tokenizer
from texts import random_texts

VOCABULARY = DATA / "wordpiece_vocab.txt"
SIZE = len(VOCABULARY.read_text().split("\n")) - 1
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


PIECES = [
    "a",
    "red",
    "É",
    "e\u0301",
    "İ",
    "ß",
    "中",
    "<",
    "9",
    "_",
    "-",
    " ",
    "  ",
    "\t",
    "\u3000",
    "\u200b",
]
FLAGS = ("normalized", "single_word", "lstrip", "rstrip")


def _token(content: str, flags: tuple[bool, ...], special: bool) -> AddedToken:
    return AddedToken(content, special=special, **dict(zip(FLAGS, flags, strict=True)))


def _are_ambiguous(made: Any, tokens: list[AddedToken]) -> bool:
    normalize = made.backend_tokenizer.normalizer.normalize_str
    patterns = [normalize(token.content) for token in tokens if token.normalized]
    texts = [normalize(t.content) if t.normalized else t.content for t in tokens if t.lstrip]
    blank = any(text.isspace() for text in texts)
    return len(set(patterns)) < len(patterns) or "" in patterns or blank


@settings(max_examples=60, deadline=None)
@given(
    options=st.sampled_from(COMBINATIONS),
    tokens=st.lists(
        st.builds(
            _token,
            st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join),
            st.tuples(*[st.booleans()] * len(FLAGS)),
            st.booleans(),
        ),
        max_size=5,
        unique_by=str,
    ),
    texts=st.lists(
        st.lists(st.sampled_from([*PIECES, "[SEP]", "b"]), max_size=12).map("".join), max_size=20
    ),
)
def test_any_added_tokens_give_the_ids_of_transformers_or_are_refused(
    options: tuple[Any, ...], tokens: list[AddedToken], texts: list[str]
) -> None:
    names = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
    made = BertTokenizer(
        str(SHAPES / "tokenizer/vocab.txt"), **dict(zip(names, options, strict=True))
    )
    made.add_tokens(tokens)
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        # Refused are those that are alike, or nothing but white space, once they are normalized.
        refused = pytest.raises(
            (CheckpointError, BundleError), match=r"normalizer makes|white space"
        )
        with refused if _are_ambiguous(made, tokens) else contextlib.nullcontext():
            ours = _ours(Path(folder))
            texts += [token.content for token in tokens]
            _assert_equal(ours, BertTokenizer.from_pretrained(folder), texts or [""])


def _write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def _older(folder: Path, config: dict[str, Any], **others: Any) -> None:
    """The files that transformers wrote before version 5."""
    shutil.copyfile(VOCABULARY, folder / "vocab.txt")
    _write(folder, "tokenizer_config.json", config)
    for name, content in others.items():
        _write(folder, f"{name}.json", content)


#: What the older files say: the config, and the files beside it.
OLDER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "a config": ({"do_lower_case": False, "tokenize_chinese_chars": False}, {}),
    "null": ({"never_split": None, "strip_accents": None, "do_basic_tokenize": True}, {}),
    "added_tokens.json": ({}, {"added_tokens": {"<x>": SIZE, "<S>": SIZE + 1}}),
    "added_tokens.json, special": (
        {"additional_special_tokens": ["<X>"]},
        {"added_tokens": {"<X>": SIZE, "café": SIZE + 1}},
    ),
    "tokens of the vocabulary": ({}, {"added_tokens": {"[CLS]": 2, "red": 6, "of": 18}}),
    "added_tokens_decoder": (
        {
            "added_tokens_decoder": {
                "0": {"content": "[PAD]", "special": True, "normalized": False},
                str(SIZE): {"content": "BigCat", "single_word": True},
                str(SIZE + 1): {"content": " É", "normalized": False, "lstrip": True},
            },
            "additional_special_tokens": [" É"],
        },
        {},
    ),
    "special_tokens_map.json": (
        {"do_lower_case": False},
        {
            "special_tokens_map": {
                "cls_token": {"content": "red", "lstrip": True, "normalized": False},
                "pad_token": "of",
                "sep_token": "<new>",
                "mask_token": {"content": "<M>", "rstrip": True, "normalized": True},
                "additional_special_tokens": ["<a>", "<b>"],
            }
        },
    ),
    "names in the config": (
        {"unk_token": "a", "cls_token": {"__type": "AddedToken", "content": "<c>"},
         "pad_token": "red", "bos_token": "<bos>", "image_token": "<img>", "mask_token": None},
        {},
    ),
    "extra special tokens": ({"extra_special_tokens": ["<e>", "<f>"], "eos_token": "<eos>"}, {}),
    "named extra special tokens": ({"extra_special_tokens": {"image_token": "<i>"}}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", OLDER)
def test_older_files_give_the_ids_of_transformers(tmp_path: Path, name: str) -> None:
    config, others = OLDER[name]
    _older(tmp_path, config, **others)
    stated = json.dumps([config, others], ensure_ascii=False)
    tokens = [t for t in re.findall(r'"([^"]+)"', stated) if "_" not in t]
    texts = random_texts(1000, [*SPECIALS, *tokens], seed=2)
    _assert_equal(_ours(tmp_path), BertTokenizer.from_pretrained(tmp_path), texts)


@pytest.mark.parametrize(
    "edit",
    [
        {},
        {"model": {"max_input_chars_per_word": 3}},
        {"model": {"continuing_subword_prefix": "e"}},
        {"model": {"unk_token": "a"}},
        {"normalizer": {"clean_text": False, "lowercase": False}},
        {"normalizer": {"strip_accents": True, "lowercase": False}},
        {"post_processor": {"type": "BertProcessing", "sep": ["red", 6], "cls": ["a", 5]}},
        {"padding": {"direction": "Right", "pad_to_multiple_of": 8}},
    ],
    ids=str,
)
def test_a_tokenizer_json_of_no_class_is_read_whole(tmp_path: Path, edit: dict[str, Any]) -> None:
    saved = _saved(tmp_path, ADDED)
    for part, values in edit.items():
        if part == "padding":
            values = {"strategy": "BatchLongest", "pad_id": 0, "pad_type_id": 0} | values
            saved[part] = values | {"pad_token": "[PAD]"}
        else:
            saved[part] = values if "type" in values else saved[part] | values
    _write(tmp_path, "tokenizer.json", saved)
    _write(tmp_path, "tokenizer_config.json", {"pad_token": "[PAD]", "do_lower_case": False})
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    _assert_equal(_ours(tmp_path, "PreTrainedTokenizerFast"), theirs, TEXTS[:2000])


@functools.cache
def _files(tokens: tuple[AddedToken, ...]) -> dict[str, str]:
    made = BertTokenizer(str(VOCABULARY))
    made.add_tokens(list(tokens))
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        return {path.name: path.read_text() for path in Path(folder).iterdir()}


def _saved(folder: Path, tokens: Sequence[AddedToken] = ()) -> dict[str, Any]:
    """Have transformers save a tokenizer in `folder`; what is in its tokenizer.json."""
    folder.mkdir(exist_ok=True)
    for name, text in _files(tuple(tokens)).items():
        (folder / name).write_text(text)
    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    return content


def test_the_config_counts_before_the_tokenizer_json(tmp_path: Path) -> None:
    _saved(tmp_path)
    config = {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False}
    _write(tmp_path, "tokenizer_config.json", config)
    _assert_equal(_ours(tmp_path), BertTokenizer.from_pretrained(tmp_path), TEXTS[:1000])


#: What is refused: of which file which place holds what, and what the error names.
REFUSED: list[tuple[str, list[Any], Any, str]] = [
    ("tokenizer", ["model", "type"], "BPE", "the model BPE; WordPiece is accepted"),
    ("tokenizer", ["model", "type"], "Unigram", "the model Unigram"),
    ("tokenizer", ["model", "merges"], [], "the model WordPiece"),
    ("tokenizer", ["model", "vocab"], {}, "`vocab`"),
    ("tokenizer", ["model", "vocab", "red"], "six", '"six"'),
    ("tokenizer", ["model", "vocab", "x\n"], SIZE, r"'x\n'"),
    ("tokenizer", ["model", "vocab", "x "], SIZE, "'x '"),
    ("tokenizer", ["model", "vocab", "new"], 6, "two with one id"),
    ("tokenizer", ["model", "vocab", "new"], 2**30, str(2**30)),
    ("tokenizer", ["model", "unk_token"], "a", '`unk_token`: "a"'),
    ("tokenizer", ["model", "max_input_chars_per_word"], 50, "`max_input_chars_per_word`: 50"),
    ("tokenizer", ["model", "continuing_subword_prefix"], "", "`continuing_subword_prefix`"),
    ("tokenizer", ["normalizer"], None, "the normalizer None; BertNormalizer is accepted"),
    ("tokenizer", ["normalizer"], {"type": "NFKC"}, "the normalizer NFKC"),
    ("tokenizer", ["normalizer", "clean_text"], False, "`clean_text`: false"),
    ("tokenizer", ["pre_tokenizer"], {"type": "Whitespace"}, "the pre_tokenizer Whitespace"),
    ("tokenizer", ["pre_tokenizer"], None, "the pre_tokenizer None"),
    ("tokenizer", ["post_processor"], None, "the post_processor None"),
    ("tokenizer", ["post_processor", "type"], "ByteLevel", "the post_processor ByteLevel"),
    ("tokenizer", ["post_processor", "single"], [], "the post_processor TemplateProcessing"),
    ("tokenizer", ["post_processor", "special_tokens", "[CLS]", "ids"], [7], "other ids"),
    ("tokenizer", ["post_processor"],
     {"type": "BertProcessing", "sep": ["red", 6], "cls": ["a", 5]}, "'a' before a text"),
    ("tokenizer", ["added_tokens", 0, "id"], 17, "the id 17"),
    ("tokenizer", ["added_tokens", 0, "lstrip"], "yes", '"yes"'),
    ("tokenizer", ["added_tokens", 0, "stem"], True, "stem"),
    ("tokenizer", ["added_tokens"], {}, "`added_tokens`"),
    ("tokenizer", ["padding"], {"direction": "Left"}, "padding on the side 'Left'"),
    ("tokenizer", ["truncation"], {"direction": "Left"}, "truncation on the side 'Left'"),
    ("tokenizer_config", ["do_lower_case"], "no", '`do_lower_case` is "no"'),
    ("tokenizer_config", ["do_lower_case"], None, "`do_lower_case` is null"),
    ("tokenizer_config", ["strip_accents"], 1, "`strip_accents` is 1"),
    ("tokenizer_config", ["tokenize_chinese_chars"], None, "`tokenize_chinese_chars` is null"),
    ("tokenizer_config", ["do_basic_tokenize"], False, "`do_basic_tokenize`: false"),
    ("tokenizer_config", ["never_split"], ["red"], '`never_split`: ["red"]'),
    ("tokenizer_config", ["padding_side"], "left", '`padding_side`: "left"'),
    ("tokenizer_config", ["truncation_side"], "left", '`truncation_side`: "left"'),
    ("tokenizer_config", ["split_special_tokens"], True, "`split_special_tokens`: true"),
    ("tokenizer_config", ["tokenizer_class"], "CLIPTokenizer", "the class 'CLIPTokenizer'"),
    ("tokenizer_config", ["pad_token"], None, "`pad_token`"),
    ("tokenizer_config", ["cls_token"], 7, "`cls_token` is 7"),
    ("tokenizer_config", ["cls_token"], "red", "'[CLS]' before a text"),
    ("tokenizer_config", ["unk_token"], "red", '`unk_token`: "[UNK]"'),
    ("tokenizer_config", ["added_tokens_decoder"], [], "`added_tokens_decoder`"),
    ("tokenizer_config", ["added_tokens_decoder"], {"7": {"content": "<x>"}}, "'<x>' the id 7"),
    ("tokenizer_config", ["added_tokens_decoder"], {"x": {"content": "<x>"}}, 'the id "x"'),
    ("tokenizer_config", ["added_tokens_decoder"],
     {"0": {"content": "[PAD]", "special": True, "normalized": True}}, "'[PAD]' `normalized`"),
    ("tokenizer_config", ["extra_special_tokens"], 5, "extra special tokens of another form"),
    ("tokenizer_config", ["additional_special_tokens"], ["\ud800"], "an extra special token"),
    ("tokenizer", ["padding"], "x", "cannot be read"),
    ("tokenizer", ["post_processor", "special_tokens", "[CLS]"], 7, "other ids"),
    ("added_tokens", ["<x>"], SIZE + 5, "'<x>' the id"),
    ("added_tokens", ["red"], 0, "'red' the id 0"),
    ("special_tokens_map", ["cls_token"], 1, "`cls_token` is 1"),
    ("vocab", [], "red\n", "other ids, such as"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "value", "says"), REFUSED, ids=lambda v: str(v)[:60])
def test_what_cannot_be_honoured_is_refused_by_name(
    tmp_path: Path, name: str, path: list[Any], value: Any, says: str
) -> None:
    _saved(tmp_path)
    if name == "vocab":
        (tmp_path / "vocab.txt").write_text(value)
    else:
        file = tmp_path / f"{name}.json"
        content = place = json.loads(file.read_text()) if file.exists() else {}
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        _write(tmp_path, file.name, content)
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        _ours(tmp_path)
    assert says in str(caught.value)
    assert "\n  " in str(caught.value), "what to do"


def test_what_two_files_say_differently_is_refused(tmp_path: Path) -> None:
    saved = _saved(tmp_path)
    saved["normalizer"]["lowercase"] = False
    _write(tmp_path, "tokenizer.json", saved)
    _write(tmp_path, "tokenizer_config.json", {})
    with pytest.raises(CheckpointError, match=r"`lowercase`: false.*\n.*`do_lower_case`"):
        _ours(tmp_path)
    tokens = {str(SIZE): {"content": "<x>"}}
    _write(
        tmp_path, "tokenizer_config.json", {"do_lower_case": False, "added_tokens_decoder": tokens}
    )
    _ours(tmp_path)
    _write(tmp_path, "added_tokens.json", {"<x>": SIZE, "<y>": SIZE + 1})
    with pytest.raises(CheckpointError, match="'<y>' the id"):
        _ours(tmp_path)
    (tmp_path / "added_tokens.json").unlink()
    _write(tmp_path, "special_tokens_map.json", {"additional_special_tokens": ["<z>"]})
    with pytest.raises(CheckpointError, match="special token '<z>'"):
        _ours(tmp_path)


@pytest.mark.parametrize("tokens", [["Bar", "bar"], ["é", "e"], ["\u0301"]], ids=str)
def test_added_tokens_that_are_one_when_normalized_are_refused(
    tmp_path: Path, tokens: list[str]
) -> None:
    _saved(tmp_path, [AddedToken(token) for token in tokens])
    with pytest.raises(CheckpointError, match="normalizer makes"):
        _ours(tmp_path)


def test_ids_without_a_token_stay_so(tmp_path: Path) -> None:
    saved = _saved(tmp_path)
    for token in ("red", "of", "##s"):
        del saved["model"]["vocab"][token]
    _write(tmp_path, "tokenizer.json", saved)
    _assert_equal(_ours(tmp_path), BertTokenizer.from_pretrained(tmp_path), TEXTS[:500])


def test_a_vocabulary_that_is_named_counts(tmp_path: Path) -> None:
    _saved(tmp_path)
    named = tmp_path / "named.txt"
    named.write_text("\n".join([*SPECIALS, "red", "circle"]) + "\n")
    other = tmp_path / "other"
    other.mkdir()
    BertTokenizer(str(named)).save_pretrained(other)
    for path in (named, other / "tokenizer.json"):
        with contextlib.ExitStack() as stack:
            if path == named:  # the file beside it has ids of its own
                stack.enter_context(pytest.raises(CheckpointError, match="the id"))
            read = read_tokenizer(find_tokenizer([tmp_path], path), None)
            assert read.path == path
            assert read.vocabulary.decode().split() == [*SPECIALS, "red", "circle"]
    (tmp_path / "tokenizer.json").unlink()
    assert read_tokenizer(find_tokenizer([tmp_path], named), None).path == named


def test_ids_that_the_text_encoder_does_not_embed(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    _saved(saved, [AddedToken("<x>"), AddedToken("<y>")])
    read = read_tokenizer(find_tokenizer([saved], None), None)
    assert read.fitting(SIZE + 2) == read
    with pytest.raises(CheckpointError, match=rf"does not embed: '<y>' \(id {SIZE + 1}\)"):
        read.fitting(SIZE + 1)
    # Nobody asked for [MASK], which transformers adds to a vocabulary without it.
    (tmp_path / "vocab.txt").write_text("\n".join(["[CLS]", "[SEP]", "[PAD]", "[UNK]", "red"]))
    read = read_tokenizer(find_tokenizer([tmp_path], None), None)
    assert [t.content for t in read.fitting(6).info.added_tokens or ()][-1] == "[MASK]"
    assert len(read.fitting(5).info.added_tokens or ()) == 4
