"""Text to ``input_ids``: BERT WordPiece, padded to the model's token length.

Padding carries no mask in this family: the model attends to it, as in the reference pipeline.
Its twins are ``cpp/src/sampling/tokenizer.cpp`` and ``examples/browser/tokenizer.mjs``;
``tests/data/tokenizer.json`` holds them to the same ids.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing

from ..bundle.bundle import Bundle
from ..bundle.model import DEFAULT_ADDED_TOKENS, TokenizerInfo
from ..errors import BundleError

#: Characters of a prompt and of what was cut from it, and unknown words, that a warning shows.
_SHOWN_START, _SHOWN_CUT, _SHOWN_WORDS = 40, 200, 5


class PromptTruncatedWarning(UserWarning):
    """A prompt had more tokens than the model takes; the end was cut off."""

    def __init__(self, message: str, prompt: str = "", cut: str = "") -> None:
        super().__init__(message)
        self.prompt = prompt  #: whole
        self.cut = cut  #: what of it has no effect, whole


class UnknownWordsWarning(UserWarning):
    """A prompt has words that the model has no token for; they all look the same to it."""

    def __init__(self, message: str, prompt: str = "", words: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.prompt = prompt  #: whole
        self.words = words  #: each once, as they stand in it


class Tokenizer:
    """WordPiece as in BERT, with the vocabulary and the options of a bundle.

    Raises:
        BundleError: if the vocabulary cannot be read, lacks a special token, or has ids that the
            text encoder does not embed.
    """

    def __init__(
        self, vocabulary: Path, token_length: int, info: TokenizerInfo, vocab_size: int
    ) -> None:
        self.token_length = token_length
        try:
            self._tokenizer = _backend(vocabulary, info)
        except Exception as error:  # the Rust library raises bare Exception
            raise BundleError(
                f"{vocabulary} is not a WordPiece vocabulary: {error}. "
                "Use the vocabulary published with the checkpoint."
            ) from error
        cls, self._sep, self._pad = _special_ids(self._tokenizer, vocabulary, info)
        self._unk_token = info.unk_token
        self._unk = self._tokenizer.token_to_id(info.unk_token)
        _check_tokens(self._tokenizer, vocabulary, info, vocab_size)
        self._tokenizer.post_processor = BertProcessing(
            (info.sep_token, self._sep), (info.cls_token, cls)
        )

    @classmethod
    def of(cls, bundle: Bundle) -> Tokenizer:
        """The tokenizer of a bundle."""
        model = bundle.model
        return cls(bundle.vocabulary, model.token_length, bundle.tokenizer, model.vocab_size)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """`input_ids` [N, token_length]: [CLS] text [SEP] and padding.

        Warns:
            PromptTruncatedWarning: showing what was cut from a text that is too long.
            UnknownWordsWarning: naming the words that there is no token for.
        """
        input_ids = np.full((len(texts), self.token_length), self._pad, dtype=np.int64)
        for row, text in zip(input_ids, texts, strict=True):
            encoding = self._tokenizer.encode(text)
            ids = encoding.ids
            if len(ids) > self.token_length:
                ids = [*ids[: self.token_length - 1], self._sep]
                self._warn_of_cut(text, text[encoding.offsets[self.token_length - 1][0] :])
            row[: len(ids)] = ids
            # What the text itself calls so is no word of it.
            spans = (encoding.offsets[i] for i, number in enumerate(ids) if number == self._unk)
            words = dict.fromkeys(text[start:end] for start, end in spans)
            if unknown := tuple(word for word in words if word != self._unk_token):
                self._warn_of_unknown(text, unknown)
        return input_ids

    def _warn_of_cut(self, text: str, cut: str) -> None:
        message = (
            f"The prompt {_shortened(text, _SHOWN_START)!r} is longer than {self.token_length} "
            "tokens. This end of it was cut off and has no effect: "
            f"{_shortened(cut, _SHOWN_CUT)!r}"
        )
        warnings.warn(PromptTruncatedWarning(message, text, cut), stacklevel=4)

    def _warn_of_unknown(self, text: str, words: tuple[str, ...]) -> None:
        named = ", ".join(repr(_shortened(word, _SHOWN_START)) for word in words[:_SHOWN_WORDS])
        rest = f" and {len(words) - _SHOWN_WORDS} more" if len(words) > _SHOWN_WORDS else ""
        message = (
            f"The prompt {_shortened(text, _SHOWN_START)!r} has words that the model has no token "
            f"for, so that it cannot tell them apart: {named}{rest}. Write them in other words."
        )
        warnings.warn(UnknownWordsWarning(message, text, words), stacklevel=4)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _backend(vocabulary: Path, info: TokenizerInfo) -> Backend:
    """What divides texts and finds ids; without the tokens around a text."""
    backend = Backend(
        WordPiece(
            WordPiece.read_file(str(vocabulary)),
            unk_token=info.unk_token,
            max_input_chars_per_word=info.max_input_chars_per_word,
            continuing_subword_prefix=info.continuing_subword_prefix,
        )
    )
    backend.normalizer = BertNormalizer(
        clean_text=info.clean_text,
        handle_chinese_chars=info.handle_chinese_chars,
        strip_accents=info.strip_accents,
        lowercase=info.lowercase,
    )
    backend.pre_tokenizer = BertPreTokenizer()
    if info.added_tokens is None:
        known = [name for name in DEFAULT_ADDED_TOKENS if backend.token_to_id(name) is not None]
        backend.add_special_tokens([*known])
        return backend
    # In the order of their ids, since those that the vocabulary lacks are numbered as they come.
    for token in sorted(info.added_tokens, key=lambda token: token.id):
        flags = {n: v for n, v in vars(token).items() if n != "id"}
        backend.add_tokens([AddedToken(**flags)])
    return backend


def _special_ids(backend: Backend, vocabulary: Path, info: TokenizerInfo) -> list[int]:
    """The ids of the tokens before, behind and after a text."""
    names = (info.cls_token, info.sep_token, info.pad_token)
    ids = {name: backend.token_to_id(name) for name in names}
    # Only the vocabulary's own gives an id to words that are unknown.
    missing = [name for name, number in ids.items() if number is None]
    if backend.model.token_to_id(info.unk_token) is None:
        missing.append(info.unk_token)
    if missing:
        raise BundleError(
            f"{vocabulary} lacks the special tokens {', '.join(missing)}. "
            "Use the vocabulary published with the checkpoint."
        )
    return [number for name in names if (number := ids[name]) is not None]


def _check_tokens(backend: Backend, vocabulary: Path, info: TokenizerInfo, vocab_size: int) -> None:
    for token in info.added_tokens or ():
        given = backend.token_to_id(token.content)
        if given != token.id:
            raise BundleError(
                f"{vocabulary} gives the added token {token.content!r} the id {given}; the "
                f"bundle says {token.id}. Use the vocabulary published with the checkpoint."
            )
        pattern = token.content
        if token.normalized:
            pattern = backend.normalizer.normalize_str(pattern)
        if token.lstrip and pattern.isspace():  # the Rust library panics on some texts
            raise BundleError(
                f"The tokenizer of {vocabulary} adds {token.content!r} with `lstrip`, which is "
                "white space alone; other text is accepted. Use a tokenizer without it."
            )
    largest = max(backend.get_vocab().values())
    if largest >= vocab_size:
        raise BundleError(
            f"{vocabulary} gives ids up to {largest}, the text encoder embeds {vocab_size}. "
            "Use the vocabulary published with the checkpoint."
        )
