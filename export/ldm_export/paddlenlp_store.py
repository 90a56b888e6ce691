"""Fetches a checkpoint from PaddleNLP's store, each file from where its download broke off."""

from __future__ import annotations

import errno
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ldm_engine.errors import DownloadError, InvalidArgumentError

from .progress import Progress as Report
from .progress import silent

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
)
# The first of each that is there is downloaded; with a variant, `NAME.fp16.SUFFIX` before it.
PADDLENLP_WEIGHTS = (
    ("bert/model_state.pdparams", "bert/model.safetensors"),
    ("unet/model_state.pdparams", "unet/diffusion_paddle_model.safetensors"),
    ("vqvae/model_state.pdparams", "vqvae/diffusion_paddle_model.safetensors"),
)
PADDLENLP_OPTIONAL = (
    "README.md",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/added_tokens.json",
)

COMPLETE_MARK = ".complete"  # written last: nothing is left to download

ATTEMPTS = 5
BACKOFF_S = 1.0  # doubled after every attempt that brought nothing
TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


def fetch_paddlenlp(
    url: str, store: Path, variant: str | None = None, report: Report = silent
) -> Path:
    """Download what is not there yet of the checkpoint at `url` into the folder `store`.

    Small files come first, so that a wrong id fails at once.

    Raises:
        InvalidArgumentError: if `url` is no http or https address.
        DownloadError: the download failed; what is complete is kept, and a next call resumes.
    """
    complete = store / (COMPLETE_MARK if variant is None else f"{COMPLETE_MARK}.{variant}")
    weights = [_with_variant(names, variant) for names in PADDLENLP_WEIGHTS]
    groups = (*PADDLENLP_REQUIRED, *weights)
    present = (any((store / name).is_file() for name in names) for names in groups)
    if complete.is_file() and all(present):
        return store
    retrying = _Once(report)
    with _progress() as progress:

        def bring(name: str) -> bool:
            return download(f"{url}/{name}", store / name, progress, retrying)

        for alternatives in PADDLENLP_REQUIRED:
            found = [bring(name) for name in alternatives]
            if not any(found):
                _raise_missing(url, alternatives)
        for names in weights:
            if not any(bring(name) for name in names):  # no more than the first that is there
                _raise_missing(url, names)
        for name in PADDLENLP_OPTIONAL:
            bring(name)
    with _writing(complete):
        complete.touch()
    return store


def _with_variant(names: tuple[str, ...], variant: str | None) -> tuple[str, ...]:
    if variant is None:
        return names
    split = (name.rpartition(".") for name in names)
    return (*(f"{stem}.{variant}.{suffix}" for stem, _, suffix in split), *names)


class _Once:
    """Reports the first of several things alike."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._done = False

    def __call__(self, text: str) -> None:
        if not self._done:
            self._done = True
            self._report(text)


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
    """A response whose body starts at `offset` of a file of `total` bytes (None: unknown)."""

    body: http.client.HTTPResponse
    offset: int
    total: int | None
    version: str  # see `_version`; "" where the server sends none


class _TransientError(Exception):
    """An attempt failed in a way that another one may not."""


class _CompleteError(Exception):
    """The server says that nothing lies behind what is already there."""


def download(url: str, target: Path, progress: Progress, report_retry: Report = silent) -> bool:
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
                report_retry(
                    f"The store is asked again, up to {ATTEMPTS} times a file ({url}: {error})."
                )
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
    """What identifies this version of a file, fit for `If-Range` (RFC 9110, 13.1.5)."""
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
            f"`{body.url}` was requested from byte {offset} on and sent "
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
            f"`hub_url` gives `{url}`; http and https addresses are accepted.\n"
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
