"""Fetches published checkpoints by id: from the Hugging Face hub, or from PaddleNLP's store."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Literal

from ldm_engine.errors import DownloadError, InvalidArgumentError, LDMEngineError
from ldm_engine.machine.cache import VARIABLE, default_root

from .checkpoint import open_checkpoint
from .checkpoint.opening import cached_snapshot
from .checkpoint.weights_files import VARIANT
from .hub_files import needed_files
from .hub_refusals import failure_of, quiet_client
from .paddlenlp_store import PADDLENLP_URL, PADDLENLP_URL_VARIABLE, fetch_paddlenlp
from .progress import Progress, silent

Hub = Literal["huggingface", "paddlenlp"]


def fetch(
    source: str | os.PathLike[str],
    *,
    hub: Hub = "huggingface",
    cache_dir: Path | None = None,
    hub_url: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    ema: bool | None = None,
    report: Progress = silent,
) -> Path:
    """A local path to the checkpoint `source`: itself if it exists, else downloaded once.

    Args:
        source: a path, or an id such as "CompVis/ldm-text2im-large-256".
        hub: where ids are looked up.
        cache_dir: where downloads are kept; by default the hub's own cache, or
            $XDG_CACHE_HOME/ldm-engine for PaddleNLP's store.
        hub_url: the PaddleNLP store; by default $LDM_ENGINE_PADDLENLP_URL or the public one.
        revision: branch, tag or commit on the Hugging Face hub.
        variant: as of ``open_checkpoint``, which is to read what was downloaded.
        ema: as of ``open_checkpoint``.
        report: called with a sentence where something was chosen, or is tried again.

    Raises:
        InvalidArgumentError: `source` is neither an existing path nor an id, `hub` is unknown,
            `hub_url` or `revision` is given where it has no meaning, or `variant` is no name.
        CheckpointError: the repository has no such `variant`, or several and none is given.
        DownloadError: the download failed; what is complete is kept, and a next call resumes.
    """
    if os.fspath(source) and _exists(Path(source)):
        _refuse("revision", revision, f"`{source}` is a local path and is used as it is")
        _refuse("hub_url", hub_url, f"`{source}` is a local path and is used as it is")
        return Path(source)
    owner, name = _parse_id(os.fspath(source))
    if variant is not None and not re.fullmatch(VARIANT, variant, re.ASCII):
        raise InvalidArgumentError(
            f"`variant` is {variant!r}; a part of a file's name is accepted, such as fp16.\n"
            "  Pass one that the weights have."
        )
    if hub == "huggingface":
        _refuse("hub_url", hub_url, "it is a PaddleNLP store's, for hub='paddlenlp'")
        return _fetch_huggingface(f"{owner}/{name}", cache_dir, revision, variant, ema, report)
    if hub == "paddlenlp":
        _refuse("revision", revision, "the PaddleNLP store keeps one version of a model")
        hub_url = hub_url or os.environ.get(PADDLENLP_URL_VARIABLE) or PADDLENLP_URL
        store = (cache_dir or _user_cache()) / "paddlenlp" / owner / name
        return fetch_paddlenlp(f"{hub_url.rstrip('/')}/{owner}/{name}", store, variant, report)
    raise InvalidArgumentError(
        f"`hub` is {hub!r}; huggingface and paddlenlp are accepted.\n  Pass one of them."
    )


def cached_id(path: Path) -> str | None:
    """The id of the repository whose folder, or snapshot, in the hub's cache `path` is."""
    path = path.parent.parent if path.parent.name == "snapshots" else path
    found = re.fullmatch(r"models--([\w.-]+?)--([\w.-]+)", path.name, re.ASCII)
    return f"{found[1]}/{found[2]}" if found else None


def _refuse(name: str, value: str | None, reason: str) -> None:
    if value is not None:
        raise InvalidArgumentError(f"`{name}` is {value!r}; {reason}.\n  Leave it out.")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for the file system, a folder that must not be entered
        return False


def _parse_id(source: str) -> tuple[str, str]:
    """Owner and name of an id: letters, digits, `.`, `_`, `-`, never a dot first (no `..`)."""
    found = re.fullmatch(r"([A-Za-z0-9_][\w.-]*)/([A-Za-z0-9_][\w.-]*)", source, re.ASCII)
    if found is None or ".." in source:
        raise InvalidArgumentError(
            f"`{source}` is neither an existing file or folder nor an id like "
            "CompVis/ldm-text2im-large-256.\n  Check the path, or pass OWNER/NAME."
        )
    return found[1], found[2]


def _user_cache() -> Path:
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) / "ldm-engine" if chosen and chosen != "off" else default_root()


def _fetch_huggingface(
    repository: str,
    cache_dir: Path | None,
    revision: str | None,
    variant: str | None,
    ema: bool | None,
    report: Progress,
) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.errors import OfflineModeIsEnabled
    except ImportError:
        raise DownloadError(
            f"Fetching `{repository}` from the Hugging Face hub needs huggingface_hub.\n"
            "  Install it with `pip install 'ldm-engine[export]'`, or pass a local path."
        ) from None
    try:
        with quiet_client(report):
            listed = huggingface_hub.HfApi().list_repo_files(repository, revision=revision)
            needed = needed_files(repository, listed, variant, ema, report)
            snapshot = huggingface_hub.snapshot_download(
                repository, revision=revision, cache_dir=cache_dir, allow_patterns=needed
            )
    except LDMEngineError:
        raise
    except Exception as error:
        # The hub's client lets errors of its HTTP library through, whichever that is today.
        failure, remedy = failure_of(error, repository)
        try:
            cached = _complete_snapshot(repository, cache_dir, revision, variant, ema)
        except LDMEngineError as incomplete:
            reason = f"What was downloaded earlier cannot be used: {incomplete}"
            raise DownloadError(f"{failure}.\n  {remedy}\n  {reason}") from error
        if cached is None:
            raise DownloadError(f"{failure}.\n  {remedy}") from error
        if not isinstance(error, OfflineModeIsEnabled):
            warnings.warn(
                f"{failure}; the copy downloaded earlier to `{cached}` is used instead, which may "
                "be older.",
                stacklevel=3,  # the caller of fetch
            )
        return cached
    return Path(snapshot)


def _complete_snapshot(
    repository: str,
    cache_dir: Path | None,
    revision: str | None,
    variant: str | None,
    ema: bool | None,
) -> Path | None:
    """An earlier download, for use without a network; None where there is none.

    The client itself finds a snapshot incomplete that lacks what was not asked for.

    Raises:
        LDMEngineError: if it lacks something that the export reads.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(cache_dir or HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    snapshot = cached_snapshot(folder, revision or "main")
    if snapshot is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns when it is opened in earnest
            open_checkpoint(snapshot, variant=variant, ema=ema)
    return snapshot
