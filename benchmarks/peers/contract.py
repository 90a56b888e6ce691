"""What a peer does: four kinds of work, each prepared once and then called repeatedly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GUIDANCE_SCALE = 6.0
TIMESTEP = 481
TOKEN_LENGTH = 77

Array = NDArray[np.float32]
#: Does the work once and returns its result, which the next call may overwrite.
Call = Callable[[], Array]


@dataclass(frozen=True)
class Sources:
    """The same model as a bundle and as a checkpoint, and a folder for what peers convert."""

    bundle: Path
    checkpoint: Path
    conversions: Path


@dataclass(frozen=True)
class Setup:
    """How a peer runs the model."""

    variant: str  #: what its class distinguishes, such as a runtime
    precision: str
    device: str  #: "cpu", or "gpu:0", "gpu:1", ...
    threads: int


class Peer(ABC):
    """One way to run the model, opened in a process of its own."""

    @abstractmethod
    def __init__(self, sources: Sources, setup: Setup) -> None:
        """Load the weights."""

    @abstractmethod
    def text_encoder(self, prompt: str) -> Call:
        """Encode one text; what comes out differs from peer to peer."""

    @abstractmethod
    def unet_step(self, prompt: str, latents: Array) -> Call:
        """One guided step at ``TIMESTEP``: `latents` [1, 4, h, w] to [2, 4, h, w]."""

    @abstractmethod
    def vae_decoder(self, latents: Array) -> Call:
        """`latents` [1, 4, h, w], as the loop ends with them, to pixels [1, H, W, 3] in [0, 1]."""

    @abstractmethod
    def image(self, prompts: Sequence[str], latents: Array, steps: int, solver: str) -> Call:
        """Texts to pixels [B, H, W, 3], guided, eta 0, beginning from `latents` [B, 4, h, w].

        `solver` is "ddim", "dpmsolver++" (2M, over log-SNR), or of this engine "fitted".
        """

    @staticmethod
    @abstractmethod
    def files(sources: Sources, setup: Setup) -> list[Path]:
        """What it reads from disk to run, weights and graphs; found without loading it."""
