"""What every layout is turned into: configs in diffusers' spelling, and weights read on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_engine.errors import InvalidArgumentError

COMPONENTS = ("text_encoder", "unet", "autoencoder")

StateDict = dict[str, NDArray[np.float32]]
Config = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files were found and configs read; its weights are still on disk."""

    layout: str  # "diffusers", "paddlenlp" or "compvis"
    path: Path  # as given: a folder, or a CompVis file
    configs: dict[str, Config]  # text_encoder, unet, autoencoder, scheduler, tokenizer
    vocab_path: Path  # the WordPiece vocabulary, one token a line
    loaders: Mapping[str, Callable[[], StateDict]] = field(repr=False)
    notes: tuple[str, ...] = ()  # what was chosen where there were several, a sentence each

    def load(self, component: str) -> StateDict:
        """Read the tensors of one component from disk.

        Names and shapes are those of diffusers' torch classes (`LDMBertModel` without `to_logits`,
        `UNet2DConditionModel`, the decoder half of `AutoencoderKL`); Linear weights are [out, in].
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
