"""Bundles of every format version ever written open, verify and render the same bytes.

``tests/data/make_kept_bundle.py`` says how one is made.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from conftest import DATA
from ldm_engine import LDMTextToImagePipeline, open_bundle
from ldm_engine.checks.references import load_references, sample
from ldm_engine.checks.verification import check_runtime
from ldm_engine.runtimes.choice import RuntimeOptions, choose_runtime

KEPT = sorted(path.stem for path in DATA.glob("bundle-v*.json"))
RUNTIMES = ("openvino", "onnxruntime")


@pytest.fixture(params=KEPT)
def kept(request):
    return DATA / request.param


def test_a_bundle_of_each_older_version_is_kept():
    assert KEPT[0] == "bundle-v1"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_renders_the_same_bytes(kept, runtime):
    expected = json.loads(kept.with_suffix(".json").read_text())
    pipe = LDMTextToImagePipeline.from_pretrained(kept, runtime=runtime)
    pixels = np.asarray(pipe(**expected["request"]).images[0])
    assert (pixels == np.asarray(Image.open(kept.with_suffix(".png")))).all()
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == expected["pixels_sha256"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_verifies(kept, runtime):
    bundle = open_bundle(kept)
    bundle.check_files()
    references = load_references(bundle)
    choice = choose_runtime(bundle, runtime)
    findings = check_runtime(bundle, choice, RuntimeOptions(), references, sample)
    assert len(findings) == 10
    assert all(finding.passed for finding in findings)
