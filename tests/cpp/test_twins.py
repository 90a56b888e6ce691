"""C++ files stand in the wings of their Python twins, under the same names, and name each other."""

from __future__ import annotations

import re

import pytest

from conftest import ROOT

SRC, ENGINE = ROOT / "cpp/src", ROOT / "engine/ldm_engine"
#: Each may include itself and those before it.
WINGS = ("machine", "bundle", "runtimes", "sampling")
#: The public headers that declare a type which headers of `src` use.
DECLARING = {"ldm_engine/options.hpp", "ldm_engine/request.hpp", "ldm_engine/image.hpp"}
MENTION = re.compile(r"(?<![\w/])cpp/[\w/]+\.(?:cpp|hpp|inc|txt|map|py)\b")
FILES = sorted(path for path in SRC.glob("*/*") if path.suffix in (".hpp", ".cpp"))
HEADERS = [path for path in FILES if path.suffix == ".hpp"]


def _name(path):
    return str(path.relative_to(SRC))


def _includes(path):
    return re.findall(r'#include "([^"]+)"', path.read_text())


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_wing_includes_lower_ones_alone(path):
    allowed = {*WINGS[: WINGS.index(path.parent.name) + 1], "ldm_engine"}
    for include in _includes(path):
        assert include.rpartition("/")[0] in allowed | {""}, include


@pytest.mark.parametrize("path", HEADERS, ids=_name)
def test_a_header_includes_no_public_one_but_for_a_type(path):
    assert {i for i in _includes(path) if i.startswith("ldm_engine/")} <= DECLARING


@pytest.mark.parametrize("path", HEADERS, ids=_name)
def test_a_header_names_its_twin_and_the_vectors(path):
    comment = re.match(r"(//.*\n)+", path.read_text())
    assert comment is not None
    said = comment.group().replace("\n//", "")
    twin = f"engine/ldm_engine/{_name(path.with_suffix('.py'))}"
    assert (twin in said) == (ROOT / twin).exists(), twin
    for name in re.findall(r"tests/data/\w+\.json", said):
        assert (ROOT / name).exists(), name


def test_every_mention_of_a_file_in_cpp_leads_to_one():
    texts = [*(ROOT / "docs").glob("*.md"), *ENGINE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    for text in texts:
        for name in MENTION.findall(text.read_text()):
            assert (ROOT / name).exists(), f"{text} names {name}"
