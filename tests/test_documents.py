"""The documents' code is run, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from conftest import ROOT
from ldm_engine.commands.main import cli

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "examples/shapes/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = ("engine", "export", "tests", "benchmarks", "examples")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


def _blocks(language):
    return [
        pytest.param(match[2], id=f"{path.name}-{i}")
        for path in DOCUMENTS
        for i, match in enumerate(FENCE.finditer(path.read_text()))
        if match[1] == language
    ]


@pytest.mark.parametrize("code", _blocks("python"))
def test_python_blocks_run(code, shapes_bundle, tmp_path, monkeypatch):
    """As printed, in a folder where `make demo` has run."""
    (tmp_path / "demo-output").mkdir()
    (tmp_path / "demo-output/bundle").symlink_to(shapes_bundle.path)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("code", _blocks("sh"))
def test_commands_in_sh_blocks_exist(code):
    """Every `ldm-engine` line is parsed by the command, and every make target exists."""
    makefile = (ROOT / "Makefile").read_text()
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["ldm-engine"]:
            command = cli.get_command(click.Context(cli), words[1])
            assert command is not None, line
            command.make_context(words[1], words[2:])
        elif words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path):
    for target in LINK.findall(FENCE.sub("", path.read_text())):  # C++ has brackets like a link's
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), target


def test_every_file_that_is_named_is_there():
    """In documents, docstrings and comments; a path is meant from the root or from its package."""
    pattern = re.compile(
        r"(?<![\w/.-])((?:engine|export|ldm_engine|ldm_export|tests|docs|benchmarks|examples)/"
        r"[\w./-]+\.(?:py|md|json|html))\b"
    )
    sources = [*DOCUMENTS, *(p for d in SOURCES for p in (ROOT / d).rglob("*.py"))]
    for path in sources:
        for name in pattern.findall(path.read_text()):
            places = (
                ROOT / name,
                path.parent / name,
                ROOT / "engine" / name,
                ROOT / "export" / name,
            )
            assert "NAME" in name or any(p.exists() for p in places), f"{path} names {name}"
