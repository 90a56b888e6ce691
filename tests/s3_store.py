"""A bucket of an S3 store on loopback, what a client needs to reach it, and kills of a client."""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

import ldm_engine
from forked import processes

BUCKET = "bucket"
#: What would lead a client elsewhere.
ELSEWHERE = (
    *("AWS_ENDPOINT_URL_S3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"),
    *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"),
    *("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
)


@contextmanager
def s3_store() -> Iterator[str]:
    """The URL of an empty bucket; the environment leads to its store while this is open."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patch:
            for name in ELSEWHERE:
                patch.delenv(name, raising=False)
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "anyone")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_CONFIG_FILE", os.devnull)
            patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
            fsspec.filesystem("s3", skip_instance_cache=True).mkdir(BUCKET)
            yield f"s3://{BUCKET}"
    finally:
        server.stop()


def render_until(name: str, number: int, *arguments: Any, output: str, **options: Any) -> None:
    """Render in a process that is killed before its `number`-th request that changes an object.

    The name of the object, relative to the output, begins with `name`.
    """
    process = processes.Process(
        target=_render_until, args=(name, number, arguments, output, options, dict(os.environ))
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _render_until(
    name: str,
    number: int,
    arguments: tuple[Any, ...],
    output: str,
    options: dict[str, Any],
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    call, count = S3FileSystem._call_s3, 0
    prefix = f"{output}/{name}".removeprefix("s3://")

    async def counted(files: S3FileSystem, method: str, *more: Any, **request: Any) -> Any:
        nonlocal count
        path = f"{request.get('Bucket')}/{request.get('Key')}"
        if method in ("put_object", "delete_object") and path.startswith(prefix):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return await call(files, method, *more, **request)

    S3FileSystem._call_s3 = counted
    deque(ldm_engine.render(*arguments, output=output, **options), maxlen=0)
