"""The pipeline: prompts in, images out, over the programs of a bundle."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..bundle.bundle import Bundle
from ..bundle.contract import OPTIONAL_PROGRAMS, PROGRAMS
from ..errors import ArgumentTypeError, InvalidArgumentError, LDMEngineError, NonFiniteError
from ..runtimes.base import RuntimeOptions
from ..runtimes.choice import MAPPED, check_mapped, check_options, require
from .encoding import encode_picture, encode_text, encode_time, unet_shapes
from .inputs import Input
from .kept_text import unconditional_kv
from .latest import Latest
from .loop import Known, denoise
from .noise import NoiseStream
from .opening import Opened, open_to_run
from .pixels import is_flat, non_finite_rows, to_pil
from .programs import MEMORY_CHOICES, MEMORY_MODES, Programs
from .request import Request, require_effect
from .schedule import NoiseSchedule
from .screening import Check, require_accepted
from .tokenizer import Tokenizer

OUTPUT_TYPES = ("pil", "np")
_KEPT_TEXT_BYTES = 64 << 20  #: of texts that are not encoded again; one has 7.7 MB at full size
_KEPT_PICTURE_BYTES = 4 << 20  #: likewise of pictures, which have 16 kB each at 256x256
#: Called after each step with (step index, timestep, latents); True stops the run.
StepCallback = Callable[[int, int, NDArray[np.float32]], object]
_OVERFLOW = "fp16 ends at 65504, which this model may exceed: use bf16 or fp32. "


class FlatImageWarning(UserWarning):
    """An image came out in a single colour."""


@dataclass(frozen=True)
class ImagePipelineOutput:
    """What a call returns."""

    images: list[Image.Image] | NDArray[np.float32]  #: PIL images, or [B, H, W, 3] in [0, 1]
    seeds: tuple[int, ...]  #: the seed of each image, also when none was given
    num_steps_run: int  #: fewer than requested if a callback stopped the run


@dataclass
class _Shared:
    """What a pipeline and its clones have in common; who holds the lock encodes."""

    opened: Opened
    tokenizer: Tokenizer
    lock: threading.Lock = field(default_factory=threading.Lock)
    unconditional_kv: NDArray[np.float32] | None = None  # [T, .], encoded at most once
    texts: Latest[bytes] = field(default_factory=lambda: Latest(_KEPT_TEXT_BYTES))
    pictures: Latest[tuple[str, tuple[int, ...]]] = field(
        default_factory=lambda: Latest(_KEPT_PICTURE_BYTES)
    )


class LDMTextToImagePipeline:
    """Renders images from text with the programs of a bundle.

    The call has the arguments and defaults of diffusers' pipeline of the same name, but takes a
    `seed` where that takes a `generator`. A pipeline serves one thread at a time; ``clone()`` gives
    another thread its own handles. ``close()``, or leaving a ``with`` block, frees the programs.
    """

    def __init__(self, shared: _Shared, programs: Programs) -> None:
        """Use ``from_pretrained``."""
        self._shared = shared
        self._programs = programs
        self._in_use = threading.Lock()
        self._time_shift: tuple[tuple[int, ...], NDArray[np.float32]] | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        runtime: str = "auto",
        precision: str = "fp32",
        threads: int | None = None,
        memory: str = "resident",
        check_hashes: bool = True,
    ) -> LDMTextToImagePipeline:
        """Open a bundle folder.

        Args:
            path: what ``ldm-engine export`` wrote.
            device: "cpu", or "gpu:0" for the first GPU, "gpu:1", ...
            runtime: "auto" or the name of a runtime; ``ldm-engine info`` shows which and why.
            precision: "fp32", "fp16" (GPUs), "bf16" or "int8" (the CPU); never another than the one
                given. The time encoder runs in fp32 always, and the decoder where fp16 is given; in
                int8 the UNet alone is quantized, and the rest runs in bf16 where the CPU has it.
            threads: cores to use; None for all that this process may use.
            memory: "resident" keeps all programs loaded; "sequential" loads each when it is its
                turn and frees it after, which needs less memory and more time for every call;
                "mapped" loads none, and computes straight from the files, in fp32 by ONNX Runtime:
                least memory, the first step soonest, and slower ones.
            check_hashes: compare every file's sha256 with the manifest before it is opened; a file
                that was whole is read again only when its size or times have changed.

        Raises:
            BundleNotFoundError: if there is no such folder.
            BundleError: if the bundle is unfinished, damaged or of another format version.
            ConfigError: if its scheduler config is not supported.
            RuntimeUnavailableError: if the runtime, device or precision is not available here.
        """
        violations = check_options(runtime, precision, device, threads)
        if not isinstance(memory, str) or memory not in MEMORY_CHOICES:
            accepted = " or ".join(map(repr, MEMORY_CHOICES))
            violations.append(f"`memory` is {memory!r}; {accepted} is accepted.")
        elif memory == "mapped":
            violations += check_mapped(runtime)
            runtime, memory = MAPPED, "resident"
        require(violations)
        opened = open_to_run(
            path, runtime=runtime, precision=precision, device=device, threads=threads
        )
        opened = replace(opened, checks_hashes=check_hashes)
        if check_hashes:
            opened.check_hashes()
        return cls.from_opened(opened, memory)

    @classmethod
    def from_opened(cls, opened: Opened, memory: str = "resident") -> LDMTextToImagePipeline:
        """Load the programs of a bundle that was opened, and hashed if it is to be, before.

        Raises:
            InvalidArgumentError: if `memory` is not one of ``MEMORY_MODES``.
        """
        if memory not in MEMORY_MODES:
            raise InvalidArgumentError(
                f"`memory` is {memory!r}; {' or '.join(map(repr, MEMORY_MODES))} is accepted."
            )
        shared = _Shared(opened, Tokenizer.of(opened.bundle))
        programs = Programs(PROGRAMS, opened.open_program, memory, OPTIONAL_PROGRAMS)
        return cls(shared, programs)

    def clone(self) -> LDMTextToImagePipeline:
        """Another pipeline for another thread.

        Weights are shared by the clones of OpenVINO and ONNX Runtime, mapped or not; Paddle's copy
        them. With ``memory="sequential"`` each clone loads its own. Make clones in one thread,
        before the threads that use them start.
        """
        return LDMTextToImagePipeline(self._shared, self._programs.clone())

    def close(self) -> None:
        """Free this pipeline's programs; its clones keep theirs. A second call does nothing.

        Nor does a call in a forked child.

        Raises:
            LDMEngineError: if the pipeline is rendering.
        """
        if not self._programs.are_inherited:
            with self._used():
                self._programs.close()

    def clear_encoded(self) -> None:
        """Encode anew, here and in clones, what comes again of texts and pictures.

        The latest are kept otherwise, up to 64 and 4 MiB. The empty text stays.
        """
        with self._shared.lock:
            self._shared.texts.clear()
            self._shared.pictures.clear()

    def __enter__(self) -> LDMTextToImagePipeline:
        self._programs.require_open()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._programs.are_inherited:
            with self._in_use:  # another thread may be rendering still
                self._programs.close()

    @property
    def bundle(self) -> Bundle:
        """The bundle that this pipeline runs."""
        return self._shared.opened.bundle

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule that the bundle's model was trained with."""
        return self._shared.opened.schedule

    @property
    def opened(self) -> Opened:
        """The bundle with all that was decided when it was opened."""
        return self._shared.opened

    @property
    def programs(self) -> Programs:
        """The programs by name, opened when they are used."""
        return self._programs

    @property
    def runtime(self) -> str:
        """The name of the runtime in use."""
        return self._shared.opened.choice.runtime.name

    @property
    def options(self) -> RuntimeOptions:
        """Device, precision and threads in use."""
        return self._shared.opened.options

    def __call__(
        self,
        prompt: str | Sequence[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | Literal["auto"] = 50,
        guidance_scale: float | Sequence[float] = 1.0,
        eta: float | Sequence[float] = 0.0,
        generator: None = None,
        latents: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        seed: int | Sequence[int] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        solver: str = "ddim",
        timesteps: Sequence[int] | None = None,
        solver_table: str | None = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        image_sha256: str | Sequence[str] | None = None,
        mask_sha256: str | Sequence[str] | None = None,
        callback_on_step_end: StepCallback | None = None,
        check: Check | None = None,
    ) -> ImagePipelineOutput:
        """Render one image a prompt.

        Args:
            prompt: one text or a list of B texts. Text beyond the token length is cut off with a
                ``PromptTruncatedWarning`` that shows it.
            height: in pixels; a multiple of ``bundle.model.pixel_multiple``. Default: that of
                `image`, or the size the model was trained at.
            width: likewise.
            num_inference_steps: 1 to 1000 steps, each a call of the UNet; or "auto" for the fewest
                of the bundle's fitted solvers with which held-out pictures were as near to the
                converged ones as with 50 of DDIM, in median, tenth percentile and least.
            guidance_scale: classifier-free guidance, one number or one an image; 1.0 is off.
            eta: 0 (deterministic) to 1 (as noisy as DDPM), one number or one an image.
            generator: not accepted; it holds the place it has in diffusers. Use `seed`.
            latents: [B, 4, h, w] initial noise in place of the seeds' first draw.
            output_type: "pil" for PIL images, "np" for one float32 array [B, H, W, 3] in [0, 1].
            return_dict: False returns the tuple ``(images,)``.
            seed: one whole number s for the seeds s, s + 1, ...; a list of one an image; or None
                for random ones, which the output holds. 0 to 2**32 - 1.
            negative_prompt: what to guide away from, one text or one an image; default: "". It
                needs a `guidance_scale` other than 1.
            solver: "ddim"; "dpmsolver++" (second order, multistep), which needs fewer steps for the
                same picture; or "fitted", which needs the fewest, with steps and guidance that
                ``ldm-engine fit`` was run for. The latter two take no eta.
            timesteps: of the training schedule, descending, one a step, in the place of the
                solver's own spacing.
            solver_table: of a fitted solver, the hash that a recipe names it by: it must be the
                bundle's.
            image: picture to start from in place of noise alone: a PIL image, a path or URL, or an
                array [H, W, 3] of 8 bits or of floats in [0, 1]; one, or a list of one an image.
                Where it has another size than `height` and `width` it is cropped and resized.
            mask_image: mask of that picture, of the same size, likewise or an array [H, W]: what is
                white is painted anew, grown to cells of ``bundle.model.scale_factor`` pixels; all
                else stays, byte for byte.
            strength: above 0 to 1, how much of `image` is painted anew: of N steps the last
                ``int(N * strength)`` are taken. Default: 0.8, and 1.0 with `mask_image`.
            image_sha256: what a recipe has of `image`: it must be the same. Of a file the hash of
                its bytes.
            mask_sha256: likewise of `mask_image`.
            callback_on_step_end: called after each step with (step index, timestep, latents); the
                latents are the live array [B, 4, h, w]. Returning True stops the run, and the
                image of the latents so far is returned.
            check: called with (prompt, None) for each prompt before anything is rendered, and with
                (prompt, PIL image) for each image after; what it returns is why it is refused, or
                None.

        Raises:
            ArgumentTypeError: if an argument has the wrong type.
            InvalidArgumentError: if a value is outside its range (``ShapeError`` for sizes), or a
                picture is given that the bundle has no program to encode.
            InputError: if a picture's file cannot be read.
            RefusedError: if `check` refuses a prompt or an image.
            BundleError: if that program's files are damaged.
            NonFiniteError: if an image came out as NaN or infinity.
            LDMEngineError: if this pipeline is in use, or a program cannot be run.

        Warns:
            FlatImageWarning: if an image has a single colour.
            PictureWarning: if a picture has transparent parts, which are laid on white.
            PromptTruncatedWarning, UnknownWordsWarning: if the model does not read all of a text.
        """
        if generator is not None:
            raise ArgumentTypeError(
                f"`generator` is a {type(generator).__name__}; this engine draws its own noise, "
                "which is the same on every runtime and machine. Use seed=0, or seed=[0, 1, ...]."
            )
        _check_call(output_type, callback_on_step_end, check)
        settings = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "seed": seed,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "eta": eta,
            "solver": solver,
            "timesteps": timesteps,
            "solver_table": solver_table,
            "image": image,
            "mask_image": mask_image,
            "strength": strength,
            "image_sha256": image_sha256,
            "mask_sha256": mask_sha256,
            "height": height,
            "width": width,
        }
        request = require_effect(self.opened.request(settings, latents))
        require_accepted(check, request.columns["prompt"])
        output = self.render(request, output_type, callback_on_step_end)
        if check is not None:
            images = output.images
            pictures = images if isinstance(images, list) else to_pil(images)
            require_accepted(check, request.columns["prompt"], pictures)
        return output if return_dict else (output.images,)  # type: ignore[return-value]

    def render(
        self,
        request: Request,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> ImagePipelineOutput:
        """The images of a request that was checked before; else as a call.

        Raises:
            NonFiniteError: if an image came out as NaN or infinity.
            LDMEngineError: if this pipeline is in use or closed, or a program cannot be run.

        Warns:
            FlatImageWarning: if an image has a single colour.
        """
        with self._used():
            latents, steps_run = self._denoise(request, callback_on_step_end)
            _check_finite(latents, request, "the UNet", self.options.precision)
            pixels = self._decode(latents, request.inputs)
        _check_finite(pixels, request, "the decoder", self.options.precision)
        _warn_of_flat_images(pixels, request.seeds)
        images = pixels if output_type == "np" else to_pil(pixels)
        return ImagePipelineOutput(images, request.seeds, steps_run)

    def denoise(self, request: Request) -> NDArray[np.float32]:
        """The final latents [B, 4, h, w] of a request, the first half of a call.

        It looks for no NaN.

        Raises:
            LDMEngineError: as ``render``.
        """
        with self._used():
            latents, _ = self._denoise(request, None)
            return np.array(latents)

    def decode(
        self, latents: NDArray[np.float32], inputs: Sequence[Input] = ()
    ) -> NDArray[np.float32]:
        """Pixels [B, H, W, 3] in [0, 1], one image at a time: memory does not grow with B.

        It looks for no NaN. What is to stay of `inputs`, B or none, is put into the images.

        Raises:
            LDMEngineError: as ``render``.
        """
        with self._used():
            return self._decode(latents, inputs)

    def _decode(self, latents: NDArray[np.float32], inputs: Sequence[Input]) -> NDArray[np.float32]:
        program = self._programs["vae_decoder"]
        height, width = (side * self.bundle.model.scale_factor for side in latents.shape[2:])
        program.allocate({"latents": (1, *latents.shape[1:]), "image": (1, height, width, 3)})
        pixels = np.empty((len(latents), height, width, 3), dtype=np.float32)
        for image_latents, image in zip(latents, pixels, strict=True):
            np.copyto(program.inputs["latents"][0], image_latents)
            program.run()
            np.copyto(image, program.outputs["image"][0])
        for given, image in zip(inputs, pixels, strict=bool(inputs)):
            given.paste(image)
        return pixels

    @contextmanager
    def _used(self) -> Iterator[None]:
        """Hold the pipeline for one thread and one call."""
        if self._programs.are_inherited:  # its locks may be held by threads that are not here
            self._programs.require_open()
        if not self._in_use.acquire(blocking=False):
            raise LDMEngineError(
                "This pipeline is already rendering, in another thread or for the call whose "
                "callback this is. Give each its own with pipe.clone()."
            )
        try:
            yield
        finally:
            self._in_use.release()

    def _denoise(
        self, request: Request, callback: StepCallback | None
    ) -> tuple[NDArray[np.float32], int]:
        """The final latents [B, 4, h, w], owned by the UNet program, and the steps run."""
        texts = self._encode_texts(request)
        time_shift = self._encode_time(tuple(row.timestep for row in request.rows))
        pictures = self._encode_pictures(request.inputs)
        unet = self._programs["unet"]
        unet.allocate(unet_shapes(self.bundle.model, request.latents_shape, len(request.texts)))
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
        for step in denoise(unet, request.rows, time_shift, request.guidance, noise, known):
            if callback is not None:
                stop = callback(step, request.rows[step].timestep, latents)
                if isinstance(stop, (bool, np.bool_)) and stop:
                    return latents, step + 1
        return latents, len(request.rows)

    def _encode_texts(self, request: Request) -> dict[str, NDArray[np.float32]]:
        """Keys and values [T, .] of each distinct text of the request; the latest ones are kept.

        One text at a time, so that an image does not depend on what else is in the batch.
        """
        found = {}
        for text in dict.fromkeys(request.texts):
            if text == "":
                found[text] = self._encode_unconditional()
                continue
            ids = self._shared.tokenizer([text])  # which warns each time if it cuts the text
            with self._shared.lock:
                found[text] = self._shared.texts.get(ids.tobytes(), partial(self._encode_ids, ids))
        return found

    def _encode_unconditional(self) -> NDArray[np.float32]:
        """The keys and values of the empty text; one encoding serves all clones."""
        with self._shared.lock:
            if self._shared.unconditional_kv is None:
                ids = self._shared.tokenizer([""])
                self._shared.unconditional_kv = unconditional_kv(
                    self.opened, partial(self._encode_ids, ids)
                )
            return self._shared.unconditional_kv

    def _encode_ids(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Keys and values [T, .] of one text's ids [1, T]."""
        return encode_text(self._programs["text_encoder"], self.bundle.model, ids)

    def _encode_pictures(self, inputs: Sequence[Input]) -> NDArray[np.float32] | None:
        """Latents [B, 4, h, w] of the pictures, or None without any; the latest ones are kept.

        One at a time, likewise.
        """
        if not inputs:
            return None
        kept = self._shared.pictures
        with self._shared.lock:
            return np.stack(
                [
                    kept.get(
                        (given.sha256, given.picture.shape), partial(self._encode_picture, given)
                    )
                    for given in inputs
                ]
            )

    def _encode_picture(self, given: Input) -> NDArray[np.float32]:
        """Latents [4, h, w]."""
        return encode_picture(self._programs["vae_encoder"], self.bundle.model, given.picture)

    def _encode_time(self, timesteps: tuple[int, ...]) -> NDArray[np.float32]:
        """`time_shift` [S, .]; kept for as long as the schedule stays the same."""
        if self._time_shift is None or self._time_shift[0] != timesteps:
            program = self._programs["time_encoder"]
            self._time_shift = timesteps, encode_time(program, self.bundle.model, timesteps)
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


def _check_call(output_type: str, callback: object, check: object) -> None:
    if not isinstance(output_type, str) or output_type not in OUTPUT_TYPES:
        raise InvalidArgumentError(
            f"`output_type` is {output_type!r}; {' or '.join(map(repr, OUTPUT_TYPES))} is accepted."
        )
    if callback is not None and not callable(callback):
        raise ArgumentTypeError(
            f"`callback_on_step_end` is {callback!r}; a function of (step, timestep, latents) "
            "is accepted."
        )
    if check is not None and not callable(check):
        raise ArgumentTypeError(
            f"`check` is {check!r}; a function of (prompt, image or None) is accepted."
        )


def _check_finite(
    values: NDArray[np.float32], request: Request, where: str, precision: str
) -> None:
    bad = non_finite_rows(values)
    if bad:
        seeds = ", ".join(str(request.seeds[i]) for i in bad)
        raise NonFiniteError(
            f"{len(bad)} of {len(values)} images came out of {where} as NaN or infinity "
            f"(seeds {seeds}). {_OVERFLOW if precision == 'fp16' else ''}Check the bundle with "
            "`ldm-engine verify`; a very large guidance_scale can cause this too."
        )


def _warn_of_flat_images(pixels: NDArray[np.float32], seeds: Sequence[int]) -> None:
    for image, seed in zip(pixels, seeds, strict=True):
        if is_flat(image):
            warnings.warn(
                f"The image of seed {seed} has a single colour; something is likely wrong with "
                "the model, the prompt or the guidance.",
                FlatImageWarning,
                stacklevel=4,
            )
