"""ldm-engine, through its public pipeline; the stages through the programs that pipeline opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ldm_engine import LDMTextToImagePipeline, open_bundle
from ldm_engine.bundle.contract import PROGRAMS, shapes
from ldm_engine.runtimes.choice import RUNTIMES
from ldm_engine.sampling.encoding import encode_text, encode_time, unet_shapes
from ldm_engine.sampling.tokenizer import Tokenizer

from .contract import GUIDANCE_SCALE, TIMESTEP, Array, Call, Peer, Setup, Sources


class Ours(Peer):
    """One runtime and precision."""

    def __init__(self, sources: Sources, setup: Setup) -> None:
        self._pipe = LDMTextToImagePipeline.from_pretrained(
            sources.bundle,
            runtime=setup.variant,
            precision=setup.precision,
            device=setup.device,
            threads=setup.threads,
            check_hashes=False,  # others do not
            progress_bar=False,
        )
        self._programs, self._model = self._pipe.programs, self._pipe.bundle.model
        self._tokenizer = Tokenizer.of(self._pipe.bundle)

    def text_encoder(self, prompt: str) -> Call:
        return lambda: self._encode(prompt)

    def unet_step(self, prompt: str, latents: Array) -> Call:
        texts = [self._encode(text) for text in ("", prompt)]
        time_shift = encode_time(self._programs["time_encoder"], self._model, [TIMESTEP])
        unet = self._programs["unet"]
        unet.allocate(unet_shapes(self._model, latents.shape, 2))
        np.copyto(unet.inputs["latents"], latents)
        np.copyto(unet.inputs["text_kv"], np.stack(texts))
        np.copyto(unet.inputs["time_shift"], time_shift)
        unet.run()  # sends what does not change from step to step

        def step() -> Array:
            unet.run(unchanged=("text_kv",))
            return unet.outputs["noise_pred"]

        return step

    def vae_decoder(self, latents: Array) -> Call:
        program, (height, width) = self._programs["vae_decoder"], latents.shape[2:]
        program.allocate(shapes("vae_decoder", self._model, B=1, h=height, w=width))
        np.copyto(program.inputs["latents"], latents)

        def decode() -> Array:
            program.run()
            return program.outputs["image"]

        return decode

    def image(self, prompts: Sequence[str], latents: Array, steps: int, solver: str) -> Call:
        def render() -> Array:
            self._pipe.clear_encoded()  # others encode in each call
            return self._pipe(
                list(prompts),
                num_inference_steps=steps,
                guidance_scale=GUIDANCE_SCALE,
                solver=solver,
                latents=latents,
                output_type="np",
            ).images

        return render

    def _encode(self, text: str) -> Array:
        program = self._programs["text_encoder"]
        return encode_text(program, self._model, self._tokenizer([text]))

    @staticmethod
    def files(sources: Sources, setup: Setup) -> list[Path]:
        bundle, runtime = open_bundle(sources.bundle), RUNTIMES[setup.variant]
        return [
            path
            for name in PROGRAMS
            for path in bundle.program_files(name, runtime.format_of(name, setup.precision))
        ]
