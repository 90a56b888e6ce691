"""What an engine must know of a model and its tokenizer, whatever the weights."""

from __future__ import annotations

from dataclasses import dataclass

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
class TokenizerInfo:
    """How texts become ids, apart from the vocabulary."""

    kind: str  #: "wordpiece", the only one so far
    lowercase: bool  #: lower-case letters, and strip their accents
