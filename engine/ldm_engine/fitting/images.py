"""Many images denoised together with a pipeline's programs, by any rows, in batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sampling.encoding import encode_text, encode_time, unet_shapes
from ..sampling.loop import guided
from ..sampling.noise import NoiseStream
from ..sampling.pipeline import LDMTextToImagePipeline
from ..sampling.request import latents_shape
from ..sampling.solvers import Row
from ..sampling.tokenizer import Tokenizer

Array = NDArray[np.float32]
BATCH = 8  #: images of one call of the UNet


class Images:
    """Images of the model's own size, each of a prompt and a seed, all at one guidance.

    The keys and values of their texts are held: 8 MB an image at full size.
    """

    def __init__(
        self,
        pipe: LDMTextToImagePipeline,
        prompts: Sequence[str],
        seeds: Sequence[int],
        guidance_scale: float,
        on_call: Callable[[], None],
    ) -> None:
        """Encode the texts.

        Args:
            pipe: whose programs are used, by nobody else meanwhile.
            prompts: N texts.
            seeds: N of them.
            guidance_scale: of all images.
            on_call: called before each call of the UNet.
        """
        self._pipe, self._guidance, self._on_call = pipe, guidance_scale, on_call
        self._tokenizer = Tokenizer.of(pipe.bundle)
        self._texts = [self._encode(prompt) for prompt in prompts]
        self._empty = None if guidance_scale == 1.0 else self._encode("")
        self._shifts: dict[int, Array] = {}
        size = pipe.bundle.model.default_size
        self.noise = np.empty(latents_shape(pipe.bundle.model, len(prompts), size, size), "<f4")
        NoiseStream(list(seeds)).fill(self.noise)  #: [N, C, h, w]

    def __len__(self) -> int:
        """N."""
        return len(self._texts)

    def part(self, part: slice) -> Images:
        """Some of the images, whose texts are not encoded again."""
        some = copy(self)
        some._texts, some.noise = self._texts[part], self.noise[part]
        return some

    def walk(self, rows: Sequence[Row], wanted: Collection[int] = ()) -> dict[int | None, Array]:
        """The latents at the timesteps `wanted`, where rows begin, and under None at the end."""
        x, history = self.noise.copy(), list[Array]()
        longest = max(len(row.b) for row in rows)
        kept: dict[int | None, Array] = {}
        for row in rows:
            if row.timestep in wanted:
                kept[row.timestep] = x.copy()
            history.insert(0, self.item(x, row))
            del history[longest:]
            x = advanced(x, history, row.a, row.b)
        kept[None] = x
        return kept

    def item(self, x: Array, row: Row) -> Array:
        """What the history keeps of a call, m = p x + q eps."""
        m: Array = np.multiply(x, np.float32(row.p))
        for start in range(0, len(self), BATCH):
            part = slice(start, start + BATCH)
            prediction = self._predict(x[part], row.timestep, self._texts[part])
            prediction *= np.float32(row.q)
            m[part] += prediction
        return m

    def decode(self, latents: Array) -> Array:
        """Pixels [N, H, W, 3] in [0, 1]."""
        return self._pipe.decode(latents)

    def _predict(self, latents: Array, timestep: int, texts: Sequence[Array]) -> Array:
        """The guided predictions of a batch, in memory that the next call uses again."""
        self._on_call()
        shift = self._shift(timestep)
        unet, count = self._pipe.programs["unet"], len(latents)
        rows = count if self._empty is None else 2 * count
        unet.allocate(unet_shapes(self._pipe.bundle.model, latents.shape, rows))
        keys = unet.inputs["text_kv"]
        if self._empty is not None:
            keys[:count] = self._empty
        for row, text in zip(keys[rows - count :], texts, strict=True):
            np.copyto(row, text)
        np.copyto(unet.inputs["latents"], latents)
        np.copyto(unet.inputs["time_shift"], shift)
        unet.run()
        scales = None if self._empty is None else np.full((count, 1, 1, 1), self._guidance, "<f4")
        return guided(unet.outputs["noise_pred"], scales)

    def _encode(self, text: str) -> Array:
        model = self._pipe.bundle.model
        program = self._pipe.programs["text_encoder"]
        return encode_text(program, model, self._tokenizer([text]))

    def _shift(self, timestep: int) -> Array:
        if timestep not in self._shifts:
            program = self._pipe.programs["time_encoder"]
            self._shifts[timestep] = encode_time(program, self._pipe.bundle.model, [timestep])
        return self._shifts[timestep]


def advanced(x: Array, history: Sequence[Array], a: float, b: Sequence[Any]) -> Array:
    """a x + sum of b[k] history[k]."""
    result: Array = np.multiply(x, np.float32(a))
    for weight, m in zip(b, history, strict=False):
        result += np.float32(weight) * m
    return result


def batches(count: int) -> Iterator[slice]:
    """`count` images in parts, each of at most one batch."""
    return (slice(start, start + BATCH) for start in range(0, count, BATCH))
