"""Where a peer's packages lie: in this Python's environment, or in one of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ldm_engine.machine.environment import versions

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Environment:
    """A virtual environment for packages that do not go with this project's."""

    folder: Path
    command: str  #: makes it

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def versions(self, distributions: Iterable[str]) -> dict[str, str | None]:
        """As ``ldm_engine``'s ``versions``, of what is installed there."""
        places = list(map(str, self.folder.glob("lib/python*/site-packages")))
        found = {d.name.lower(): d.version for d in metadata.distributions(path=places)}
        return {name: found.get(name) for name in distributions}


PPDIFFUSERS = Environment(ROOT / "build" / "ppdiffusers", "make ppdiffusers")


def python_of(environment: Environment | None) -> str:
    """The interpreter that a peer's process is started with."""
    return str(environment.python) if environment else sys.executable


def variables_of(environment: Environment | None) -> dict[str, str]:
    """What a peer's process must be told to find this project's modules."""
    return {"PYTHONPATH": str(ROOT / "engine")} if environment else {}


def lacking(environment: Environment | None, distributions: Iterable[str]) -> str | None:
    """What must be installed for a peer that needs `distributions`, or None."""
    if environment is None:
        found, remedy = versions(distributions), ""
    elif os.access(environment.python, os.X_OK):
        found, remedy = environment.versions(distributions), f"; run `{environment.command}`"
    else:
        return f"its environment is not there; make it with `{environment.command}`"
    names = [name for name, version in found.items() if version is None]
    return f"not installed: {', '.join(names)}{remedy}" if names else None
