"""Config files: JSON objects, or an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path

from ldm_engine.errors import CheckpointError

from .checkpoint import Config


def read_json(path: Path) -> Config:
    """A config file; anything but a JSON object is an error that names the file."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"`{path}` cannot be read as JSON ({error}).\n  Download it again."
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f"`{path}` holds a {type(config).__name__}; a config is a JSON object.\n"
            "  Download it again."
        )
    return config
