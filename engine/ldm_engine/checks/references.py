"""``reference.json``: samples of the original model's outputs for the reference cases.

An export writes it, so that a bundle can be checked on any machine, with any runtime, without its
checkpoint.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import REFERENCE, Bundle, read_json_object
from ..errors import BundleError
from ..machine.files import write_atomically
from .cases import END_TO_END_KEY, Arrays, reference_cases

#: Values of each output kept in ``reference.json``, evenly spread over the flattened array.
SAMPLES = 256
Key = tuple[str, str]  #: program and label of a case


class References(dict[Key, Arrays]):
    """The original model's outputs of each case by name, whole or sampled."""

    def __init__(self) -> None:
        super().__init__()
        #: How far two ways to compute the original model in fp32 lie apart, relative L2.
        self.rounding: dict[Key, float] = {}


def sample(values: NDArray[Any]) -> NDArray[np.float32]:
    """`SAMPLES` values evenly spread over the flattened array."""
    index = np.linspace(0, values.size - 1, min(SAMPLES, values.size)).astype(np.int64)
    return values.reshape(-1)[index].astype(np.float32)


def save_references(bundle: Bundle, references: References) -> None:
    """Write ``reference.json``: samples of every output."""
    content = [
        {
            "program": program,
            "case": case,
            "rounding": references.rounding.get((program, case), 0.0),
            "outputs": {name: sample(v).tolist() for name, v in outputs.items()},
        }
        for (program, case), outputs in references.items()
    ]
    text = json.dumps({"samples": SAMPLES, "references": content}, indent=1)
    write_atomically(bundle.path / REFERENCE, (text + "\n").encode())


def load_references(bundle: Bundle) -> References:
    """Read ``reference.json``.

    Raises:
        BundleError: if it is missing or does not cover every case.
    """
    raw = read_json_object(bundle.path / REFERENCE)
    references = References()
    try:
        for entry in raw["references"]:
            key = entry["program"], entry["case"]
            outputs = entry["outputs"].items()
            references[key] = {name: np.asarray(v, dtype=np.float32) for name, v in outputs}
            references.rounding[key] = float(entry.get("rounding", 0.0))
        for program in bundle.programs:
            for case in reference_cases(program, bundle.model):
                for name, shape in case.output_shapes.items():
                    _require_samples(references[program, case.label][name], math.prod(shape))
        _require_samples(references[END_TO_END_KEY]["image"], SAMPLES)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"{bundle.path / REFERENCE} does not hold the reference outputs: {error!r}. "
            "Export the bundle again."
        ) from error
    return references


def _require_samples(values: NDArray[np.float32], size: int) -> None:
    if values.shape != (min(SAMPLES, size),):
        raise ValueError(f"an output has samples of shape {values.shape}")
