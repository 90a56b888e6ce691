"""The C++ library and command, built once for all tests of this folder."""

from __future__ import annotations

import pytest

from cpp_builds import BUILD, CPP, Build, configure_and_build


@pytest.fixture(scope="session")
def cpp_build() -> Build:
    """Library, command and tests, built and installed."""
    build = Build(BUILD / "release", BUILD / "install")
    configure_and_build(CPP, build.tree, "-DLDM_ENGINE_WERROR=ON", prefix=build.prefix)
    return build
