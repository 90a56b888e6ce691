"""Rendering batches in one process: one is encoded and written while the next one is in the loop.

Decoding takes turns with the loop. Both use all cores, and beside each other they were slower than
one after the other: by a tenth on the shapes model, 2 cores, OpenVINO.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import open_bundle
from ..errors import LDMEngineError
from ..machine.device import Device
from ..machine.storage import Storage
from ..runtimes.base import RuntimeOptions
from ..runtimes.choice import RUNTIMES, Choice
from ..sampling.pipeline import LDMTextToImagePipeline, is_flat, non_finite_rows, to_pil
from ..sampling.recipes import IMAGE_FORMATS, Recipe, encode_image
from ..sampling.request import Request, resolve_request
from ..sampling.tokenizer import PromptTruncatedWarning
from .jobs import Task
from .plan import Batch

#: A line of ``records.jsonl``, or with the key "error" one of ``failures.jsonl``.
Outcome = dict[str, Any]
IMAGES = "images"


@dataclass(frozen=True)
class RendererSettings:
    """All that a process needs to render: small, and made of plain values."""

    bundle: str  #: path
    digest: str  #: the bundle's, told when the run began
    runtime: str
    options: RuntimeOptions
    image_format: str
    quality: int
    folder: str = IMAGES  #: in the output

    def runtime_for(self, precision: str) -> str:
        """The name of the runtime that renders in `precision`: the run's own, or fp32."""
        other = RUNTIMES[self.runtime].fp32_runtime
        return self.runtime if precision == self.options.precision or other is None else other

    def open_pipeline(self, precision: str, memory: str) -> LDMTextToImagePipeline:
        """A pipeline over the bundle; its files were checked when the run began."""
        bundle = open_bundle(self.bundle)
        if bundle.digest != self.digest:
            raise LDMEngineError(
                f"The bundle {self.bundle} was replaced since the run began. Start again with the "
                "bundle as it was, or with --force for pictures of the new one."
            )
        options = replace(self.options, precision=precision)
        choice = Choice(RUNTIMES[self.runtime_for(precision)], "asked for")
        return LDMTextToImagePipeline.from_bundle(bundle, choice, options, memory)


@dataclass(frozen=True)
class _Drawn:
    """One image of a batch, before it is encoded."""

    task: Task
    pixels: NDArray[np.float32] | None  # [1, H, W, 3]; None: it is unusable
    fault: str  # what was wrong, in the run's precision if `pixels` came out in fp32
    is_wide: bool  # rendered again in fp32
    is_truncated: bool  # the prompt was longer than the model takes
    loop_s: float  # its share of the batch's
    decode_s: float


class Renderer:
    """Renders batches and writes their images into a storage."""

    def __init__(self, settings: RendererSettings, storage: Storage) -> None:
        self._settings = settings
        self._storage = storage
        self.pipe = settings.open_pipeline(settings.options.precision, "resident")
        self._wide: LDMTextToImagePipeline | None = None

    def render(
        self, batches: Iterable[Batch], commit: Callable[[Sequence[Outcome]], None]
    ) -> Generator[Sequence[Outcome], None, None]:
        """Render `batches` one after another; gives the outcomes of each, in order.

        `commit` is told of them in another thread as soon as the images are on the disk.
        """
        pool = ThreadPoolExecutor(1)
        at_once = False
        try:
            pending: Future[list[Outcome]] | None = None
            for batch in batches:
                drawn = self._draw(batch)
                if pending is not None:
                    yield pending.result()
                pending = pool.submit(self._finish, drawn, batch.batch_size, commit)
            if pending is not None:
                yield pending.result()
        except KeyboardInterrupt:
            at_once = True
            raise
        finally:
            pool.shutdown(wait=not at_once, cancel_futures=at_once)

    def request(self, tasks: Sequence[Task], size: int) -> Request:
        """A request for `tasks`, the last of them repeated up to `size` rows."""
        rows = [*tasks, *[tasks[-1]] * (size - len(tasks))]
        first = rows[0]
        return resolve_request(
            self.pipe.bundle.model,
            self.pipe.scheduler,
            prompt=[task.prompt for task in rows],
            negative_prompt=[task.negative_prompt for task in rows],
            height=first.height,
            width=first.width,
            num_inference_steps=first.num_inference_steps,
            guidance_scale=[task.guidance_scale for task in rows],
            eta=[task.eta for task in rows],
            seed=[task.seed for task in rows],
            latents=None,
        )

    def _draw(self, batch: Batch) -> list[_Drawn]:
        """The images of a batch that are wanted."""
        start = time.perf_counter()
        latents, truncated = self._denoise(batch)
        loop_s = (time.perf_counter() - start) / len(batch.tasks)
        return [
            self._draw_one(task, latents[row : row + 1], task.prompt in truncated, loop_s)
            for row, (task, wanted) in enumerate(zip(batch.tasks, batch.wanted, strict=True))
            if wanted
        ]

    def _denoise(self, batch: Batch) -> tuple[NDArray[np.float32], frozenset[str]]:
        """Latents [B, 4, h, w], and the prompts that were longer than the model takes."""
        with warnings.catch_warnings(record=True) as caught:
            # Told in the records: a million of them would fill memory and terminal.
            warnings.simplefilter("always", PromptTruncatedWarning)
            try:
                latents = self.pipe.denoise(self.request(batch.tasks, batch.rows))
            except LDMEngineError as error:
                rows = ", ".join(str(task.row) for task in batch.tasks[:10])
                raise LDMEngineError(
                    f"{error} It was a batch with row {rows} of the jobs."
                ) from error
        told = (w.message for w in caught)
        return latents, frozenset(
            message.prompt for message in told if isinstance(message, PromptTruncatedWarning)
        )

    def _draw_one(
        self, task: Task, latents: NDArray[np.float32], is_truncated: bool, loop_s: float
    ) -> _Drawn:
        start = time.perf_counter()
        pixels, fault = self._decode(self.pipe, latents)
        is_wide = pixels is None and self._settings.options.precision != "fp32"
        if is_wide:
            pixels, again = self._render_wide(task)
            fault = f"{fault}, and in fp32 {again}"
        decode_s = time.perf_counter() - start
        return _Drawn(task, pixels, fault, is_wide, is_truncated, loop_s, decode_s)

    def _finish(
        self, drawn: Sequence[_Drawn], batch_size: int, commit: Callable[[Sequence[Outcome]], None]
    ) -> list[Outcome]:
        """Encode and write the images of a batch, and then their records."""
        outcomes = [self._finish_one(image, batch_size) for image in drawn]
        self._storage.sync([o["path"] for o in outcomes if "path" in o])
        commit(outcomes)
        return outcomes

    def _finish_one(self, drawn: _Drawn, batch_size: int) -> Outcome:
        start, task = time.perf_counter(), drawn.task
        if drawn.pixels is None:
            return failure(task, drawn.fault)
        (image,) = to_pil(drawn.pixels)
        precision, rows = self._settings.options.precision, batch_size
        if drawn.is_wide:
            precision, rows = "fp32", 1
        recipe = self._recipe(task, precision, rows)
        content = encode_image(image, recipe, self._settings.image_format, self._settings.quality)
        suffix = IMAGE_FORMATS[self._settings.image_format]
        path = f"{self._settings.folder}/{task.identity.stem}{suffix}"
        self._storage.write(path, content)
        return {
            "id": task.identity.id,
            "path": path,
            "row": task.row,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "prompt": task.prompt,
            "negative_prompt": task.negative_prompt,
            "seed": task.seed,
            "num_inference_steps": task.num_inference_steps,
            "guidance_scale": task.guidance_scale,
            "eta": task.eta,
            "height": task.height,
            "width": task.width,
            "precision": precision,
            "prompt_truncated": drawn.is_truncated,
            "settings": task.settings.hex(),
            "seconds": {
                "loop": round(drawn.loop_s, 4),
                "decoding": round(drawn.decode_s, 4),
                "writing": round(time.perf_counter() - start, 4),
            },
            "extra": dict(task.extra),
        }

    def _decode(
        self, pipe: LDMTextToImagePipeline, latents: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32] | None, str]:
        """Pixels [1, H, W, 3] of one image's `latents`, or None and what is wrong with them."""
        if non_finite_rows(latents):
            return None, "it came out of the UNet as NaN or infinity"
        pixels = pipe.decode(latents)
        if non_finite_rows(pixels):
            return None, "it came out of the decoder as NaN or infinity"
        if is_flat(pixels[0]):
            return None, "it came out in a single colour"
        return pixels, ""

    def _render_wide(self, task: Task) -> tuple[NDArray[np.float32] | None, str]:
        """Render one image again in fp32, with little memory beside what the run takes."""
        if self._wide is None:
            self._wide = self._settings.open_pipeline("fp32", "sequential")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PromptTruncatedWarning)
            latents = self._wide.denoise(self.request([task], 1))
        return self._decode(self._wide, latents)

    def _recipe(self, task: Task, precision: str, rows: int) -> Recipe:
        bundle = self.pipe.bundle
        return Recipe(
            prompt=task.prompt,
            negative_prompt=task.negative_prompt,
            seed=task.seed,
            num_inference_steps=task.num_inference_steps,
            guidance_scale=task.guidance_scale,
            eta=task.eta,
            height=task.height,
            width=task.width,
            model=bundle.model.source,
            bundle=self._settings.digest,
            runtime=self._settings.runtime_for(precision),
            precision=precision,
            threads=self._settings.options.threads,
            batch_size=rows,
            device=Device.parse(self._settings.options.device).kind,
        )


def failure(task: Task, fault: str) -> Outcome:
    """The line of ``failures.jsonl`` for an image that came out unusable."""
    return {
        "row": task.row,
        "id": task.identity.id,
        "error": f"{fault}. Check the bundle with `ldm-engine verify`, or change the prompt, the "
        "seed or the guidance.",
        "settings": task.settings.hex(),
    }
