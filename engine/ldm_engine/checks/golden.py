"""The one published check of the real weights: a slice of an image, to three decimals.

Source: the slow test of diffusers' ``LDMTextToImagePipeline`` for CompVis/ldm-text2im-large-256.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from ..bundle.bundle import Bundle
from ..sampling.pipeline import LDMTextToImagePipeline
from ..sampling.tokenizer import Tokenizer, UnknownWordsWarning

PROMPT = "A painting of a squirrel eating a burger"
NUM_INFERENCE_STEPS = 3
GUIDANCE_SCALE = 6.0
#: ``image[0, -3:, -3:, -1]``
EXPECTED_SLICE = (
    (0.51825, 0.52850, 0.52543),
    (0.54258, 0.52304, 0.52569),
    (0.54363, 0.55276, 0.56878),
)
TOLERANCE = 1e-3  # of the published test, absolute

_LARGE = {
    "latent_channels": 4,
    "sample_size": 32,
    "token_length": 77,
    "vocab_size": 30522,
    "time_shift_width": 20160,
    "text_kv_width": 24960,
}
#: Words of the published vocabulary (bert-base-uncased) and their ids.
_PUBLISHED_IDS = {"the": 1996, "of": 1997, "a": 1037}


@dataclass(frozen=True)
class GoldenResult:
    """The largest absolute difference from the published slice."""

    error: float

    @property
    def passed(self) -> bool:
        """Whether it lies within the published tolerance."""
        return self.error <= TOLERANCE


def why_not_applicable(bundle: Bundle) -> str | None:
    """Why the published slice does not apply to `bundle`, or None if it does."""
    model = bundle.model
    for name, expected in _LARGE.items():
        value = getattr(model, name)
        if value != expected:
            return f"its {name} is {value}, that of ldm-text2im-large-256 is {expected}"
    tokenizer = Tokenizer.of(bundle)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownWordsWarning)
        ids = [int(tokenizer([word])[0, 1]) for word in _PUBLISHED_IDS]
    if ids != list(_PUBLISHED_IDS.values()):
        return "its vocabulary is not that of bert-base-uncased"
    return None


def check_golden(pipe: LDMTextToImagePipeline) -> GoldenResult:
    """Render the published case and compare."""
    model = pipe.bundle.model
    shape = (1, model.latent_channels, model.sample_size, model.sample_size)
    output = pipe(
        [PROMPT],
        num_inference_steps=NUM_INFERENCE_STEPS,
        guidance_scale=GUIDANCE_SCALE,
        latents=np.random.RandomState(0).standard_normal(shape),
        seed=0,
        output_type="np",
    )
    images = np.asarray(output.images)
    return GoldenResult(float(np.abs(images[0, -3:, -3:, -1] - np.array(EXPECTED_SLICE)).max()))
