"""The benchmark scripts run, at the demo's size, and runtimes agree as documented."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import agreement
from conftest import ROOT
from ldm_engine.machine.cpu import supports_bf16

#: Of 8-bit values, between runtimes in fp32 after a whole loop. Seen: 1, in a few of 100,000.
MAX_DIFFERENCE = 2
#: Of 8 captions, how many pictures a lower precision may spoil. Seen: none of 400.
MAX_SPOILT = 1 / 8


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_every_runtime_and_precision_draws_its_captions(shapes_bundle, tmp_path):
    rows = agreement.measure(shapes_bundle, captions=8, steps=20, seed=0, sheets=tmp_path)
    found = {(row["runtime"], row["precision"]) for row in rows}
    assert found >= {("paddle", "fp32"), ("openvino", "fp32"), ("onnxruntime", "fp32")}
    assert ("openvino", "int8") in found
    assert not supports_bf16() or found >= {("paddle", "bf16"), ("openvino", "bf16")}
    for row in rows:
        if row["precision"] == "fp32":
            assert row["largest_difference"] <= MAX_DIFFERENCE, row
        for name in ("color_and_place", "shape"):
            assert row["rates"][name] >= rows[0]["rates"][name] - MAX_SPOILT, row
    lines = agreement.to_markdown(rows).splitlines()
    assert len(lines) == len(rows) + 2
    assert len({line.count("|") for line in lines}) == 1
    assert "device" not in lines[0]
    assert "openvino-int8.png" in {path.name for path in tmp_path.iterdir()}


def test_far_pictures_fail(tiny_bundle, monkeypatch, capsys):
    far = {"runtime": "paddle", "precision": "fp16", "device": "gpu:0", "programs": {}}
    far |= {"largest_difference": 99, "psnr_median": 34.0, "psnr_p10": 30.0, "psnr_least": 20.0}
    far["rates"] = dict.fromkeys(("color_and_place", "shape", "background"), 1.0)
    near = {**far, "precision": "fp32", "device": "cpu", "psnr_median": 120.0}
    monkeypatch.setattr(agreement, "measure", lambda *_: [near, far])
    monkeypatch.setattr(sys, "argv", ["agreement.py", str(tiny_bundle.path)])
    with pytest.raises(SystemExit, match="paddle fp16 are further off"):
        agreement.main()
    assert "| paddle | fp16 | gpu:0 | 99/255 | 34.0 dB |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "arguments", "printed"),
    [
        ("render_resume.py", ["--rows", "5"], "5 rows: "),
        ("render_throughput.py", ["--rounds", "2", "--images", "4"], "ratio_of_throughputs"),
    ],
)
def test_rendering_is_measured(tiny_onnx_bundle, script, arguments, printed):
    options = ["--num-inference-steps", "2"] if "throughput" in script else []
    assert printed in run(script, tiny_onnx_bundle.path, *arguments, *options)


@pytest.mark.parametrize("program", ["unet", "vae_decoder"])
def test_two_graphs_are_measured_in_turn(shapes_bundle, program):
    graph = shapes_bundle.program_files(program, "openvino")[0]
    settings = f"{graph},SNIPPETS_MODE=DISABLE"
    shown = run(
        "two_graphs.py", shapes_bundle.path, graph, settings, "--program", program, "--rounds", "6"
    )
    found = json.loads(shown)
    assert found["second_over_first"] > 0
    assert found["relative_l2"] < 1e-5


def test_the_loop_and_a_process_are_measured(shapes_bundle):
    for solver in ("ddim", "fitted"):
        assert "outside run()" in run("accounting.py", shapes_bundle.path, "--solver", solver)
    assert "GiB anonymous" in run("process.py", sys.executable, "-c", "bytes(1 << 24)")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    assert agreement.compare(images, images)["psnr_median"] > 100
