"""Fixtures: the command on a tiny bundle, and with a folder that lasts for a module."""

from __future__ import annotations

import pytest

from rendering_runs import Runs


@pytest.fixture
def runs(tiny_bundle, tmp_path):
    return Runs(tiny_bundle.path, tmp_path)


@pytest.fixture(scope="module")
def crash_runs(tiny_onnx_bundle, tmp_path_factory):
    return Runs(tiny_onnx_bundle.path, tmp_path_factory.mktemp("crashes"))
