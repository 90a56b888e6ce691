"""ldm-engine, through its public pipeline; the stages through the programs that pipeline opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ldm_engine import LDMTextToImagePipeline, open_bundle
from ldm_engine.benchmarking.timing import TimedRuntime
from ldm_engine.bundle.contract import PROGRAMS
from ldm_engine.runtimes.choice import RUNTIMES, Choice, choose_runtime, resolve_options
from ldm_engine.sampling.encoding import encode_text, encode_time, unet_shapes
from ldm_engine.sampling.tokenizer import Tokenizer

from .contract import GUIDANCE_SCALE, TIMESTEP, Array, Call, Peer, Sources


class Ours(Peer):
    """One runtime and precision."""

    def __init__(self, sources: Sources, variant: str, precision: str, threads: int) -> None:
        bundle = open_bundle(sources.bundle)
        choice = choose_runtime(bundle, variant, precision)
        options = resolve_options(choice.runtime, "cpu", precision, threads)
        timed = TimedRuntime(choice.runtime)
        self._bundle = bundle
        self._pipe = LDMTextToImagePipeline.from_bundle(
            bundle, Choice(timed, choice.reason), options
        )
        self._programs = timed.opened

    def text_encoder(self, prompt: str) -> Call:
        tokenizer = Tokenizer.of(self._bundle)
        program, model = self._programs["text_encoder"], self._bundle.model
        return lambda: encode_text(program, model, tokenizer, prompt)

    def unet_step(self, prompt: str, latents: Array) -> Call:
        model, programs = self._bundle.model, self._programs
        tokenizer = Tokenizer.of(self._bundle)
        texts = [encode_text(programs["text_encoder"], model, tokenizer, t) for t in ("", prompt)]
        time_shift = encode_time(programs["time_encoder"], model, [TIMESTEP])
        unet = programs["unet"]
        unet.allocate(unet_shapes(model, latents.shape, 2))
        np.copyto(unet.inputs["latents"], latents)
        np.copyto(unet.inputs["text_kv"], np.stack(texts))
        np.copyto(unet.inputs["time_shift"], time_shift)

        def step() -> Array:
            unet.run()
            return unet.outputs["noise_pred"]

        return step

    def vae_decoder(self, latents: Array) -> Call:
        program, factor = self._programs["vae_decoder"], self._bundle.model.scale_factor
        size = [side * factor for side in latents.shape[2:]]
        program.allocate({"latents": latents.shape, "image": (1, *size, 3)})
        np.copyto(program.inputs["latents"], latents)

        def decode() -> Array:
            program.run()
            return program.outputs["image"]

        return decode

    def image(self, prompts: Sequence[str], latents: Array, steps: int) -> Call:
        def render() -> Array:
            return self._pipe(
                list(prompts),
                num_inference_steps=steps,
                guidance_scale=GUIDANCE_SCALE,
                latents=latents,
                output_type="np",
            ).images

        return render

    @staticmethod
    def files(sources: Sources, variant: str, precision: str) -> list[Path]:
        bundle = open_bundle(sources.bundle)
        formats = {name: RUNTIMES[variant].format_of(name, precision) for name in PROGRAMS}
        return [path for name in PROGRAMS for path in bundle.program_files(name, formats[name])]
