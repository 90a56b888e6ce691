"""Builds of ``cpp/`` by CMake, for the tests in tests/cpp.

They lie in build/cpp, where `make cpp` puts them too, so that only what has changed is built again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from conftest import ROOT

CPP = ROOT / "cpp"
BUILD = ROOT / "build" / "cpp"
SKIP = "LDM_ENGINE_SKIP_CPP"
JOBS = 2  # a compiler takes up to 1 GB


@dataclass(frozen=True)
class Build:
    """A build tree and what was installed from it."""

    tree: Path
    prefix: Path

    @property
    def generate(self) -> Path:
        return self.prefix / "bin" / "ldm-generate"

    @property
    def library(self) -> Path:
        return next(self.prefix.glob("lib*/**/libldm_engine.so"))


def run(*command, env=None, timeout=900):
    """Run a command; if it fails, the test shows the end of what it said."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**os.environ, **{name: str(value) for name, value in (env or {}).items()}},
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-6000:]
        pytest.fail(f"{' '.join(map(str, command))} exits with {done.returncode}:\n{said}")
    return done


def require_tools(*names):
    """Fail, or skip where that is asked for, if a command of `names` is not installed."""
    if os.environ.get(SKIP) == "1":
        pytest.skip(f"{SKIP}=1")
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        pytest.fail(
            f"The C++ tests need {', '.join(missing)}. On Debian, as root: "
            f"tools/install_packages.sh cpp/packages*.txt. To pass them over: {SKIP}=1.",
            pytrace=False,
        )


def configure_and_build(source, tree, *options, prefix=None):
    """Configure `source` into `tree`, build it, and install it if there is a `prefix`.

    One process at a time: others find that there is nothing left to do.
    """
    from openvino.utils import get_cmake_path

    require_tools("cmake", "make", "c++")
    tree.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{tree}.lock"):
        run("cmake", "-S", source, "-B", tree, f"-DOpenVINO_DIR={get_cmake_path()}", *options)
        run("cmake", "--build", tree, "--parallel", JOBS)
        if prefix is not None:
            run("cmake", "--install", tree, "--prefix", prefix)
