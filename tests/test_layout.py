"""The rules of the house that a reader relies on: who imports whom, and what the wheel holds."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

FOLDERS = ("engine", "export", "tests", "examples", "benchmarks")
SOURCES = [p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))]


def _absolute_imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nobody_imports_the_folders_by_their_bare_names(path):
    assert not {n for n in _absolute_imports(path) if n.split(".")[0] in ("engine", "export")}


def test_the_engine_never_imports_the_exporter():
    """Data moves from export to engine; only the command reaches back, when asked to export."""
    reaching = {
        str(path.relative_to(ROOT / "engine"))
        for path in (ROOT / "engine").rglob("*.py")
        if any(n.startswith("ldm_engine.export") for n in _absolute_imports(path))
    }
    assert reaching == {"cli.py"}


def test_every_module_says_in_its_docstring_what_it_owns():
    for path in [*(ROOT / "engine").rglob("*.py"), *(ROOT / "export").rglob("*.py")]:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_importing_the_engine_imports_no_runtime():
    code = (
        "import sys, ldm_engine, ldm_engine.cli\n"
        "heavy = {'paddle', 'torch', 'openvino', 'onnxruntime', 'ldm_engine.export'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_wheel_holds_the_two_packages_and_nothing_else(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    expected = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in (("engine", "ldm_engine"), ("export", "ldm_engine/export"))
        for pattern in ("*.py", "*.html", "py.typed")
        for path in (ROOT / folder).rglob(pattern)
    }
    assert names == expected
