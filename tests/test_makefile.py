"""The Makefile refuses Pythons for which packages are missing, before it installs anything."""

from __future__ import annotations

import re
import subprocess

import pytest

from conftest import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()


@pytest.fixture
def fake(tmp_path):
    """Makes a Python that reports a version and can do nothing else."""

    def make(version, place="python"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\ntest "$1" = -c && echo {version}\n')
        path.chmod(0o755)
        return path

    return make


def make(goal, *settings):
    return subprocess.run(
        ["make", "--no-print-directory", goal, *settings],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.14", "3.1"])
def test_demo_says_which_python_to_install(fake, tmp_path, version):
    done = make("demo", f"PYTHON={fake(version)}", f"VENV={tmp_path}/venv", f"DEMO={tmp_path}/demo")
    assert done.returncode
    assert f"Python {version} is given ({tmp_path}/python)" in done.stderr
    assert "paddlepaddle, which exports need, has packages for Python 3.10 to 3.13" in done.stderr
    assert "run: make demo PYTHON=python3.12" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_demo_goes_on_with_one_that_paddle_has_packages_for(fake, tmp_path, version):
    done = make("demo", f"PYTHON={fake(version)}", f"VENV={tmp_path}/venv", f"DEMO={tmp_path}/demo")
    assert done.returncode  # this one makes no environment
    assert "is given" not in done.stderr


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_the_tests_say_which_python_to_install(fake, tmp_path, version):
    fake(version, "venv/bin/python")
    done = make("lint", f"VENV={tmp_path}/venv")
    assert f"Python {version} is given" in done.stderr
    assert "has packages for Python 3.11 to 3.12" in done.stderr
    assert f"run: rm -r {tmp_path}/venv && make test PYTHON=python3.12" in done.stderr


def test_the_versions_are_those_of_the_packages_that_are_declared():
    def versions(name):
        return re.search(rf"^{name} := (.*)$", MAKEFILE, re.MULTILINE)[1].split()

    def bound(pattern):
        return re.search(pattern, PROJECT)[1]

    first = bound(r'requires-python = ">=([\d.]+)"')
    paddle = bound(r"paddlepaddle[^\"]*python_version < '([\d.]+)'")
    converter = bound(r"paddle2onnx[^\"]*python_version < '([\d.]+)'")
    peer = bound(r"diffusers[^\"]*python_version >= '([\d.]+)'")
    minor = [f"3.{n}" for n in range(9, 20)]
    among = minor[minor.index(first) : minor.index(paddle)]
    assert versions("EXPORT_PYTHONS") == among
    assert versions("TEST_PYTHONS") == among[among.index(peer) : among.index(converter)]
