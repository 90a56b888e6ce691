"""What is installed: the unit tests pass, another project finds the package and uses it."""

from __future__ import annotations

import re
import subprocess

import numpy as np
from PIL import Image

from conftest import ROOT
from cpp_builds import BUILD, CPP, configure_and_build, run
from ldm_engine import LDMTextToImagePipeline, __version__

CONSUMER = CPP / "examples" / "consumer"
PIXEL_TOLERANCE = 1


def test_the_unit_tests_pass(cpp_build, shapes_bundle, decimal_comma):
    run(
        cpp_build.tree / "tests/ldm_engine_tests",
        env={"LDM_ENGINE_TEST_BUNDLE": shapes_bundle.path, "LOCPATH": decimal_comma["LOCPATH"]},
    )


def test_the_program_in_the_readme_is_the_consumer_example():
    blocks = re.findall(r"```cpp\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert (CONSUMER / "main.cpp").read_text() in blocks


def test_the_program_in_the_documentation_compiles(cpp_build):
    document = (ROOT / "docs/cpp.md").read_text()
    for code in re.findall(r"```cpp\n(.*?)```", document, re.DOTALL):
        command = ["c++", "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
        include = f"-I{cpp_build.prefix}/include"
        subprocess.run([*command, include], input=code, text=True, check=True)


def test_the_consumer_finds_the_package_and_draws(cpp_build, shapes_bundle, tmp_path):
    tree = BUILD / "consumer"
    configure_and_build(CONSUMER, tree, f"-DCMAKE_PREFIX_PATH={cpp_build.prefix}")
    run("cmake", "-E", "chdir", tmp_path, tree / "consumer", shapes_bundle.path)
    pipe = LDMTextToImagePipeline.from_pretrained(shapes_bundle.path, runtime="openvino")
    (expected,) = pipe("a small red circle on the left", guidance_scale=2, seed=0).images
    given = np.asarray(Image.open(tmp_path / "picture.png")).astype(int)
    assert np.abs(given - np.asarray(expected)).max() <= PIXEL_TOLERANCE


def test_the_version_is_that_of_the_project(cpp_build):
    assert __version__ in run(cpp_build.generate, "--version").stdout
    package = next(cpp_build.prefix.glob("lib*/**/ldm_engine-config-version.cmake"))
    assert f'PACKAGE_VERSION "{__version__}"' in package.read_text()


def test_no_header_of_a_runtime_leaks_into_ours(cpp_build):
    for header in (cpp_build.prefix / "include").rglob("*.h*"):
        included = re.findall(r"#include [<\"]([^>\"]+)", header.read_text())
        assert not [name for name in included if "/" in name and not name.startswith("ldm_engine/")]


def test_the_library_shows_its_own_names_only(cpp_build):
    shown = subprocess.run(
        ["nm", "--dynamic", "--defined-only", "--demangle", cpp_build.library],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    names = [line.split(maxsplit=2)[2] for line in shown]
    assert "ldm_engine_open" in names
    assert "typeinfo for ldm_engine::Error" in names
    own = re.compile(r"((typeinfo( name)?|vtable) for ldm_engine::|ldm_engine(_|::))")
    assert not [n for n in names if not own.match(n)], names
