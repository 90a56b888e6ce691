"""Text to ``input_ids``: BERT WordPiece, padded to the model's token length.

Padding carries no mask in this family: the model attends to it, as in the reference pipeline.
The twin in C++ is ``cpp/src/sampling/tokenizer.cpp``; ``tests/data/tokenizer.json`` holds both to
the same ids.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer

from ..bundle.bundle import Bundle
from ..errors import BundleError

SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")


class PromptTruncatedWarning(UserWarning):
    """A prompt had more tokens than the model takes; the end was cut off."""

    def __init__(self, message: str, prompt: str = "") -> None:
        super().__init__(message)
        self.prompt = prompt  #: whole


class Tokenizer:
    """WordPiece as in ``bert-base-uncased``, with the vocabulary of a bundle.

    Raises:
        BundleError: if the vocabulary cannot be read, lacks a special token, or has ids that the
            text encoder does not embed.
    """

    def __init__(
        self, vocabulary: Path, token_length: int, lowercase: bool, vocab_size: int
    ) -> None:
        self.token_length = token_length
        try:
            self._tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=lowercase)
        except Exception as error:  # the Rust library raises bare Exception
            raise BundleError(
                f"{vocabulary} is not a WordPiece vocabulary: {error}. "
                "Use the vocabulary published with the checkpoint."
            ) from error
        specials = {name: self._tokenizer.token_to_id(name) for name in SPECIAL_TOKENS}
        missing = [name for name, token_id in specials.items() if token_id is None]
        if missing:
            raise BundleError(
                f"{vocabulary} lacks the special tokens {', '.join(missing)}. "
                "Use the vocabulary published with the checkpoint."
            )
        largest = max(self._tokenizer.get_vocab().values())
        if largest >= vocab_size:
            raise BundleError(
                f"{vocabulary} gives ids up to {largest}, the text encoder embeds {vocab_size}. "
                "Use the vocabulary published with the checkpoint."
            )
        self._sep, self._pad = specials["[SEP]"], specials["[PAD]"]

    @classmethod
    def of(cls, bundle: Bundle) -> Tokenizer:
        """The tokenizer of a bundle."""
        model = bundle.model
        lowercase = bundle.tokenizer.lowercase
        return cls(bundle.vocabulary, model.token_length, lowercase, model.vocab_size)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """`input_ids` [N, token_length]: [CLS] text [SEP] and padding.

        Warns:
            PromptTruncatedWarning: showing what was cut from a text that is too long.
        """
        input_ids = np.full((len(texts), self.token_length), self._pad, dtype=np.int64)
        for row, text in zip(input_ids, texts, strict=True):
            encoding = self._tokenizer.encode(text)
            ids = encoding.ids
            if len(ids) > self.token_length:
                ids = [*ids[: self.token_length - 1], self._sep]
                self._warn(text, text[encoding.offsets[self.token_length - 1][0] :])
            row[: len(ids)] = ids
        return input_ids

    def _warn(self, text: str, cut: str) -> None:
        start = text[:40] + ("…" if len(text) > 40 else "")
        message = (
            f"The prompt {start!r} is longer than {self.token_length} tokens. "
            f"This end of it was cut off and has no effect: {cut!r}"
        )
        warnings.warn(PromptTruncatedWarning(message, text), stacklevel=4)
