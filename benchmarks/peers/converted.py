"""What peers over diffusers' three converted components have in common, whoever runs these."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .contract import Array, Setup, Sources
from .conversions import conversion_folder, convert_once
from .naive import NaivePeer


class ConvertedPeer(NaivePeer):
    """A naive peer whose components lie in a folder, converted once."""

    conversion: ClassVar[str]  #: the folder's name
    made_by: ClassVar[tuple[str, ...]]  #: the distributions whose versions a conversion depends on

    def __init__(self, sources: Sources, setup: Setup) -> None:
        self._folder = self._folder_of(sources)
        convert_once(self._folder, lambda folder: self._convert(sources.checkpoint, folder))
        self._open_loop(sources.checkpoint, setup.threads)

    @staticmethod
    @abstractmethod
    def _convert(checkpoint: Path, folder: Path) -> None:
        """Write the components text_encoder, unet and decoder into `folder`."""

    @abstractmethod
    def _run(self, name: str, inputs: list[NDArray[Any]]) -> Array:
        """The result of a component, which its next run may overwrite."""

    def _encode(self, input_ids: NDArray[np.int64]) -> Array:
        return self._run("text_encoder", [input_ids])

    def _predict(self, latents: Array, timestep: int, context: Array) -> Array:
        return self._run("unet", [latents, np.array(timestep, np.float32), context])

    def _decode(self, latents: Array) -> Array:
        return self._run("decoder", [latents])

    @classmethod
    def _folder_of(cls, sources: Sources) -> Path:
        return conversion_folder(sources, cls.conversion, cls.made_by)

    @classmethod
    def files(cls, sources: Sources, setup: Setup) -> list[Path]:
        return sorted(path for path in cls._folder_of(sources).glob("*") if path.is_file())
