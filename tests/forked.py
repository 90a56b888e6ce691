"""Runs what takes less time than loading the libraries in processes forked after that."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_LIBRARIES = ["PIL.Image", "click", "numpy", "onnxruntime", "rich.progress", "rich.table", "s3fs"]
_ENGINE = ["ldm_engine.rendering.run", "ldm_engine.runtimes.onnxruntime"]  # no console, no threads
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([*_LIBRARIES, *_ENGINE])


def run_command(
    *words: Any,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    is_merged: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run ``ldm-engine`` with `words`; if `is_merged`, its stdout has what goes to stderr too."""
    texts = [str(word) for word in words]
    with TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        for stream in streams:
            stream.touch()
        files = streams[:1] * 2 if is_merged else streams
        surroundings = {**os.environ, **(environment or {})}
        process = processes.Process(
            target=_main, args=(texts, files, cwd or Path.cwd(), surroundings)
        )
        process.start()
        process.join()
        shown = [stream.read_text() for stream in streams]
    return subprocess.CompletedProcess(["ldm-engine", *texts], process.exitcode or 0, *shown)


def _main(words: list[str], files: list[Path], cwd: Path, environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    sys.argv = ["ldm-engine", *words]
    from ldm_engine.commands.main import main

    main()
