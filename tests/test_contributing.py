"""The lists in CONTRIBUTING.md are held to the code: what is named is there, and all is named."""

from __future__ import annotations

import re
import subprocess

import pytest

from conftest import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SOURCES = ("engine", "export", "cpp/src", "cpp/include", "pyproject.toml")
#: A name that stands for one of its kind, and files that name it without being about it.
PROBES = {
    "Add a setting": (
        "eta",
        {
            "engine/ldm_engine/checks/cases.py",  # the fixed loop of verification
            "engine/ldm_engine/commands/bench_tables.py",
            "engine/ldm_engine/rendering/call.py",  # documentation
            "export/ldm_export/verify.py",  # DDIM written out, to verify with
            # DDIM's own parameter
            "engine/ldm_engine/sampling/solvers.py",
            "cpp/src/sampling/solvers.cpp",
            "cpp/src/sampling/solvers.hpp",
        },
    ),
    "Add a solver": (
        "ddim_rows",
        {"engine/ldm_engine/fitting/tables.py"},  # what fitted solvers are compared with
    ),
    "Add a program": (
        "vae_decoder",
        {
            "engine/ldm_engine/commands/bench_tables.py",  # a unit in a table
            "engine/ldm_engine/runtimes/base.py",  # it overflows in fp16
        },
    ),
    "Add a runtime": ("ONNXRuntimeRuntime", {"engine/ldm_engine/runtimes/onnxruntime.py"}),
    "Add a format": ("write_openvino", {"export/ldm_export/formats/openvino.py"}),
    "Add a command": ("commands.verify", set()),
}


def _section(title):
    return re.search(rf"^### {title}\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)[1]


def _paths(text):
    names = re.findall(r"`([\w./]+\.(?:py|cpp|hpp|h|toml|md))`", text)
    return {name for name in names if "/" in name or name == "pyproject.toml"}


@pytest.mark.parametrize("path", sorted(_paths(TEXT)))
def test_what_is_named_is_there(path):
    if "NAME" not in path:
        assert (ROOT / path).exists()


@pytest.mark.parametrize("title", PROBES)
def test_no_file_is_missing_from_a_list(title):
    probe, about_others = PROBES[title]
    found = subprocess.run(
        ["git", "grep", "--no-index", "--exclude-standard", "-Ilw", "-e", probe, "--", *SOURCES],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert set(found) <= _paths(_section(title)) | about_others
    assert set(found) >= about_others
