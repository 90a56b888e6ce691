"""The benchmark scripts run, at the demo's size, and what they say of agreement holds."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

import agreement
from conftest import ROOT
from ldm_engine.machine.cpu import supports_bf16

#: Of 8-bit values, between runtimes in fp32 after a whole loop. Seen: 1, in a few of 100,000.
MAX_DIFFERENCE = 2
#: Of 8 captions, how many pictures a narrower precision may spoil. Seen: none of 400.
MAX_SPOILT = 1 / 8


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_every_runtime_and_precision_draws_what_was_asked_for(shapes_bundle):
    rows = agreement.measure(shapes_bundle, captions=8, steps=20, seed=0)
    found = {(row["runtime"], row["precision"]) for row in rows}
    assert found >= {("paddle", "fp32"), ("openvino", "fp32"), ("onnxruntime", "fp32")}
    assert ("openvino", "int8") in found
    assert not supports_bf16() or found >= {("paddle", "bf16"), ("openvino", "bf16")}
    for row in rows:
        if row["precision"] == "fp32":
            assert row["largest_difference"] <= MAX_DIFFERENCE, row
        for name in ("color_and_place", "shape"):
            assert row["rates"][name] >= rows[0]["rates"][name] - MAX_SPOILT, row
    lines = agreement.table(rows).splitlines()
    assert len(lines) == len(rows) + 2
    assert len({line.count("|") for line in lines}) == 1


def test_the_loop_and_a_process_are_measured(shapes_bundle):
    assert "outside run()" in run("accounting.py", shapes_bundle.path)
    assert "GiB anonymous" in run("process.py", sys.executable, "-c", "bytes(1 << 24)")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    assert agreement.compare(images, images)["psnr_median"] > 100
