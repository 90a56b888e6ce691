"""Rendering batches in one process: one is encoded and written while the next one is in the loop.

Decoding takes turns with the loop. Both use all cores, and beside each other they were slower than
one after the other: by a tenth on the shapes model, 2 cores, OpenVINO.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..bundle.manifest import open_bundle
from ..errors import LDMEngineError
from ..machine.storage import Storage
from ..runtimes.base import RuntimeOptions
from ..runtimes.choice import RUNTIMES, Choice
from ..sampling.inputs import Input
from ..sampling.opening import Opened, prepare
from ..sampling.pipeline import LDMTextToImagePipeline
from ..sampling.pixels import is_flat, non_finite_rows, to_pil
from ..sampling.recipes import IMAGE_FORMATS, Recipe, encode_image
from ..sampling.request import Request
from ..sampling.screening import Check, refusal
from ..sampling.settings import settings_hash
from ..sampling.tokenizer import PromptTruncatedWarning, UnknownWordsWarning
from .jobs.loaded import Loaded, load
from .jobs.rows import Task
from .plan import Batch, batch_request
from .records import Outcome, failure, reading_of, record, refused, unrendered

IMAGES = "images"
#: Called with a batch's outcomes when its images are there; may be in another thread.
Commit = Callable[[Sequence[Outcome]], None]


@dataclass(frozen=True)
class RendererSettings:
    """All that a process needs to render: small, and made of plain values."""

    bundle: str  #: path
    digest: str  #: the bundle's, when the run began
    runtime: str
    options: RuntimeOptions
    image_format: str
    quality: int
    mark: bool
    check: Check | None  #: which other processes import by its name
    folder: str = IMAGES  #: in the output

    def open(self) -> Opened:
        """Read the bundle in the process that renders; its files were hashed when the run began."""
        bundle = open_bundle(self.bundle)
        if bundle.digest != self.digest:
            raise LDMEngineError(
                f"The bundle {self.bundle} was replaced since the run began. Start again with the "
                "bundle as it was, or with --force for pictures of the new one."
            )
        return prepare(bundle, Choice(RUNTIMES[self.runtime], "chosen before"), self.options)


@dataclass(frozen=True)
class _Drawn:
    """One image of a batch, before it is encoded."""

    task: Task
    pixels: NDArray[np.float32] | None  # [1, H, W, 3]; None: it is unusable
    fault: str  # what was wrong, in the run's precision if `pixels` came out in fp32
    recipe: Recipe
    reading: Mapping[str, Any]  # what the model does not read of the prompt, as records have it
    notice: str  # what was done to its picture
    loop_s: float  # its share of the batch's
    decode_s: float


class Renderer:
    """Renders batches and writes their images into a storage."""

    def __init__(
        self, settings: RendererSettings, storage: Storage, opened: Opened | None = None
    ) -> None:
        """`opened` spares reading the bundle again in the process that began the run."""
        self._settings = settings
        self._storage = storage
        self._opened = opened or settings.open()
        self.pipe = LDMTextToImagePipeline.from_opened(self._opened)
        self._in_fp32: LDMTextToImagePipeline | None = None
        self._checking = Lock()  # prompts and pictures are checked in two threads

    def close(self) -> None:
        """Free the programs."""
        self.pipe.close()
        if self._in_fp32 is not None:
            self._in_fp32.close()

    def render(
        self, batches: Iterable[Batch], commit: Commit
    ) -> Generator[Sequence[Outcome], None, None]:
        """Render `batches` one after another; gives the outcomes of each, in order.

        `commit` is called with them in another thread as soon as the images are on the disk.
        """
        pool = ThreadPoolExecutor(1)
        at_once = False
        try:
            pending: Future[list[Outcome]] | None = None
            for batch in batches:
                drawn = self._draw(batch)
                if pending is not None:
                    yield pending.result()
                pending = pool.submit(self._finish, drawn, commit)
            if pending is not None:
                yield pending.result()
        except KeyboardInterrupt:
            at_once = True
            raise
        finally:
            pool.shutdown(wait=not at_once, cancel_futures=at_once)

    def _draw(self, batch: Batch) -> list[_Drawn | Outcome]:
        """The images of a batch that are wanted, or why there is none."""
        start = time.perf_counter()
        loaded = list(load(batch.tasks, self._refusal))
        readable = [one.task for one in loaded if not one.fault]
        wanted = [(row, one) for row, one in enumerate(loaded) if batch.wanted[row]]
        if not readable:
            return [unrendered(one) for _, one in wanted]
        # Whose prompt is refused, or picture not to be read, keeps its row: so do the others.
        tasks = [readable[0] if one.fault else one.task for one in loaded]
        request = batch_request(self._opened, tasks, batch.rows)
        latents, remarks = self._denoise(batch, request)
        loop_s = (time.perf_counter() - start) / len(batch.tasks)
        return [
            unrendered(one)
            if one.fault
            else self._draw_one(
                one, latents[row : row + 1], request.inputs[row : row + 1],
                batch.batch_size, remarks, loop_s,
            )
            for row, one in wanted
        ]  # fmt: skip

    def _refusal(self, prompt: str, picture: Image.Image | None = None) -> str:
        with self._checking:
            return refusal(self._settings.check, prompt, picture)

    def _denoise(
        self, batch: Batch, request: Request
    ) -> tuple[NDArray[np.float32], Sequence[Warning]]:
        """Latents [B, 4, h, w], and what the tokenizer remarked of the prompts."""
        with warnings.catch_warnings(record=True) as caught:
            # They stand in the records: a million of them would fill memory and terminal.
            for category in (PromptTruncatedWarning, UnknownWordsWarning):
                warnings.simplefilter("always", category)
            try:
                latents = self.pipe.denoise(request)
            except LDMEngineError as error:
                rows = ", ".join(str(task.row) for task in batch.tasks[:10])
                raise LDMEngineError(
                    f"{error} It was a batch with row {rows} of the jobs."
                ) from error
        return latents, [w.message for w in caught if isinstance(w.message, Warning)]

    def _draw_one(
        self,
        one: Loaded,
        latents: NDArray[np.float32],
        inputs: Sequence[Input],
        batch_size: int,
        remarks: Sequence[Warning],
        loop_s: float,
    ) -> _Drawn:
        start = time.perf_counter()
        pixels, fault = _decode(self.pipe, latents, inputs)
        recipe = Recipe.of(one.source.values, self._opened, batch_size, self._settings.mark)
        if pixels is None and recipe.precision != "fp32":
            pixels, recipe, fault_in_fp32 = self._render_in_fp32(one.task)
            fault = f"{fault}, and in fp32 {fault_in_fp32}"
        decode_s = time.perf_counter() - start
        task = one.source
        reading = reading_of(task.values["prompt"], remarks)
        return _Drawn(task, pixels, fault, recipe, reading, one.notice, loop_s, decode_s)

    def _render_in_fp32(self, task: Task) -> tuple[NDArray[np.float32] | None, Recipe, str]:
        """Render one image once more, with little memory beside what the run takes."""
        opened = self._opened.in_fp32()
        if self._in_fp32 is None:
            self._in_fp32 = LDMTextToImagePipeline.from_opened(opened, "sequential")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it says was said before
            request = batch_request(opened, [task], 1)
            latents = self._in_fp32.denoise(request)
        pixels, fault = _decode(self._in_fp32, latents, request.inputs)
        return pixels, Recipe.of(task.values, opened, 1, self._settings.mark), fault

    def _finish(self, drawn: Sequence[_Drawn | Outcome], commit: Commit) -> list[Outcome]:
        """Encode and write the images of a batch, and then their records."""
        outcomes = [self._finish_one(o) if isinstance(o, _Drawn) else o for o in drawn]
        self._storage.sync([o["path"] for o in outcomes if "path" in o])
        commit(outcomes)
        return outcomes

    def _finish_one(self, drawn: _Drawn) -> Outcome:
        start, task = time.perf_counter(), drawn.task
        if drawn.pixels is None:
            return failure(task, drawn.fault)
        (image,) = to_pil(drawn.pixels)
        if reason := self._refusal(task.values["prompt"], image):
            return refused(task, reason)
        image_format, quality = self._settings.image_format, self._settings.quality
        content = encode_image(image, drawn.recipe, image_format, quality)
        path = f"{self._settings.folder}/{task.identity.stem}{IMAGE_FORMATS[image_format]}"
        self._storage.write(path, content)
        file = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        facts = {
            "precision": drawn.recipe.precision,
            **drawn.reading,
            "settings": settings_hash(task.values).hex(),
            "seconds": {
                "loop": round(drawn.loop_s, 4),
                "decoding": round(drawn.decode_s, 4),
                "writing": round(time.perf_counter() - start, 4),
            },
        }
        if drawn.notice:
            facts["notice"] = drawn.notice
        return record(task, path, file, facts)


def _decode(
    pipe: LDMTextToImagePipeline, latents: NDArray[np.float32], inputs: Sequence[Input]
) -> tuple[NDArray[np.float32] | None, str]:
    """Pixels [1, H, W, 3] of one image's `latents`, or None and what is wrong with them."""
    if non_finite_rows(latents):
        return None, "it came out of the UNet as NaN or infinity"
    pixels = pipe.decode(latents, inputs)
    if non_finite_rows(pixels):
        return None, "it came out of the decoder as NaN or infinity"
    if is_flat(pixels[0]):
        return None, "it came out in a single colour"
    return pixels, ""
