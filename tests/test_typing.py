"""What type checkers find in a user's script: the real types of results, and wrong arguments."""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
import venv
import zipfile

import pytest

from conftest import ROOT

SCRIPT = """
from pathlib import Path

import numpy as np
from ldm_engine import LDMTextToImagePipeline, render
from numpy.typing import NDArray
from PIL.Image import Image
from typing_extensions import assert_type

with LDMTextToImagePipeline.from_pretrained("bundle") as pipe:
    assert_type(pipe("a red circle", seed=0).seeds, tuple[int, ...])
    assert_type(pipe("a", 256, 256, seed=[0]).images, list[Image])
    assert_type(pipe("a", output_type="np", seed=0).images, NDArray[np.float32])
    assert_type(pipe("a", height=256, output_type="latent").images, NDArray[np.float32])
    assert_type(pipe("a", return_dict=False), tuple[list[Image]])
    assert_type(pipe("a", return_dict=False, output_type="np"), tuple[NDArray[np.float32]])
    assert_type(pipe("a", num_images_per_prompt=2).save("folder"), list[Path])
    assert_type(render("bundle", ["a"], output="out").run().progress.done, int)
"""
WRONG = """
from ldm_engine import LDMTextToImagePipeline

pipe = LDMTextToImagePipeline.from_pretrained("bundle")
pipe("a", sead=3)
pipe("a", output_type="np").images.save("a.png")
"""


@pytest.fixture(scope="module")
def python_with_the_wheel(tmp_path_factory):
    """An environment with the wheel, and beside it what it needs of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    venv.create(folder / "venv", symlinks=True)
    (packages,) = (folder / "venv/lib").glob("python*/site-packages")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(packages)
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "venv/bin/python"


def check(script, folder, python=sys.executable):
    """What mypy finds in `script`, in a folder of the user's own."""
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python]
    command += ["--cache-dir", folder / "cache", "script.py"]
    settings = dict(os.environ)
    if python != sys.executable:
        settings.pop("PYTHONPATH", None)  # by which sources might come before what is installed
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)


def test_in_the_environment_of_an_editable_install(tmp_path):
    found = check(SCRIPT, tmp_path)
    assert found.returncode == 0, found.stdout


def test_with_the_wheel_installed(tmp_path, python_with_the_wheel):
    found = check(SCRIPT, tmp_path, python_with_the_wheel)
    assert found.returncode == 0, found.stdout


def test_what_is_wrong_is_found(tmp_path, python_with_the_wheel):
    found = check(WRONG, tmp_path, python_with_the_wheel)
    assert "sead" in found.stdout
    assert re.search(r"script.py:6: error: .*has no attribute .save", found.stdout)
