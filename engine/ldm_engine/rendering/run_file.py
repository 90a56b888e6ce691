"""``run.json``: the fingerprint of all that changes pixels, and what was measured when it began."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import LDMEngineError
from ..machine.storage import Storage
from .plan import Costs

RUN_FILE = "run.json"


class FingerprintError(LDMEngineError):
    """The output holds a run with other settings, or what is no run at all."""


@dataclass(frozen=True)
class RunFile:
    """What a run is, for all who take part in it and all who go on with it later."""

    fingerprint: Mapping[str, Any]
    costs: Costs
    measured: Mapping[str, float]  #: seconds a step and image by batch size, if it was measured

    def save(self, storage: Storage) -> bool:
        """Write it unless there is one, and tell whether it was written."""
        content = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        written = storage.write_once(RUN_FILE, content.encode())
        storage.sync([RUN_FILE])
        return written


def load_run_file(storage: Storage) -> RunFile | None:
    """The run that an output holds, or None.

    Raises:
        FingerprintError: if the file cannot be understood.
    """
    content = storage.read(RUN_FILE)
    if content is None:
        return None
    try:
        held = json.loads(content)
        costs = held["costs"]
        compile_s = costs["compile_s"]
        return RunFile(
            dict(held["fingerprint"]),
            Costs(None if compile_s is None else float(compile_s), float(costs["image_step_s"])),
            dict(held["measured"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FingerprintError(
            f"{storage.output}/{RUN_FILE} is not a run of this version ({error!r}). Choose another "
            "--output, or start afresh beside it with --force."
        ) from error


def differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What is told apart in two fingerprints, one line each; what is wanted as None may be any."""
    names = list(dict.fromkeys([*held, *wanted]))
    return [
        f"{name}: {held.get(name)!r} there, {wanted.get(name)!r} asked for"
        for name in names
        if held.get(name) != wanted.get(name) and wanted.get(name, ...) is not None
    ]


def check_same(storage: Storage, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ``FingerprintError`` unless a run with the fingerprint `wanted` can go on there."""
    found = differences(held, wanted)
    if found:
        listing = "\n".join(f"  - {line}" for line in found)
        raise FingerprintError(
            f"{storage.output} holds a run with other settings, and its images would not be like "
            f"the new ones:\n{listing}\nGive the settings it was begun with, choose another "
            "--output, or start afresh beside it with --force."
        )
