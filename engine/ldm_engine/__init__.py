"""ldm-engine: verified static-graph inference for latent-diffusion text-to-image models.

>>> from ldm_engine import LDMTextToImagePipeline
>>> pipe = LDMTextToImagePipeline.from_pretrained("my-model")
>>> pipe("a painting of a squirrel", guidance_scale=6, seed=0).images[0].save("squirrel.png")
"""

from . import errors
from .bundle.bundle import Bundle
from .bundle.manifest import open_bundle
from .errors import LDMEngineError
from .rendering.run import render
from .sampling.pipeline import FlatImageWarning, ImagePipelineOutput, LDMTextToImagePipeline
from .sampling.schedule import NoiseSchedule
from .sampling.tokenizer import PromptTruncatedWarning
from .version import __version__

__all__ = [
    "Bundle",
    "FlatImageWarning",
    "ImagePipelineOutput",
    "LDMEngineError",
    "LDMTextToImagePipeline",
    "NoiseSchedule",
    "PromptTruncatedWarning",
    "__version__",
    "errors",
    "open_bundle",
    "render",
]
