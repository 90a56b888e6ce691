"""Wheel and source distribution: what they hold, that builds agree, what an index page shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from conftest import ROOT

PACKAGES = (ROOT / "engine/ldm_engine", ROOT / "export/ldm_export")
TARGET = re.compile(r"\]\(([^)\s]*)")  # of links and pictures in Markdown


def _build(source: Path, target: Path, *options: str, umask: int = 0o022) -> tuple[bytes, bytes]:
    """Bytes of wheel and source distribution."""
    environment = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
    done = subprocess.run(
        [sys.executable, "-m", "build", *options, "--outdir", target, source],
        check=False, capture_output=True, text=True, env=environment, umask=umask,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (archive,) = target.glob("*.whl"), target.glob("*.tar.gz")
    return wheel.read_bytes(), archive.read_bytes()


def _tracked() -> list[str]:
    """Files of the checkout, or of the unpacked source distribution."""
    if not (ROOT / ".git").exists():
        pytest.skip("This is no checkout: what git holds cannot be asked.")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, bytes, bytes]:
    """A folder with both; the wheel is built from the unpacked source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    return folder, *_build(ROOT, folder)


def test_the_wheel_holds_the_two_packages_and_nothing_else(built):
    (path,) = built[0].glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    assert names == {
        path.relative_to(package.parent).as_posix()
        for package in PACKAGES
        for pattern in ("*.py", "*.html", "py.typed")
        for path in package.rglob(pattern)
    }


def test_the_source_distribution_holds_the_whole_checkout(built):
    (path,) = built[0].glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names == {*_tracked(), "PKG-INFO"}


def test_two_builds_give_the_same_bytes(built, tmp_path):
    """From another folder, with other times and modes, and the wheel from the checkout itself."""
    for name in _tracked():
        target = tmp_path / "elsewhere" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)  # written now
        target.chmod(0o700 if os.access(ROOT / name, os.X_OK) else 0o600)
    wheel, archive = _build(
        tmp_path / "elsewhere", tmp_path / "dist", "--sdist", "--wheel", umask=0o077
    )
    assert wheel == built[1]
    assert archive == built[2]


def test_the_index_page_has_no_link_that_leads_nowhere(built):
    """It has no files beside it and no anchors; what is relative in the README is text there."""
    (path,) = built[0].glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        page = archive.read(name).decode().partition("\n\n")[2]
    links = TARGET.findall(page)
    assert not [link for link in links if not link.startswith(("https://", "http://"))]
    readme = (ROOT / "README.md").read_text()
    assert {link for link in TARGET.findall(readme) if link.startswith("http")} <= set(links)
    assert "\n## In Python\n" in page
    assert "`docs/images/demo.png`" in page
    assert "<!-- measured: begin -->" in page
    assert "≠" in page
