"""The rules of the house that a reader relies on, such as who imports whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ldm_engine
from conftest import ROOT

ENGINE, EXPORT = ROOT / "engine/ldm_engine", ROOT / "export/ldm_export"
#: From the ground up: a wing imports only those before it, and ``errors`` and ``version``.
WINGS = (
    "machine", "bundle", "runtimes", "sampling", "checks", "fitting", "rendering", "benchmarking",
    "commands",
)  # fmt: skip
LOOSE = {"__init__", "errors", "version"}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ENGINE.parent).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    """The modules that a module of the engine names in its import statements, ours and others."""
    package = path.relative_to(ENGINE.parent).parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{origin}.{alias.name}" for alias in node.names} | {origin}
    return names


MODULES = {_module(path): path for path in sorted(ENGINE.rglob("*.py"))}
#: Of each module of the engine, the others that it imports; packages are no one's to define things.
IMPORTS = {
    name: {n for n in _imports(path) if n in MODULES and n not in (name, "ldm_engine")}
    for name, path in MODULES.items()
}


def _wing(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_the_root_holds_wings_and_three_files():
    entries = {p.stem if p.suffix == ".py" else p.name for p in ENGINE.iterdir()}
    assert entries - {"__pycache__", "py.typed"} == {*WINGS, *LOOSE}


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_imports_only_the_wings_below_it(wing):
    lower = {*WINGS[: WINGS.index(wing) + 1], *LOOSE}
    upward = {
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if _wing(name) == wing and _wing(other) not in lower
    }
    assert not upward


def test_nobody_imports_the_public_names_from_within():
    """Of the package itself only ``errors`` and ``version``, which import no wing."""
    for name, path in MODULES.items():
        taken = {n for n in _imports(path) if n.startswith("ldm_engine.") and n.count(".") == 1}
        if name != "ldm_engine":
            assert taken <= {"ldm_engine.errors", "ldm_engine.version", *MODULES}, name
        if name in ("ldm_engine.errors", "ldm_engine.version"):
            assert not taken, name


def test_no_modules_import_each_other_in_a_circle():
    remaining = {n: {o for o in others if o != n} for n, others in IMPORTS.items()}
    while leaves := {n for n, others in remaining.items() if not others}:
        remaining = {n: o - leaves for n, o in remaining.items() if n not in leaves}
    assert not remaining


def test_packages_define_nothing():
    """An ``__init__`` names what its package offers; it holds no functions and no classes.

    That of the engine says it twice: to type checkers, and as what is imported when it is used.
    """
    for root in (ENGINE, EXPORT):
        for path in root.rglob("__init__.py"):
            held = [type(n) for n in ast.parse(path.read_text()).body]
            twice = {ast.If} if path == ENGINE / "__init__.py" else set()
            assert set(held) <= {ast.Expr, ast.Import, ast.ImportFrom, ast.Assign} | twice, path


def test_every_name_of_the_engine_is_there_when_it_is_used():
    for name in ldm_engine.__all__:
        assert getattr(ldm_engine, name) is not None
    code = "from ldm_engine import *; import ldm_engine; print(LDMTextToImagePipeline, render)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="pipelin"):
        ldm_engine.pipelin  # noqa: B018


def test_the_command_handles_signals_before_it_imports():
    code = (
        "import sys; before = set(sys.modules); import ldm_engine.commands.entry\n"
        "assert not {'numpy', 'click', 'rich', 'PIL', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_engine_never_imports_the_exporter():
    """Data moves from export to engine; only the command names it, and loads it when asked to."""
    assert not {
        name
        for name, path in MODULES.items()
        if any(n.startswith("ldm_export") for n in _imports(path))
    }
    naming = {name for name, path in MODULES.items() if '"ldm_export' in path.read_text()}
    assert naming == {"ldm_engine.commands.main"}


def test_rendering_stays_small():
    for room in (ENGINE / "rendering", ENGINE / "rendering" / "jobs"):
        files = [p for p in room.iterdir() if p.is_file()]
        assert len(files) <= 16
        assert not [p.name for p in files if len(p.read_text().splitlines()) > 250]


def test_every_module_says_in_its_docstring_what_it_owns():
    for path in [*ENGINE.rglob("*.py"), *EXPORT.rglob("*.py")]:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_importing_the_engine_imports_no_runtime():
    code = (
        "import sys, ldm_engine, ldm_engine.commands.main\n"
        "heavy = {'paddle', 'torch', 'openvino', 'onnxruntime', 'ldm_export'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_users_script_is_type_checked_strictly(tmp_path):
    """In the environment of this project's editable install, from a folder of the user's own."""
    script = tmp_path / "script.py"
    script.write_text(
        "from ldm_engine import LDMTextToImagePipeline\n"
        "with LDMTextToImagePipeline.from_pretrained('bundle') as pipe:\n"
        "    reveal_type(pipe('a red circle', seed=0).seeds)\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), script],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout
    assert "int, ...]" in found.stdout  # and no Any
