from __future__ import annotations

import pytest

from ldm_engine.rendering.renderer import RendererSettings
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.choice import RUNTIMES


@pytest.mark.parametrize(
    ("runtime", "again_with"),
    [
        ("paddle", "paddle"),
        ("openvino", "openvino"),
        ("tensorrt", "paddle"),
        ("onnxruntime-tensorrt", "onnxruntime"),
    ],
)
def test_a_bad_image_is_rendered_again_by_who_can_do_fp32(runtime, again_with):
    device = "cpu" if "cpu" in RUNTIMES[runtime].precisions else "gpu:0"
    options = RuntimeOptions(device=device, precision="fp16")
    settings = RendererSettings("bundle", "digest", runtime, options, "png", 90)
    assert settings.runtime_for("fp16") == runtime
    assert settings.runtime_for("fp32") == again_with
    kind = "cpu" if device == "cpu" else "gpu"
    assert "fp32" in RUNTIMES[again_with].precisions[kind]
