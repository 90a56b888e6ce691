"""The place of a run, and ``run.json`` in it: the fingerprint of all that changes pixels.

With ``--force`` the place is the output or the next one beside it that holds no other run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import PIL

from ..errors import InvalidArgumentError, LDMEngineError
from ..machine.device import Device
from ..machine.gpu import find_gpu
from ..machine.lock import LOCKS
from ..machine.remote import LOCAL_URL, RemoteStorage, is_url
from ..machine.storage import SUFFIX, TEMPORARY, LocalStorage, Storage
from ..sampling.opening import Opened
from ..sampling.screening import name_of
from ..sampling.settings import common_settings
from ..version import __version__
from .jobs.rows import Defaults
from .journals import FAILURES
from .options import RunOptions
from .plan import Costs

#: What a run leaves that ends before it is begun.
_BEFORE = re.compile(rf"{LOCKS}|{TEMPORARY}|{FAILURES}{SUFFIX}\.jsonl(?:\.parts)?")


RUN_FILE = "run.json"


class FingerprintError(LDMEngineError):
    """The output holds a run with other settings, or what is no run at all."""


def fingerprint(opened: Opened, options: RunOptions, defaults: Defaults) -> dict[str, Any]:
    """All that changes pixels or files; None for what an earlier run may decide."""
    bundle, runtime = opened.bundle, opened.choice.runtime
    return {
        "bundle": bundle.digest,
        "model": bundle.model.source,
        "ldm_engine": __version__,
        "runtime": runtime.name,
        "runtime_version": runtime.version(options.device),
        "precision": options.precision,
        "device": _describe_device(options.device),
        "threads": options.threads,
        "batch_size": options.batch_size,
        "image_format": options.image_format,
        "quality": options.lossy_quality,
        "pillow": PIL.__version__,
        "layout": options.layout,
        "images_per_tar": options.archive_images,
        # What is later and left out by default: runs that were begun before it go on.
        **({"mark": True} if options.mark else {}),
        **({"check": name_of(options.check)} if options.check else {}),
        **({"default_seed": defaults.seed} if defaults.seed else {}),
        # More images of a row leave the others as they are.
        **{
            f"default_{setting.name}": defaults.settings[setting.name]
            for setting in common_settings()
            if setting.is_recorded(defaults.settings[setting.name])
        },
    }


def _describe_device(name: str) -> str:
    """What of a device changes pixels: which GPU it is, but not its number."""
    device = Device.parse(name)
    return device.kind if device.kind == "cpu" else f"gpu: {find_gpu(device.index).name}"


@dataclass(frozen=True)
class RunFile:
    """What a run is, for all who take part in it and all who go on with it later."""

    fingerprint: Mapping[str, Any]
    costs: Costs
    measured: Mapping[str, float]  #: seconds a step and image by batch size, if it was measured

    def save(self, storage: Storage) -> bool:
        """Write it unless there is one; returns whether it was written."""
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
        existing = json.loads(content)
        costs = existing["costs"]
        compile_s = costs["compile_s"]
        return RunFile(
            dict(existing["fingerprint"]),
            Costs(None if compile_s is None else float(compile_s), float(costs["image_step_s"])),
            dict(existing["measured"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FingerprintError(
            f"{storage.output}/{RUN_FILE} is not a run of this version ({error!r}). Choose another "
            "--output, or start afresh beside it with --force."
        ) from error


def differences(existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """How two fingerprints differ, one line each; what is wanted as None may be anything."""
    names = list(dict.fromkeys([*existing, *wanted]))
    return [
        f"{name}: {_said(name, existing)!r} there, {_said(name, wanted)!r} now"
        for name in names
        if existing.get(name) != wanted.get(name) and wanted.get(name, ...) is not None
    ]


def _said(name: str, fingerprint: Mapping[str, Any]) -> Any:
    """What a fingerprint says of `name`, also where it leaves it out."""
    return fingerprint.get(name, {"mark": False, "default_seed": 0}.get(name))


def check_same(storage: Storage, existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ``FingerprintError`` unless a run with the fingerprint `wanted` can go on there."""
    found = differences(existing, wanted)
    if found:
        listing = "\n".join(f"  - {line}" for line in found)
        raise FingerprintError(
            f"{storage.output} holds a run with other settings, and its images would not be like "
            f"the new ones:\n{listing}\nGive the settings it was begun with, choose another "
            "--output, or start afresh beside it with --force."
        )


def open_storage(output: str, label: str) -> Storage:
    """The storage at a path or URL; runs at one place at the same time have different labels."""
    output = LOCAL_URL.sub("", output)
    return RemoteStorage(output) if is_url(output) else LocalStorage(Path(output), label)


def find_place(output: str, label: str, fingerprint: Mapping[str, Any], force: bool) -> Storage:
    """A storage that is new or holds a run with this `fingerprint`, whose None may be anything.

    With `force`, that is the first such of `output`, `output`-2, `output`-3, ...; so the same
    command goes on with what it began.

    Raises:
        FingerprintError: without `force`, if another run is there, saying what differs, or
            something that is no run.
        InvalidArgumentError: with `force`, if there can be nothing beside `output`.
    """
    storage, count = open_storage(output, label), 1
    while True:
        try:
            _check(storage, fingerprint)
            return storage
        except FingerprintError:
            if not force:
                raise
        count += 1
        storage = open_storage(_beside(output, count), label)


def _check(storage: Storage, fingerprint: Mapping[str, Any]) -> None:
    # Listed first: of a run that begins meanwhile, the run file is there before anything else.
    others = [name for name in storage.names("") if not _BEFORE.fullmatch(name)]
    existing = load_run_file(storage)
    if existing is not None:
        check_same(storage, existing.fingerprint, fingerprint)
    elif others:
        raise FingerprintError(
            f"{storage.output} is not empty ({', '.join(others[:3])}), and no run of this program "
            "is in it, so that its files could be taken for images of one. Choose another "
            "--output, or go to a folder beside it with --force."
        )


def _beside(output: str, count: int) -> str:
    """The place number `count` beside `output`, which a store's or a disk's root has none."""
    output = LOCAL_URL.sub("", output)
    if is_url(output):
        *_, path = output.partition("://")
        if "/" in path.strip("/"):  # a bucket's name with a number would be another's bucket
            return f"{output.rstrip('/')}-{count}"
    else:
        folder = Path(output)
        folder = folder.resolve() if folder.name in ("", "..") else folder
        if folder.name:
            return str(folder.with_name(f"{folder.name}-{count}"))
    raise InvalidArgumentError(
        f"`output` is {output}, which can have no folder beside it for `force`; a folder in it is "
        "accepted."
    )
