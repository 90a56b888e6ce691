"""What every layout is turned into: configs in diffusers' spelling, and weights read on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_engine.bundle.model import TokenizerInfo
from ldm_engine.errors import CheckpointError, InvalidArgumentError

COMPONENTS = ("text_encoder", "unet", "autoencoder")

StateDict = dict[str, NDArray[np.float32]]
Config = dict[str, Any]


@dataclass(frozen=True)
class CheckpointTokenizer:
    """How a checkpoint's texts become ids, as a bundle says it."""

    path: Path  # the file that its vocabulary was read from
    vocabulary: bytes  # of vocab.txt, one token a line
    info: TokenizerInfo
    # Special tokens that transformers adds to any vocabulary without them; no file numbers them.
    implied: frozenset[str] = frozenset()

    def fitting(self, vocab_size: int) -> CheckpointTokenizer:
        """The same, for a text encoder of `vocab_size` ids.

        Raises:
            CheckpointError: naming added tokens that it does not embed.
        """
        tokens = self.info.added_tokens or ()
        beyond = [token for token in tokens if token.id >= vocab_size]
        stated = [token for token in beyond if token.content not in self.implied]
        if stated:
            shown = ", ".join(f"{token.content!r} (id {token.id})" for token in stated[:8])
            raise CheckpointError(
                f"The tokenizer of `{self.path}` adds tokens that the text encoder "
                f"does not embed: {shown}; it embeds ids below {vocab_size}.\n"
                "  Use the text encoder that was trained with them, or take them out of "
                "tokenizer.json, tokenizer_config.json and added_tokens.json."
            )
        if not beyond:
            return self
        kept = tuple(token for token in tokens if token.id < vocab_size)
        return replace(self, info=replace(self.info, added_tokens=kept))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files were found and configs read; its weights are still on disk."""

    layout: str  # "diffusers", "paddlenlp" or "compvis"
    path: Path  # as given: a folder, or a CompVis file
    configs: dict[str, Config]  # text_encoder, unet, autoencoder, scheduler
    tokenizer: CheckpointTokenizer
    loaders: Mapping[str, Callable[[], StateDict]] = field(repr=False)
    notes: tuple[str, ...] = ()  # what was chosen where there were several, a sentence each

    def load(self, component: str) -> StateDict:
        """Read the tensors of one component from disk.

        Names and shapes are those of diffusers' torch classes (`LDMBertModel` without `to_logits`,
        `UNet2DConditionModel`, `AutoencoderKL`); Linear weights are [out, in].
        All are float32 and writable, but writing to them never reaches the file: they may be views
        of a private mapping of it, so that holding them costs no second copy.

        Raises:
            InvalidArgumentError: `component` is not one of COMPONENTS.
            CheckpointError: a file is damaged, or two stored tensors have one canonical name.
        """
        if component not in self.loaders:
            raise InvalidArgumentError(
                f"`component` is {component!r}; a checkpoint has {', '.join(COMPONENTS)}.\n"
                "  Pass one of these names."
            )
        return self.loaders[component]()
