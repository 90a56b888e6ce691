"""Bundles in the user's cache: a checkpoint is exported once, with the default options.

What decides the result is in the name of its folder: the checkpoint, and the versions of what
exports. Nothing heavy is imported before there is something to export.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from ldm_engine.bundle.bundle import MANIFEST
from ldm_engine.errors import DownloadError, OutputError, RuntimeUnavailableError
from ldm_engine.machine.cache import cache_folder
from ldm_engine.machine.cache_entries import BUNDLES, export_lock
from ldm_engine.machine.files import held, stamp_file
from ldm_engine.machine.signals import handlers_kept
from ldm_engine.runtimes.paddle_predictor import import_remedy
from ldm_engine.sampling.saving import slug
from ldm_engine.version import __version__

from .progress import Progress

#: What the default formats, and the files in them, depend on.
_PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "onnx", "paddle2onnx", "openvino")


def exported(source: str, begin: Progress, note: Progress) -> Path:
    """The folder of the bundle that was exported from `source`, now or earlier.

    Processes that come at once export one after another, and what one has made the next one finds.

    Args:
        source: a checkpoint's folder or file, or an id of the Hugging Face hub.
        begin: called with the name of each stage.
        note: called with a sentence where something was chosen.

    Raises:
        OutputError: if there is no cache folder.
        RuntimeUnavailableError: if what an export needs is not installed.
        LDMEngineError: if the checkpoint cannot be fetched, read or exported.
    """
    folder = cache_folder(BUNDLES, _name(source))
    if folder is None:
        raise OutputError(
            f"`{source}` is a checkpoint, and its bundle would be kept in the cache folder, which "
            "is switched off or cannot be written. Set LDM_ENGINE_CACHE to a folder, or export "
            f"it yourself: ldm-engine export {source} BUNDLE"
        )
    bundle = folder / "bundle"
    if not (bundle / MANIFEST).is_file():
        begin("waiting for another export")
        with held(export_lock(folder.parent)):
            for part in folder.glob(".bundle.*"):  # of an export that was killed
                shutil.rmtree(part, ignore_errors=True)
            try:
                if not (bundle / MANIFEST).is_file():
                    _export(source, bundle, begin, note)
            finally:
                with suppress(OSError):  # empty, where it failed
                    folder.rmdir()
    return bundle


def _name(source: str) -> str:
    """What decides the result, as a folder's name.

    Of an id that is the id: that the hub has another version later is not looked for.
    """
    path = Path(source)
    identity = {
        "source": str(path.resolve()) if path.exists() else source,
        "files": {str(file): stamp_file(file) for file in sorted(_files(path))},
        "versions": {"ldm-engine": __version__, **{name: _version(name) for name in _PACKAGES}},
    }
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return f"{slug(path.resolve().name)}-{digest[:16]}"


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in path.rglob("*") if file.is_file()]
    return [path] if path.exists() else []


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _export(source: str, bundle: Path, begin: Progress, note: Progress) -> None:
    begin("importing the exporter")
    try:
        with handlers_kept():
            from .checkpoint import open_checkpoint
            from .exporter import export_bundle
            from .hub import cached_id, fetch
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"`{source}` is no bundle, and to export it as a checkpoint needs more packages than "
            f"running: {error}. " + import_remedy(error, "pip install 'ldm-engine[export]'")
        ) from error
    begin(f"fetching {source}")
    try:
        folder = fetch(source, report=note)
    except DownloadError as error:
        raise DownloadError(f"There is no folder `{source}` here; as an id: {error}") from error
    checkpoint = open_checkpoint(folder)
    for sentence in checkpoint.notes:
        note(sentence)
    name = cached_id(folder.absolute()) if folder == Path(source) else source
    export_bundle(checkpoint, bundle, source=name, progress=begin)
