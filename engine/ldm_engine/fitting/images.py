"""Many images denoised together through the programs of a bundle, in batches, by any rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..sampling.encoding import encode_text, encode_time, unet_shapes
from ..sampling.noise import NoiseStream
from ..sampling.opening import Opened
from ..sampling.request import latents_shape
from ..sampling.solvers import Row
from ..sampling.tokenizer import Tokenizer

Array = NDArray[np.float32]
BATCH = 8  #: images of one call of the UNet


class Images:
    """One image for each of some prompts, with seeds 0, 1, ..., at one guidance.

    Programs are opened by the caller, who closes them.
    """

    def __init__(self, programs: Programs, prompts: Sequence[str], first_seed: int) -> None:
        self._programs = programs
        self._texts = [programs.encode(prompt) for prompt in prompts]
        seeds = range(first_seed, first_seed + len(prompts))
        shape = programs.latents_shape(len(prompts))
        self.noise = np.empty(shape, np.float32)  #: [N, C, h, w]
        NoiseStream(list(seeds)).fill(self.noise)

    def __len__(self) -> int:
        """N."""
        return len(self._texts)

    def predict(self, latents: Array, timestep: int, guidance: float) -> Array:
        """The guided predictions [N, C, h, w] at `timestep`."""
        predictions = np.empty_like(latents)
        for start in range(0, len(self), BATCH):
            part = slice(start, start + BATCH)
            predictions[part] = self._programs.predict(
                latents[part], timestep, guidance, self._texts[part]
            )
        return predictions

    def walk(
        self,
        rows: Sequence[Row],
        guidance: float,
        wanted: Collection[int] = (),
        on_call: Callable[[], None] = lambda: None,
    ) -> dict[int | None, Array]:
        """The latents at the timesteps `wanted`, where rows begin, and under None at the end."""
        x, history = self.noise.copy(), list[Array]()
        kept: dict[int | None, Array] = {}
        for row in rows:
            if row.timestep in wanted:
                kept[row.timestep] = x.copy()
            history.insert(0, self.item(x, row, guidance))
            del history[max(len(r.b) for r in rows) :]
            x = advanced(x, history, row.a, row.b)
            on_call()
        kept[None] = x
        return kept

    def item(self, x: Array, row: Row, guidance: float) -> Array:
        """What the history keeps of a call, m = p x + q eps."""
        m = np.multiply(self.predict(x, row.timestep, guidance), np.float32(row.q))
        m += np.float32(row.p) * x
        return m


def advanced(x: Array, history: Sequence[Array], a: float, b: Sequence[float]) -> Array:
    """a x + sum of b[k] history[k]."""
    result = np.multiply(x, np.float32(a))
    for weight, m in zip(b, history, strict=False):
        result += np.float32(weight) * m
    return result


@dataclass
class Programs:
    """The opened programs that denoise and decode, for images of the model's own size."""

    opened: Opened

    def __post_init__(self) -> None:
        names = ("text_encoder", "time_encoder", "unet", "vae_decoder")
        self._opened = {name: self.opened.open_program(name) for name in names}
        self._tokenizer = Tokenizer.of(self.opened.bundle)
        self._shifts: dict[int, Array] = {}
        self._empty = self.encode("")

    def close(self) -> None:
        """Free them."""
        for program in self._opened.values():
            program.close()

    def encode(self, text: str) -> Array:
        """Keys and values [T, .] of a text."""
        model = self.opened.bundle.model
        return encode_text(self._opened["text_encoder"], model, self._tokenizer, text)

    def latents_shape(self, count: int) -> tuple[int, int, int, int]:
        """[count, C, h, w] at the size that the model was trained at."""
        model = self.opened.bundle.model
        return latents_shape(model, count, model.default_size, model.default_size)

    def predict(
        self, latents: Array, timestep: int, guidance: float, texts: Sequence[Array]
    ) -> Array:
        """Guided predictions of a batch; valid until the next call."""
        unet, count = self._opened["unet"], len(latents)
        is_guided = guidance != 1.0
        unet.allocate(unet_shapes(self.opened.bundle.model, latents.shape, count * (1 + is_guided)))
        keys = unet.inputs["text_kv"]
        if is_guided:
            keys[:count] = self._empty
        for row, text in zip(keys[count * is_guided :], texts, strict=True):
            np.copyto(row, text)
        np.copyto(unet.inputs["latents"], latents)
        np.copyto(unet.inputs["time_shift"], self._shift(timestep))
        unet.run()
        prediction = unet.outputs["noise_pred"]
        if not is_guided:
            return prediction
        unconditional, conditional = prediction[:count], prediction[count:]
        conditional -= unconditional
        conditional *= np.float32(guidance)
        conditional += unconditional
        return conditional

    def decode(self, latents: Array) -> Array:
        """Pixels [N, H, W, 3] in [0, 1]."""
        program = self._opened["vae_decoder"]
        size = self.opened.bundle.model.default_size
        program.allocate({"latents": (1, *latents.shape[1:]), "image": (1, size, size, 3)})
        pixels = np.empty((len(latents), size, size, 3), np.float32)
        for image, out in zip(latents, pixels, strict=True):
            np.copyto(program.inputs["latents"][0], image)
            program.run()
            np.copyto(out, program.outputs["image"][0])
        return pixels

    def _shift(self, timestep: int) -> Array:
        if timestep not in self._shifts:
            program = self._opened["time_encoder"]
            self._shifts[timestep] = encode_time(program, self.opened.bundle.model, [timestep])
        return self._shifts[timestep]
