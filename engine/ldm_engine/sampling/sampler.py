"""From a checked request to latents and pixels, over the programs of one bundle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle.model import ModelInfo
from ..errors import LDMEngineError
from .encoded import Encoded
from .encoding import encode_picture, encode_text, encode_time, unet_shapes
from .inputs import Input
from .loop import Known, denoise
from .noise import NoiseStream
from .programs import Programs
from .request import Request

#: Called after each step with (step index, timestep, latents); True stops the run.
StepCallback = Callable[[int, int, NDArray[np.float32]], object]


@dataclass(frozen=True)
class Denoised:
    """What the loop came to."""

    latents: NDArray[np.float32]  #: [B, 4, h, w]
    steps_run: int  #: fewer than requested if a callback stopped it
    is_altered: bool  #: a callback wrote to the latents


class Sampler:
    """The programs of a bundle and what feeds them; ``LDMTextToImagePipeline`` is its face."""

    def __init__(self, model: ModelInfo, encoded: Encoded, programs: Programs) -> None:
        """`encoded` is shared with clones."""
        self.programs = programs
        self._model = model
        self._encoded = encoded
        self._in_use = threading.Lock()
        self._time_shift: tuple[tuple[int, ...], NDArray[np.float32]] | None = None

    def clone(self) -> Sampler:
        """Another one for another thread, with handles of its own."""
        return Sampler(self._model, self._encoded, self.programs.clone())

    def close(self, wait: bool = False) -> None:
        """Free the programs, after `wait`ing for another thread that uses them, or else raise.

        A call in a forked child does nothing.
        """
        if not self.programs.are_inherited:
            with self._in_use if wait else self.used():
                self.programs.close()

    def clear_encoded(self) -> None:
        """Encode anew what comes again of texts and pictures."""
        self._encoded.clear()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Hold the pipeline for one thread and one call."""
        if self.programs.are_inherited:  # its locks may be held by threads that are not here
            self.programs.require_open()
        if not self._in_use.acquire(blocking=False):
            raise LDMEngineError(
                "This pipeline is already rendering, in another thread or for the call whose "
                "callback this is. Give each its own with pipe.clone()."
            )
        try:
            yield
        finally:
            self._in_use.release()

    def denoise(self, request: Request, callback: StepCallback | None) -> Denoised:
        """The final latents, in the UNet program's own array."""
        texts = self._encoded.texts(request.texts, self.encode_ids)
        time_shift = self._encode_time(tuple(row.timestep for row in request.rows))
        pictures = self._encoded.pictures(request.inputs, self._encode_picture)
        unet = self.programs["unet"]
        unet.allocate(unet_shapes(self._model, request.latents_shape, len(request.texts)))
        for row, text in enumerate(request.texts):
            np.copyto(unet.inputs["text_kv"][row], texts[text])
        noise = NoiseStream(request.seeds)
        latents = unet.inputs["latents"]
        noise.fill(latents)
        if request.latents is not None:
            np.copyto(latents, request.latents)
        known = None
        if pictures is not None:
            known = _known(request, pictures, latents)
            _begin_at(request.start_level, pictures, latents)
        is_altered = False
        for step in denoise(unet, request.rows, time_shift, request.guidance, noise, known):
            if callback is None:
                continue
            before = np.array(latents)
            stop = callback(step, request.rows[step].timestep, latents)
            is_altered |= not np.array_equal(before, latents)
            if isinstance(stop, (bool, np.bool_)) and stop:
                return Denoised(latents, step + 1, is_altered)
        return Denoised(latents, len(request.rows), is_altered)

    def decode(self, latents: NDArray[np.float32], inputs: Sequence[Input]) -> NDArray[np.float32]:
        """Pixels [B, H, W, 3] in [0, 1], one image at a time: memory does not grow with B."""
        program = self.programs["vae_decoder"]
        height, width = (side * self._model.scale_factor for side in latents.shape[2:])
        program.allocate({"latents": (1, *latents.shape[1:]), "image": (1, height, width, 3)})
        pixels = np.empty((len(latents), height, width, 3), dtype=np.float32)
        for image_latents, image in zip(latents, pixels, strict=True):
            np.copyto(program.inputs["latents"][0], image_latents)
            program.run()
            np.copyto(image, program.outputs["image"][0])
        for given, image in zip(inputs, pixels, strict=bool(inputs)):
            given.paste(image)
        return pixels

    def encode_ids(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Keys and values [T, .] of one text's ids [1, T]."""
        return encode_text(self.programs["text_encoder"], self._model, ids)

    def _encode_picture(self, given: Input) -> NDArray[np.float32]:
        """Latents [4, h, w]."""
        return encode_picture(self.programs["vae_encoder"], self._model, given.picture)

    def _encode_time(self, timesteps: tuple[int, ...]) -> NDArray[np.float32]:
        """`time_shift` [S, .]; kept for as long as the schedule stays the same."""
        if self._time_shift is None or self._time_shift[0] != timesteps:
            program = self.programs["time_encoder"]
            self._time_shift = timesteps, encode_time(program, self._model, timesteps)
        return self._time_shift[1]


def _begin_at(
    level: tuple[float, float], pictures: NDArray[np.float32], latents: NDArray[np.float32]
) -> None:
    """Make of the noise in `latents` noised pictures."""
    latents *= level[1]
    latents += pictures * np.float32(level[0])


def _known(
    request: Request, pictures: NDArray[np.float32], noise: NDArray[np.float32]
) -> Known | None:
    """What stays of the latents of `pictures`, if they have masks."""
    masks = [given.keep for given in request.inputs if given.keep is not None]
    if not masks:  # all have one, or none
        return None
    keep = np.stack(masks)[:, None]
    return Known(keep, pictures, np.array(noise), request.levels)
