"""Pictures of a process whose locale has a decimal comma."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

DRAW = """
import hashlib, locale, sys
from ldm_engine import LDMTextToImagePipeline
locale.setlocale(locale.LC_ALL, "")
pipe = LDMTextToImagePipeline.from_pretrained(sys.argv[1], runtime=sys.argv[2])
settings = {"num_inference_steps": 2, "guidance_scale": 2.5, "eta": 0.5, "seed": 1}
images = [p("a", **settings, output_type="np").images for p in (pipe, pipe.clone())]
print(locale.localeconv()["decimal_point"], *(hashlib.sha256(i).hexdigest() for i in images))
"""


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "paddle"])
def test_a_decimal_comma_changes_nothing(tiny_bundle, tiny_onnx_bundle, decimal_comma, runtime):
    bundle = tiny_bundle if runtime == "paddle" else tiny_onnx_bundle
    shown = []
    for environment in ({"LC_ALL": "C.UTF-8"}, decimal_comma):
        done = subprocess.run(
            [sys.executable, "-c", DRAW, bundle.path, runtime],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment, "LDM_ENGINE_CACHE": "off"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        shown.append(done.stdout.split())
    assert [words[0] for words in shown] == [".", ","]
    assert len({digest for words in shown for digest in words[1:]}) == 1
