"""The pipeline: prompts in, images out, over the programs of a bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..bundle.bundle import Bundle
from ..bundle.contract import OPTIONAL_PROGRAMS, PROGRAMS
from ..bundle.exporter import exported, is_checkpoint
from ..errors import ArgumentTypeError, InvalidArgumentError
from ..machine.bars import HIDDEN, BarOptions, drawn_bar
from ..machine.events import LOG, timed
from ..runtimes.base import RuntimeOptions
from ..runtimes.choice import MAPPED, check_mapped, check_options, require
from .call import CallKeywords, OwnKeywords, advancing, check_call, list_prompts
from .encoded import Encoded
from .inputs import Input
from .opening import Opened, open_to_run
from .origin import source_type
from .output import ArrayType, ImagePipelineOutput, as_images
from .pixels import check_finite, warn_of_flat_images
from .programs import MEMORY_CHOICES, MEMORY_MODES, Programs
from .recipes import Recipe
from .request import Request, check_latents, require_effect
from .sampler import Denoised, Sampler, StepCallback
from .schedule import NoiseSchedule
from .screening import Check, require_accepted

if TYPE_CHECKING:
    from typing_extensions import Unpack


class LDMTextToImagePipeline:
    """Renders images from text with the programs of a bundle.

    The call has the arguments and defaults of diffusers' pipeline of the same name, but takes a
    `seed` where that takes a `generator`. A pipeline serves one thread at a time; ``clone()`` gives
    another thread its own handles. ``close()``, or leaving a ``with`` block, frees the programs.
    """

    def __init__(self, opened: Opened, sampler: Sampler, bars: BarOptions = HIDDEN) -> None:
        """Use ``from_pretrained``."""
        self._opened = opened
        self._sampler = sampler
        self._bars = bars

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
        progress_bar: bool = True,
    ) -> LDMTextToImagePipeline:
        """Open a bundle folder, or a checkpoint, which is exported the first time.

        Args:
            path: what ``ldm-engine export`` wrote. Or a checkpoint, as a path or an id of the
                Hugging Face hub such as "CompVis/ldm-text2im-large-256": its bundle, of the default
                formats, is made once and kept in the user's cache folder.
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
            progress_bar: draw progress bars on stderr, here and in calls, where that is a terminal;
                ``set_progress_bar_config`` changes those of calls.

        Raises:
            BundleNotFoundError: if there is no such folder.
            BundleError: if the bundle is unfinished, damaged or of another format version.
            ConfigError: if its scheduler config is not supported.
            RuntimeUnavailableError: if the runtime, device or precision is not available here, or
                what an export needs is not installed.
        """
        violations = check_options(runtime, precision, device, threads)
        if not isinstance(memory, str) or memory not in MEMORY_CHOICES:
            accepted = " or ".join(map(repr, MEMORY_CHOICES))
            violations.append(f"`memory` is {memory!r}; {accepted} is accepted.")
        elif memory == "mapped":
            violations += check_mapped(runtime)
            runtime, memory = MAPPED, "resident"
        require(violations)
        bars = BarOptions(disable=not progress_bar)
        if is_checkpoint(path):
            with drawn_bar(replace(bars, leave=False)) as bar:
                path = exported(path, bar.begin, LOG.info)
        opened = open_to_run(
            path, runtime=runtime, precision=precision, device=device, threads=threads
        )
        opened = replace(opened, checks_hashes=check_hashes)
        if check_hashes:
            with drawn_bar(replace(bars, leave=False), of_bytes=True) as bar:
                bar.begin("hashing")
                opened.check_hashes(bar.advance)
        with drawn_bar(replace(bars, leave=False)) as bar:
            bar.begin("opening the programs")
            pipe = cls.from_opened(opened, memory)
        pipe._bars = bars
        return pipe

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
        encoded = Encoded(opened)  # which fails before any weights are loaded
        programs = Programs(PROGRAMS, opened.open_program, memory, OPTIONAL_PROGRAMS)
        return cls(opened, Sampler(opened.bundle.model, encoded, programs))

    def clone(self) -> LDMTextToImagePipeline:
        """Another pipeline for another thread.

        Weights are shared by the clones of OpenVINO and ONNX Runtime, mapped or not; Paddle's copy
        them. With ``memory="sequential"`` each clone loads its own. Make clones in one thread,
        before the threads that use them start.
        """
        return LDMTextToImagePipeline(self._opened, self._sampler.clone(), self._bars)

    def close(self) -> None:
        """Free this pipeline's programs; its clones keep theirs. A second call does nothing.

        Nor does a call in a forked child.

        Raises:
            LDMEngineError: if the pipeline is rendering.
        """
        self._sampler.close()

    def set_progress_bar_config(
        self, *, disable: bool = False, desc: str | None = None, leave: bool = True
    ) -> None:
        """How the bars of calls are drawn; there are none where stderr is no terminal.

        Args:
            disable: draw none.
            desc: text in front of them.
            leave: leave them on the screen when they are full.
        """
        self._bars = BarOptions(disable, desc, leave)

    def clear_encoded(self) -> None:
        """Encode anew, here and in clones, what comes again of texts and pictures.

        The latest are kept otherwise, up to 64 and 4 MiB. The empty text stays.
        """
        self._sampler.clear_encoded()

    def __enter__(self) -> LDMTextToImagePipeline:
        self.programs.require_open()
        return self

    def __exit__(self, *_: object) -> None:
        self._sampler.close(wait=True)  # for another thread that may be rendering still

    def __repr__(self) -> str:
        if self.programs.is_closed:
            return f"<LDMTextToImagePipeline of {self.bundle.path}, closed>"
        options, size = self.options, self.bundle.model.default_size
        return (
            f"<LDMTextToImagePipeline of {self.bundle.path}: {self.runtime} {self.precision} on "
            f"{options.device}, {options.threads} threads, {size}x{size} pixels by default>"
        )

    def __reduce__(self) -> NoReturn:
        raise ArgumentTypeError(
            "A pipeline is given to copy or pickle; it holds programs of this process, and cannot "
            "be copied. Use pipe.clone() for another thread; in another process open the bundle: "
            f"LDMTextToImagePipeline.from_pretrained({str(self.bundle.path)!r})."
        )

    def to(self, device: object) -> LDMTextToImagePipeline:
        """This pipeline, if `device` is where it runs: it cannot be moved.

        Raises:
            InvalidArgumentError: if `device` is another one, or a precision.
        """
        if str(device) == self.options.device:
            return self
        raise InvalidArgumentError(
            f"`device` is {str(device)!r}; a pipeline stays where it was opened, here on "
            f"{self.options.device!r} in {self.precision}. Open the bundle anew for another device "
            "or precision: LDMTextToImagePipeline.from_pretrained(path, device='gpu:0', "
            "precision='fp16')."
        )

    @property
    def bundle(self) -> Bundle:
        """The bundle that this pipeline runs."""
        return self._opened.bundle

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule that the bundle's model was trained with."""
        return self._opened.schedule

    @property
    def opened(self) -> Opened:
        """The bundle with all that was decided when it was opened."""
        return self._opened

    @property
    def programs(self) -> Programs:
        """The programs by name, opened when they are used."""
        return self._sampler.programs

    @property
    def runtime(self) -> str:
        """The name of the runtime in use."""
        return self._opened.choice.runtime.name

    @property
    def precision(self) -> str:
        """The precision in use."""
        return self._opened.options.precision

    @property
    def options(self) -> RuntimeOptions:
        """Device, precision and threads in use."""
        return self._opened.options

    @overload
    def __call__(
        self,
        prompt: str | Sequence[str],
        height: int | None = ...,
        width: int | None = ...,
        num_inference_steps: int | Literal["auto"] = ...,
        guidance_scale: float | Sequence[float] = ...,
        eta: float | Sequence[float] = ...,
        generator: None = ...,
        latents: Any = ...,
        output_type: Literal["pil"] = ...,
        return_dict: Literal[True] = ...,
        **keywords: Unpack[OwnKeywords],
    ) -> ImagePipelineOutput[list[Image.Image]]: ...
    @overload
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        output_type: ArrayType,
        return_dict: Literal[True] = ...,
        **keywords: Unpack[CallKeywords],
    ) -> ImagePipelineOutput[NDArray[np.float32]]: ...
    @overload
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        output_type: Literal["pil"] = ...,
        return_dict: Literal[False],
        **keywords: Unpack[CallKeywords],
    ) -> tuple[list[Image.Image]]: ...
    @overload
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        output_type: ArrayType,
        return_dict: Literal[False],
        **keywords: Unpack[CallKeywords],
    ) -> tuple[NDArray[np.float32]]: ...
    @overload
    def __call__(
        self,
        prompt: str | Sequence[str],
        height: int | None = ...,
        width: int | None = ...,
        num_inference_steps: int | Literal["auto"] = ...,
        guidance_scale: float | Sequence[float] = ...,
        eta: float | Sequence[float] = ...,
        generator: None = ...,
        latents: Any = ...,
        output_type: str = ...,
        return_dict: bool = ...,
        **keywords: Unpack[OwnKeywords],
    ) -> ImagePipelineOutput[Any] | tuple[Any]: ...
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
        num_images_per_prompt: int = 1,
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
    ) -> ImagePipelineOutput[Any] | tuple[Any]:
        """Render one image a prompt, or several.

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
            output_type: "pil" for PIL images, which carry their recipes (``image.save`` puts
                them into PNG, JPEG and WebP files); "np" for one float32 array [B, H, W, 3] in
                [0, 1]; "latent" for the latents [B, 4, h, w] float32, which are not decoded.
            return_dict: False returns the tuple ``(images,)``.
            num_images_per_prompt: images of each prompt, which follow each other. What takes one
                an image is then a list of as many as there are images in all.
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
        check_call(output_type, callback_on_step_end, check)
        settings = {
            "prompt": list_prompts(prompt, num_images_per_prompt),
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
        with drawn_bar(self._bars) as bar:
            bar.begin("rendering", len(request.rows))
            callback = advancing(bar, len(request.rows), callback_on_step_end)
            output = self.render(request, output_type, callback)
            bar.describe("rendered")
        if check is not None:
            require_accepted(check, request.columns["prompt"], output.pictures())
        return output if return_dict else (output.images,)

    @overload
    def render(
        self,
        request: Request,
        output_type: Literal["pil"] = ...,
        callback_on_step_end: StepCallback | None = ...,
    ) -> ImagePipelineOutput[list[Image.Image]]: ...
    @overload
    def render(
        self, request: Request, output_type: str, callback_on_step_end: StepCallback | None = ...
    ) -> ImagePipelineOutput[Any]: ...
    def render(
        self,
        request: Request,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> ImagePipelineOutput[Any]:
        """The images of a request that was checked before; else as a call.

        Raises:
            NonFiniteError: if an image came out as NaN or infinity.
            LDMEngineError: if this pipeline is in use or closed, or a program cannot be run.

        Warns:
            FlatImageWarning: if an image has a single colour.
        """
        LOG.info(
            "rendering %d images of %dx%d pixels in %d steps, seeds %s",
            len(request), request.width, request.height, len(request.rows), request.seeds,
        )  # fmt: skip
        with self._sampler.used(), timed("rendered %d images", len(request)):
            done = self._sampler.denoise(request, callback_on_step_end)
            check_finite(done.latents, request.seeds, "the UNet", self.precision)
            if output_type == "latent":
                values = np.array(done.latents)
            else:
                values = self._sampler.decode(done.latents, request.inputs)
        if output_type != "latent":
            check_finite(values, request.seeds, "the decoder", self.precision)
            warn_of_flat_images(values, request.seeds)
        recipes = self._recipes(request, done)
        return ImagePipelineOutput(
            as_images(values, output_type, recipes),
            request.seeds,
            done.steps_run,
            tuple(request.columns["prompt"]),
            recipes,
            output_type,
            source_type(request.values(0)),
        )

    def _recipes(self, request: Request, done: Denoised) -> tuple[Recipe, ...] | None:
        """The recipe of each image, if recipes lead to these images."""
        is_own = request.latents is None and not done.is_altered
        is_complete = done.steps_run == len(request.rows)
        if not (is_own and is_complete and self.bundle.files):  # none: an export still checking
            return None
        count = len(request)
        return tuple(Recipe.of(request.values(i), self.opened, count) for i in range(count))

    def denoise(self, request: Request) -> NDArray[np.float32]:
        """The final latents [B, 4, h, w] of a request, the first half of a call.

        It looks for no NaN.

        Raises:
            LDMEngineError: as ``render``.
        """
        with self._sampler.used():
            return np.array(self._sampler.denoise(request, None).latents)

    def decode(
        self, latents: NDArray[np.float32], inputs: Sequence[Input] = ()
    ) -> NDArray[np.float32]:
        """Pixels [B, H, W, 3] in [0, 1], one image at a time: memory does not grow with B.

        It looks for no NaN. What is to stay of `inputs`, B or none, is put into the images.

        Args:
            latents: [B, 4, h, w] floating-point, as `output_type` "latent" gives them.
            inputs: of the request that they are of.

        Raises:
            ArgumentTypeError, ShapeError: if `latents` are no such array.
            LDMEngineError: as ``render``.
        """
        checked = check_latents(latents, self.bundle.model)
        with self._sampler.used():
            return self._sampler.decode(checked, inputs)
