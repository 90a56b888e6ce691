"""What an int8 UNet is calibrated with: prompts, and the UNet's inputs while it draws them.

The inputs come from the fp32 programs' own denoising, with guidance and from all over the schedule:
ranges measured on anything else, such as random noise at every timestep, do not fit what an
activation holds when images are drawn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldm_engine.bundle.bundle import PROMPTS, Bundle
from ldm_engine.errors import InvalidArgumentError
from ldm_engine.fitting.prompts import hold_out, read_prompts
from ldm_engine.runtimes.base import Program, RuntimeOptions
from ldm_engine.runtimes.choice import Choice
from ldm_engine.sampling.encoding import encode_text, encode_time, unet_shapes
from ldm_engine.sampling.loop import denoise
from ldm_engine.sampling.noise import NoiseStream
from ldm_engine.sampling.opening import prepare
from ldm_engine.sampling.request import Request
from ldm_engine.sampling.tokenizer import Tokenizer

#: A checkpoint folder may bring prompts of its own in a file of this name, which is their name in a
#: bundle too: a model that knows only some subjects must be calibrated with those.
PROMPTS_FILE = PROMPTS
MIN_PROMPTS = 4  #: one in four is held out of the calibration for the gate
MAX_PROMPTS = 256  #: far more than improves anything; each costs a run of the fp32 UNet

#: For models of general subjects: things, people, places, styles, light, colours, counts, short
#: and long texts.
DEFAULT_PROMPTS = (
    "a red bicycle leaning against a brick wall",
    "a portrait of an old fisherman with a white beard, oil painting",
    "snowy mountains behind a lake at sunrise",
    "two cats asleep on a blue sofa",
    "a bowl of oranges and grapes, still life, soft window light",
    "a city street at night in the rain, neon signs reflected in puddles",
    "a watercolor of a lighthouse on a cliff",
    "a wooden table set for breakfast with bread, eggs and coffee, seen from above",
    "an astronaut reading a newspaper on a park bench",
    "a green dragon curled around a castle tower, fantasy illustration",
    "a black and white photograph of an empty railway station",
    "a field of sunflowers under a stormy sky",
    "a small robot watering a potted plant, 3d rendering",
    "a logo of a fox, flat colors, white background",
    "a glass of water",
    "the interior of an old library with tall shelves and a spiral staircase",
    "a pencil sketch of a horse galloping",
    "a child flying a yellow kite on the beach",
    "abstract shapes in purple, teal and gold",
    "a plate of sushi on a dark stone plate, close-up, shallow depth of field",
    "a steam train crossing a stone bridge in an autumn forest",
    "a woman in a green coat walking a small dog, impressionist painting",
    "a coral reef with many colorful fish",
    "dog",
)


@dataclass(frozen=True)
class Sample:
    """One call of the UNet. Samples of one prompt share its text."""

    latents: NDArray[np.float32]  #: [1, C, h, w]
    time_shift: NDArray[np.float32]  #: [1, .]
    unconditional_kv: NDArray[np.float32]  #: [T, .]
    kv: NDArray[np.float32]  #: [T, .]

    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """The UNet's inputs by name; ``text_kv`` [2, T, .] is made for the call (15 MB)."""
        return {
            "latents": self.latents,
            "time_shift": self.time_shift,
            "text_kv": np.stack([self.unconditional_kv, self.kv]),
        }


def read_calibration_prompts(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """``read_prompts`` of as many prompts as a calibration takes."""
    return read_prompts(path, "calibration prompts", MIN_PROMPTS, MAX_PROMPTS)


def split_prompts(prompts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those to calibrate with, and every fourth, which are held out for the gate."""
    return hold_out(prompts, 4)


def gather_samples(
    bundle: Bundle,
    choice: Choice,
    options: RuntimeOptions,
    prompts: Sequence[str],
    *,
    samples_per_prompt: int,
    guidance_scale: float,
    num_inference_steps: int,
    seed: int = 0,
    on_prompt: Callable[[int], None] = lambda done: None,
) -> list[Sample]:
    """Draw every one of `prompts` up to the latents and keep some of the UNet's inputs.

    Which steps are kept differs from prompt to prompt, so that together they cover the schedule
    evenly, its first and last steps too. One program is in memory at a time, and one text's
    keys and values (7.7 MB at full size) for every prompt.

    Args:
        bundle: to run.
        choice: the runtime to run it with.
        options: its precision should be fp32.
        prompts: B texts.
        samples_per_prompt: K; B * K samples come back.
        guidance_scale: not 1; both the text and the empty text are sampled.
        num_inference_steps: at least K.
        seed: of the first prompt's noise; the next ones' follow.
        on_prompt: called with how many prompts are done.
    """
    model = bundle.model
    request = prepare(bundle, choice, options).request(
        {
            "prompt": list(prompts),
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "seed": seed,
        }
    )
    if request.guidance is None or not 1 <= samples_per_prompt <= num_inference_steps:
        raise InvalidArgumentError(
            f"guidance_scale={guidance_scale!r} and samples_per_prompt={samples_per_prompt!r} were "
            f"given; a guidance other than 1 and 1 to {num_inference_steps} samples are accepted."
        )
    texts = _encode_texts(bundle, choice, options, request.texts)
    time_shift = _encode_time(bundle, choice, options, [row.timestep for row in request.rows])

    samples: list[Sample] = []
    with choice.runtime.open(bundle, "unet", options) as unet:
        unet.allocate(unet_shapes(model, (1, *request.latents_shape[1:]), rows=2))
        for index, prompt in enumerate(prompts):
            steps = _spread(index, len(prompts), samples_per_prompt, num_inference_steps)
            samples += _draw(
                unet, request.part(index, index + 1), time_shift, (texts[""], texts[prompt]), steps
            )
            on_prompt(index + 1)
    return samples


def _draw(
    unet: Program,
    request: Request,
    time_shift: NDArray[np.float32],
    text: tuple[NDArray[np.float32], NDArray[np.float32]],
    steps: frozenset[int],
) -> list[Sample]:
    """The UNet's inputs at `steps` of one image, whose `text` is [unconditional, own]."""
    samples: list[Sample] = []

    def keep(step: int, latents: NDArray[np.float32]) -> None:
        if step in steps:
            samples.append(Sample(latents.copy(), time_shift[step : step + 1], *text))

    np.copyto(unet.inputs["text_kv"], np.stack(text))
    latents = unet.inputs["latents"]
    noise = NoiseStream(request.seeds)
    noise.fill(latents)
    keep(0, latents)
    for step in denoise(unet, request.rows, time_shift, request.guidance, noise):
        keep(step + 1, latents)  # what a step leaves is what the next one is given
    return samples


def _spread(index: int, prompts: int, samples: int, steps: int) -> frozenset[int]:
    """The steps to keep of prompt `index`: one in each of `samples` equal parts of the schedule.

    Where in its part depends on the prompt; the first prompt's and the last one's are at the ends.
    """
    offset = index / (prompts - 1) if prompts > 1 else 0.5
    width = steps / samples
    return frozenset(int(part * width + offset * (width - 1) + 0.5) for part in range(samples))


def _encode_texts(
    bundle: Bundle, choice: Choice, options: RuntimeOptions, texts: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Keys and values [T, .] of each distinct text."""
    tokenizer = Tokenizer.of(bundle)
    with choice.runtime.open(bundle, "text_encoder", options) as program:
        return {t: encode_text(program, bundle.model, tokenizer([t])) for t in dict.fromkeys(texts)}


def _encode_time(
    bundle: Bundle, choice: Choice, options: RuntimeOptions, timesteps: Sequence[int]
) -> NDArray[np.float32]:
    """`time_shift` [S, .]."""
    with choice.runtime.open(bundle, "time_encoder", options) as program:
        return encode_time(program, bundle.model, timesteps)
