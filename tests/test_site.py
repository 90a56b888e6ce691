"""The documents as a site: built strictly, without a network, and loading nothing of others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ldm_engine
from conftest import ROOT

#: The command mkdocs, where a network is an error.
OFFLINE = """
import runpy, socket
def refuse(*arguments, **options): raise OSError("The site is to be built without a network.")
socket.socket.connect = socket.getaddrinfo = refuse
runpy.run_module("mkdocs", run_name="__main__")
"""
#: What a page loads by itself; links may lead anywhere.
LOADED = re.compile(
    r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\s\"'>]+)"
)
IN_STYLES = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, "build", "--strict", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_document_has_a_page(site):
    for path in (ROOT / "docs").glob("*.md"):
        assert (site / "docs" / f"{path.stem}.html").exists(), path.name


def test_every_public_name_is_in_the_reference(site):
    page = (site / "docs" / "site" / "reference.html").read_text()
    for name in set(ldm_engine.__all__) - {"__version__", "errors", "LDMEngineError"}:
        assert f'id="ldm_engine.{name}"' in page, name
    assert 'id="ldm_engine.LDMTextToImagePipeline.__call__"' in page
    assert 'id="ldm_engine.errors.LDMEngineError"' in page


def test_the_tour_has_a_page(site):
    page = (site / "examples" / "tour.ipynb.html").read_text()
    assert "from_pretrained" in page
    assert 'href="../docs/rendering.html"' in page


def test_pages_load_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        assert not LOADED.findall(path.read_text()), path
    for path in site.rglob("*.css"):
        assert not IN_STYLES.search(path.read_text()), path
