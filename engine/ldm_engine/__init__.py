"""ldm-engine: verified static-graph inference for latent-diffusion text-to-image models.

>>> from ldm_engine import LDMTextToImagePipeline
>>> pipe = LDMTextToImagePipeline.from_pretrained("my-model")
>>> pipe("a painting of a squirrel", guidance_scale=6, seed=0).images[0].save("squirrel.png")
"""

from typing import TYPE_CHECKING

from .machine.lazy import attributes
from .version import __version__

if TYPE_CHECKING:
    from . import errors
    from .bundle.bundle import Bundle
    from .bundle.manifest import open_bundle
    from .errors import LDMEngineError
    from .rendering.call import RenderRun, render
    from .sampling.outpainting import outpainting
    from .sampling.output import ImagePipelineOutput
    from .sampling.pipeline import LDMTextToImagePipeline
    from .sampling.pixels import FlatImageWarning
    from .sampling.schedule import NoiseSchedule
    from .sampling.tokenizer import PromptTruncatedWarning, UnknownWordsWarning
else:  # later, so that the command handles signals before it imports anything that takes time
    __getattr__ = attributes(
        __name__,
        {
            "Bundle": "bundle.bundle",
            "FlatImageWarning": "sampling.pixels",
            "ImagePipelineOutput": "sampling.output",
            "LDMEngineError": "errors",
            "LDMTextToImagePipeline": "sampling.pipeline",
            "NoiseSchedule": "sampling.schedule",
            "PromptTruncatedWarning": "sampling.tokenizer",
            "RenderRun": "rendering.call",
            "UnknownWordsWarning": "sampling.tokenizer",
            "errors": "",
            "open_bundle": "bundle.manifest",
            "outpainting": "sampling.outpainting",
            "render": "rendering.call",
        },
    )

__all__ = [
    "Bundle",
    "FlatImageWarning",
    "ImagePipelineOutput",
    "LDMEngineError",
    "LDMTextToImagePipeline",
    "NoiseSchedule",
    "PromptTruncatedWarning",
    "RenderRun",
    "UnknownWordsWarning",
    "__version__",
    "errors",
    "open_bundle",
    "outpainting",
    "render",
]
