"""The encoded empty text, which every guided picture needs, kept on disk for the next process.

It is kept for exactly the bundle, library, precision, threads and kind of processor that it was
encoded with, and only where the bundle's files are checked: pictures are the same with it and
without. Its twin in C++, ``cpp/src/sampling/kept_text.cpp``, keeps the same files for OpenVINO.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import OutputError
from ..machine.cache import cache_folder, drop_unsealed, seal_files
from ..machine.cpu import processor
from ..machine.files import write_atomically
from ..version import __version__
from .opening import Opened

_PATTERN = "*.f32"


def unconditional_kv(
    opened: Opened, encode: Callable[[], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Keys and values [T, .] of the empty text, read or else made by `encode`."""
    folder = _folder(opened)
    if folder is None:
        return encode()
    drop_unsealed(folder, _PATTERN)
    path, model = folder / "empty.f32", opened.bundle.model
    with suppress(OSError, ValueError):
        return np.fromfile(path, "<f4").reshape(model.token_length, model.text_kv_width)
    values = encode()
    with suppress(OutputError):
        write_atomically(path, values.tobytes())
        seal_files(folder, _PATTERN)
    return values


def _folder(opened: Opened) -> Path | None:
    runtime, options = opened.choice.runtime, opened.options
    version = runtime.version()
    kind = processor()
    is_certain = opened.checks_hashes and opened.bundle.files  # none: an export still checking
    if not (is_certain and options.cache and options.device == "cpu" and version and kind):
        return None
    name = (
        f"{__version__}-{runtime.name}-{version}-{opened.bundle.digest[:16]}-{options.precision}-"
        f"{options.threads}-{kind}"
    )
    return cache_folder("texts", name)
