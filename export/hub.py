"""Fetches published checkpoints by id: from the Hugging Face hub, or from PaddleNLP's store."""

from __future__ import annotations

import errno
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ldm_engine.cache import VARIABLE, default_root
from ldm_engine.errors import DownloadError, InvalidArgumentError

from .checkpoint import open_checkpoint

Hub = Literal["huggingface", "paddlenlp"]

PADDLENLP_URL = "https://paddlenlp.bj.bcebos.com/models/community"
PADDLENLP_URL_VARIABLE = "LDM_ENGINE_PADDLENLP_URL"

# The file list of the model card of CompVis/ldm-text2im-large-256 in PaddleNLP's community store.
# Of each required group one file must be there; the store has no way to list a folder.
PADDLENLP_REQUIRED = (
    ("model_index.json",),
    ("bert/config.json", "bert/model_config.json"),
    ("unet/config.json", "unet/model_config.json"),
    ("vqvae/config.json", "vqvae/model_config.json"),
    ("scheduler/scheduler_config.json",),
    ("tokenizer/vocab.txt",),
    ("bert/model_state.pdparams",),
    ("unet/model_state.pdparams",),
    ("vqvae/model_state.pdparams",),
)
PADDLENLP_OPTIONAL = (
    "README.md",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/added_tokens.json",
)

COMPLETE_MARK = ".complete"  # written last: nothing more is to be asked for

# Folders of a diffusers checkpoint that the export reads, and what it reads in them.
HUGGINGFACE_FOLDERS = ("bert", "text_encoder", "unet", "vqvae", "vae")
HUGGINGFACE_WEIGHTS = ("diffusion_pytorch_model", "model", "pytorch_model")
HUGGINGFACE_SMALL_FILES = re.compile(
    r"model_index\.json|README\.md|scheduler/[\w.-]+\.json|tokenizer/[\w.-]+\.(json|txt)"
    rf"|({'|'.join(HUGGINGFACE_FOLDERS)})/(config|model_config)\.json"
)

ATTEMPTS = 5
BACKOFF_S = 1.0  # doubled after every attempt that brought nothing
TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


def fetch(
    source: str | os.PathLike[str],
    *,
    hub: Hub = "huggingface",
    cache_dir: Path | None = None,
    base_url: str | None = None,
    revision: str | None = None,
) -> Path:
    """A local path to the checkpoint `source`: itself if it exists, else downloaded once.

    Args:
        source: a path, or an id such as "CompVis/ldm-text2im-large-256".
        hub: where ids are looked up.
        cache_dir: where downloads are kept; by default the hub's own cache, or
            $XDG_CACHE_HOME/ldm-engine for PaddleNLP's store.
        base_url: the PaddleNLP store; by default $LDM_ENGINE_PADDLENLP_URL or the public one.
        revision: branch, tag or commit on the Hugging Face hub.

    Raises:
        InvalidArgumentError: `source` is neither an existing path nor an id, `hub` is unknown, or
            `base_url` or `revision` is given where it has no meaning.
        DownloadError: the download failed; what is complete is kept, and a next call resumes.
    """
    if os.fspath(source) and _exists(Path(source)):
        _refuse("revision", revision, f"`{source}` is a local path and is used as it is")
        _refuse("base_url", base_url, f"`{source}` is a local path and is used as it is")
        return Path(source)
    owner, name = _parse_id(os.fspath(source))
    if hub == "huggingface":
        _refuse("base_url", base_url, "it is a PaddleNLP store's, for hub='paddlenlp'")
        return _fetch_huggingface(f"{owner}/{name}", cache_dir, revision)
    if hub == "paddlenlp":
        _refuse("revision", revision, "the PaddleNLP store keeps one version of a model")
        base_url = base_url or os.environ.get(PADDLENLP_URL_VARIABLE) or PADDLENLP_URL
        store = (cache_dir or _user_cache()) / "paddlenlp" / owner / name
        return _fetch_paddlenlp(f"{base_url.rstrip('/')}/{owner}/{name}", store)
    raise InvalidArgumentError(
        f"`hub` is {hub!r}; huggingface and paddlenlp are accepted.\n  Pass one of them."
    )


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
    told = os.environ.get(VARIABLE)
    return Path(told) / "ldm-engine" if told and told != "off" else default_root()


# --- Hugging Face ------------------------------------------------------------------------------


def _fetch_huggingface(repository: str, cache_dir: Path | None, revision: str | None) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise DownloadError(
            f"Fetching `{repository}` from the Hugging Face hub needs huggingface_hub.\n"
            "  Install it with `pip install 'ldm-engine[export]'`, or pass a local path."
        ) from None
    try:
        listed = huggingface_hub.HfApi().list_repo_files(repository, revision=revision)
        snapshot = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            cache_dir=cache_dir,
            allow_patterns=needed_files(listed),
        )
    except Exception as error:
        # The hub's client lets errors of its HTTP library through, whichever that is today.
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        failure = (
            f"`{repository}` could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {reason})"
        )
        cached = _complete_snapshot(repository, cache_dir, revision)
        if cached is not None:
            warnings.warn(
                f"{failure}; the copy downloaded earlier to `{cached}` is used instead, which may "
                "be older.",
                stacklevel=3,  # the caller of fetch
            )
            return cached
        raise DownloadError(
            f"{failure}.\n"
            "  Check the id and the network, pass a local path, or use the other hub, paddlenlp."
        ) from error
    return Path(snapshot)


def _complete_snapshot(
    repository: str, cache_dir: Path | None, revision: str | None
) -> Path | None:
    """An earlier download, for use without a network."""
    import huggingface_hub

    try:
        snapshot = huggingface_hub.snapshot_download(
            repository, revision=revision, cache_dir=cache_dir, local_files_only=True
        )
        open_checkpoint(snapshot)
    except Exception:
        return None
    return Path(snapshot)


def needed_files(listed: list[str]) -> list[str]:
    """The files of a repository that the export reads: of several weights, the safest kind only."""
    needed = [name for name in listed if HUGGINGFACE_SMALL_FILES.fullmatch(name)]
    for folder in HUGGINGFACE_FOLDERS:
        stems = "|".join(HUGGINGFACE_WEIGHTS)
        for suffix in ("safetensors", "bin"):
            weights = [
                name
                for name in listed
                if re.fullmatch(
                    rf"{folder}/({stems})(-\d+-of-\d+)?\.{suffix}(\.index\.json)?", name
                )
            ]
            if weights:
                needed += weights
                break
        else:
            needed += [name for name in listed if name == f"{folder}/model_state.pdparams"]
    return needed


# --- PaddleNLP's store -------------------------------------------------------------------------


def _fetch_paddlenlp(url: str, store: Path) -> Path:
    """Download what is not there yet; small files come first, so that a wrong id fails at once."""
    complete = store / COMPLETE_MARK
    present = (any((store / name).is_file() for name in names) for names in PADDLENLP_REQUIRED)
    if complete.is_file() and all(present):
        return store
    with _progress() as progress:
        for alternatives in PADDLENLP_REQUIRED:
            found = [download(f"{url}/{name}", store / name, progress) for name in alternatives]
            if not any(found):
                _raise_missing(url, alternatives)
        for name in PADDLENLP_OPTIONAL:
            download(f"{url}/{name}", store / name, progress)
    with _writing(complete):
        complete.touch()
    return store


def _raise_missing(url: str, names: tuple[str, ...]) -> NoReturn:
    raise DownloadError(
        f"The store has no {' or '.join(names)} under `{url}` (HTTP 404).\n"
        f"  Check the id; another store is set with {PADDLENLP_URL_VARIABLE}."
    )


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


@dataclass(frozen=True)
class _Answer:
    """A response whose body starts at `offset` of a file of `total` bytes (None: not told)."""

    body: http.client.HTTPResponse
    offset: int
    total: int | None
    version: str  # see `_version`; "" where the server tells none


class _TransientError(Exception):
    """An attempt failed in a way that another one may not."""


class _CompleteError(Exception):
    """The server says that nothing lies behind what is already there."""


def download(url: str, target: Path, progress: Progress) -> bool:
    """Bring `url` to `target`; False if the server has no such file.

    The bytes go to `target` + ".part", from where a broken download goes on, here or in a later
    call; the file gets its name when it is complete. Which version of the file they are of is kept
    in ".part.etag", so that a file that has changed on the server is started afresh.
    """
    if target.is_file():
        return True
    part = target.with_name(target.name + ".part")
    task = progress.add_task("/".join(target.parts[-2:]), total=None)
    failures = 0
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            before = _size(part)
            try:
                found = _attempt(url, part, progress, task)
                break
            except _TransientError as error:
                failures = 1 if _size(part) > before else failures + 1
                if failures >= ATTEMPTS:
                    raise DownloadError(
                        f"`{url}` could not be downloaded: {error} ({failures} attempts).\n"
                        f"  Check the network and try again: {_size(part):,} bytes are kept."
                    ) from error
                time.sleep(BACKOFF_S * 2 ** (failures - 1))
        if found:
            part.replace(target)
            _version_file(part).unlink(missing_ok=True)
    return found


def _attempt(url: str, part: Path, progress: Progress, task: Any) -> bool:
    """One request; True when `part` is complete, False when there is no such file."""
    try:
        answer = _open(url, _size(part), _kept_version(part))
    except _CompleteError:
        return True
    if answer is None:
        return False
    with answer.body, part.open("r+b" if answer.offset else "wb") as file:
        file.seek(answer.offset)
        if not answer.offset:  # only now that no byte of another version is left
            _version_file(part).write_text(answer.version, encoding="ascii")
        progress.update(task, completed=answer.offset, total=answer.total)
        for chunk in _chunks(answer.body):
            file.write(chunk)
            progress.advance(task, len(chunk))
        written = file.tell()
    if answer.total is not None and written > answer.total:
        part.unlink()
        raise _TransientError(f"{written} bytes came, {answer.total} were announced")
    if answer.total is not None and written < answer.total:
        raise _TransientError(f"the connection ended after {written} of {answer.total} bytes")
    return True


def _chunks(body: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := body.read1(CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(f"the connection broke ({error!r})") from error


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _kept_version(part: Path) -> str:
    file = _version_file(part)
    return file.read_text(encoding="ascii", errors="replace") if file.is_file() else ""


def _version(headers: http.client.HTTPMessage) -> str:
    """What tells this version of a file from others, fit for `If-Range` (RFC 9110, 13.1.5)."""
    for name, form in (("ETag", r'"[!-~]{0,200}"'), ("Last-Modified", r"[ -~]{1,80}")):
        if re.fullmatch(form, headers.get(name, "")):
            return headers[name]
    return ""


def _open(url: str, offset: int, version: str) -> _Answer | None:
    """Ask for `version` from `offset` on, or all of another one; None if there is no such file."""
    headers = {"User-Agent": "ldm-engine", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if re.fullmatch(r"[ -~]+", version):
            headers["If-Range"] = version
    try:
        body = urllib.request.urlopen(
            urllib.request.Request(_checked(url), headers=headers), timeout=TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        return _refused(url, offset, error)
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(f"no connection ({getattr(error, 'reason', error)})") from error
    current = _version(body.headers)
    if body.status == 206:
        if version and current and current != version:  # a server that does not know If-Range
            body.close()
            return _open(url, 0, "")
        return _partial(body, offset, current)
    length = body.headers.get("Content-Length", "")
    return _Answer(body, 0, int(length) if length.isdigit() else None, current)


def _refused(url: str, offset: int, error: urllib.error.HTTPError) -> _Answer | None:
    """What an HTTP error means: no such file, complete, start afresh, try again, or the end."""
    with error:
        if error.code == 404:
            return None
        if error.code == 416 and offset:
            total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            if total is not None and int(total[1]) == offset:
                raise _CompleteError
            return _open(url, 0, "")
        if error.code in TRANSIENT_STATUS:
            raise _TransientError(f"HTTP {error.code} {error.reason}")
        raise DownloadError(
            f"`{url}` could not be downloaded: HTTP {error.code} {error.reason}.\n"
            f"  Check the id; another store is set with {PADDLENLP_URL_VARIABLE}."
        )


def _partial(body: http.client.HTTPResponse, offset: int, version: str) -> _Answer:
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", body.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != offset:
        body.close()
        raise DownloadError(
            f"`{body.url}` was asked for bytes from {offset} on and sent "
            f"{body.headers.get('Content-Range')!r}.\n"
            "  Remove the .part file in the cache folder and try again."
        )
    return _Answer(body, offset, None if found[2] == "*" else int(found[2]), version)


def _checked(url: str) -> str:
    """The address; only http and https, so that no setting makes this read local files."""
    try:
        parts = urllib.parse.urlsplit(url)
        # Reading the port checks it; urllib takes no other characters, and says so too late.
        sound = bool(parts.hostname) and parts.port != 0 and re.fullmatch(r"[!-~]+", url)
    except ValueError:
        sound = False
    if not sound or parts.scheme not in ("http", "https"):
        raise InvalidArgumentError(
            f"`base_url` gives `{url}`; http and https addresses are accepted.\n"
            f"  Pass one, or set {PADDLENLP_URL_VARIABLE}."
        )
    return url


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Say which file could not be written, and what to do about it."""
    try:
        yield
    except DownloadError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "Free some space" if full else "Check its folder"
        raise DownloadError(
            f"`{target}` could not be written ({error.strerror}).\n"
            f"  {remedy} and try again: what has arrived is kept. Another folder is chosen with "
            "cache_dir or XDG_CACHE_HOME."
        ) from error
