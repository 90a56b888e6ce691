"""What an engine must know of a model and its tokenizer, whatever the weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

#: Largest image height and width, in pixels; attention over more would need terabytes.
MAX_SIZE = 8192


@dataclass(frozen=True)
class ModelInfo:
    """The model's sizes."""

    source: str  #: the checkpoint's id or folder name, for people
    latent_channels: int
    scale_factor: int  #: pixels a latent cell spans in each direction
    size_multiple: int  #: latent height and width are multiples of this
    sample_size: int  #: default latent height and width
    token_length: int
    vocab_size: int
    time_shift_width: int
    text_kv_width: int

    @property
    def pixel_multiple(self) -> int:
        """Image height and width are multiples of this."""
        return self.size_multiple * self.scale_factor

    @property
    def default_size(self) -> int:
        """Default image height and width, in pixels."""
        return self.sample_size * self.scale_factor


def check_sizes(model: ModelInfo) -> None:
    """Raise ``ValueError`` if the model's own default image is not one that it can make."""
    if model.default_size > MAX_SIZE:
        raise ValueError(f"images of {model.default_size} pixels are larger than {MAX_SIZE}")
    if model.sample_size % model.size_multiple:
        raise ValueError(
            f"latents of {model.sample_size} (`sample_size`) do not divide by "
            f"{model.size_multiple}, as the UNet's levels need"
        )


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text as a whole, before the rest is divided into words."""

    content: str
    id: int
    special: bool = False  #: no part of the language, such as `[SEP]`; changes no id
    normalized: bool = True  #: found in the normalized text, else in the text as it was given
    single_word: bool = False  #: found only where no letter, digit or mark touches it
    lstrip: bool = False  #: takes the white space before it along
    rstrip: bool = False  #: takes the white space after it along


@dataclass(frozen=True)
class TokenizerInfo:
    """How texts become ids, apart from the vocabulary; names are those of `tokenizers`."""

    kind: str  #: "wordpiece", the only one so far
    lowercase: bool
    strip_accents: bool | None = None  #: None: where it lower-cases
    handle_chinese_chars: bool = True  #: each CJK ideograph is a word of its own
    clean_text: bool = True  #: drop control characters, make all white space blanks
    max_input_chars_per_word: int = 100  #: longer words are unknown
    continuing_subword_prefix: str = "##"
    unk_token: str = "[UNK]"
    cls_token: str = "[CLS]"
    sep_token: str = "[SEP]"
    pad_token: str = "[PAD]"
    #: None: those of `DEFAULT_ADDED_TOKENS` that the vocabulary has.
    added_tokens: tuple[AddedToken, ...] | None = None

    def section(self) -> dict[str, Any]:
        """The manifest's `tokenizer`: what is not at its default, so that older engines read it."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        kept = {f.name: given[f.name] for f in fields(self) if given[f.name] != f.default}
        if self.added_tokens is not None:
            kept["added_tokens"] = [asdict(token) for token in self.added_tokens]
        return kept

    @property
    def digest_line(self) -> str:
        """What the bundle's digest holds of it: nothing where only `lowercase` is said."""
        more = {n: v for n, v in self.section().items() if n not in ("kind", "lowercase")}
        text = json.dumps(more, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return f"{text}  tokenizer\n" if more else ""


#: Found in texts as they stand, where nothing else is said.
DEFAULT_ADDED_TOKENS = ("[UNK]", "[SEP]", "[CLS]", "[PAD]", "[MASK]")
