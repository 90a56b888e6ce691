"""Rendering batches in one process: the loop of one batch beside the finishing of the one before.

Finishing is decoding, looking for what is wrong, encoding and writing.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import LDMEngineError
from ..manifest import open_bundle
from ..pipeline import LDMTextToImagePipeline, is_flat, non_finite_rows, to_pil
from ..recipes import IMAGE_FORMATS, Recipe, encode_image
from ..request import Request, resolve_request
from ..runtimes import RUNTIMES, Choice, RuntimeOptions
from ..tokenizer import PromptTruncatedWarning
from .jobs import Task
from .plan import Batch
from .storage import Storage

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

    def open_pipeline(self, precision: str, memory: str) -> LDMTextToImagePipeline:
        """A pipeline over the bundle; its files were checked when the run began."""
        bundle = open_bundle(self.bundle)
        if bundle.digest != self.digest:
            raise LDMEngineError(
                f"The bundle {self.bundle} was replaced since the run began. Start again with the "
                "bundle as it was, or with --force for pictures of the new one."
            )
        options = RuntimeOptions(self.options.device, precision, self.options.threads)
        choice = Choice(RUNTIMES[self.runtime], "asked for")
        return LDMTextToImagePipeline.from_bundle(bundle, choice, options, memory)


@dataclass(frozen=True)
class _Denoised:
    latents: NDArray[np.float32]  # [B, 4, h, w]
    seconds: float
    truncated: frozenset[str]  # prompts that were longer than the model takes


class Renderer:
    """Renders batches and writes their images into a storage."""

    def __init__(self, settings: RendererSettings, storage: Storage) -> None:
        self._settings = settings
        self._storage = storage
        self.pipe = settings.open_pipeline(settings.options.precision, "resident")
        self._wide: LDMTextToImagePipeline | None = None

    def render(
        self, batches: Iterable[Batch], commit: Callable[[Sequence[Outcome]], None]
    ) -> Iterator[Sequence[Outcome]]:
        """Render `batches` one after another; gives the outcomes of each, in order.

        `commit` is told of them in another thread as soon as the images are on the disk.
        """
        pool = ThreadPoolExecutor(1)
        at_once = False
        try:
            pending: Future[list[Outcome]] | None = None
            for batch in batches:
                denoised = self._denoise(batch)
                if pending is not None:
                    yield pending.result()
                pending = pool.submit(self._finish, batch, denoised, commit)
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

    def _denoise(self, batch: Batch) -> _Denoised:
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            # Told in the records: a million of them would fill memory and terminal.
            warnings.simplefilter("always", PromptTruncatedWarning)
            latents = self.pipe.denoise(self.request(batch.tasks, batch.rows))
        truncated = frozenset(
            w.message.prompt for w in caught if isinstance(w.message, PromptTruncatedWarning)
        )
        return _Denoised(latents, time.perf_counter() - start, truncated)

    def _finish(
        self, batch: Batch, denoised: _Denoised, commit: Callable[[Sequence[Outcome]], None]
    ) -> list[Outcome]:
        outcomes = [
            self._finish_image(task, denoised, row, batch)
            for row, (task, wanted) in enumerate(zip(batch.tasks, batch.wanted, strict=True))
            if wanted
        ]
        self._storage.sync([o["path"] for o in outcomes if "path" in o])
        commit(outcomes)
        return outcomes

    def _finish_image(self, task: Task, denoised: _Denoised, row: int, batch: Batch) -> Outcome:
        start = time.perf_counter()
        precision, rows = self._settings.options.precision, batch.batch_size
        pixels, fault = self._decode(self.pipe, denoised.latents[row : row + 1])
        if pixels is None and precision != "fp32":
            precision, rows = "fp32", 1
            pixels, again = self._render_wide(task)
            fault = f"{fault}, and in fp32 {again}"
        if pixels is None:
            return failure(task, fault)
        (image,) = to_pil(pixels)
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
            "prompt_truncated": task.prompt in denoised.truncated,
            "settings": task.settings.hex(),
            "seconds": {
                "loop": round(denoised.seconds / len(batch.tasks), 4),  # its share of the batch's
                "finishing": round(time.perf_counter() - start, 4),
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
            runtime=self._settings.runtime,
            precision=precision,
            threads=self._settings.options.threads,
            batch_size=rows,
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
