"""The benchmarks of GPUs as far as they go without one: who takes part, refusals, the command."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from conftest import ROOT
from ldm_engine.machine.device import Device
from ldm_engine.runtimes.choice import PREFERENCE, RUNTIMES
from peers import PEERS, Setup
from workload import GPU, PLANS

without_gpu = pytest.mark.skipif(
    any(not RUNTIMES[n].missing("fp16", Device("gpu", 0)) for n in PREFERENCE["gpu"]),
    reason="this machine has a GPU and a library for it",
)


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@without_gpu
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("agreement.py", ["BUNDLE", "--device", "gpu:0"]),
        ("suite.py", ["gpu", "BUNDLE", "CHECKPOINT", "--output", "OUT", "--conversions", "OUT"]),
    ],
)
def test_without_a_gpu_they_refuse_at_once(
    tiny_onnx_bundle, tiny_checkpoint, tmp_path, script, arguments
):
    out = tmp_path / "out"
    places = {"BUNDLE": tiny_onnx_bundle.path, "CHECKPOINT": tiny_checkpoint, "OUT": out}
    done = run(script, *(places.get(a, a) for a in arguments))
    assert done.returncode == 1
    assert "onnxruntime-gpu is not installed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (out / "samples.jsonl").exists()


def test_every_runtime_of_gpus_takes_part_against_torch():
    names = {name for name, entry in PEERS.items() if "gpu" in entry.devices}
    assert {GPU.reference, GPU.reduced_reference} <= names
    assert {PEERS[n].variant for n in names if PEERS[n].is_ours} == set(PREFERENCE["gpu"])
    assert {"diffusers-eager-fp16", "diffusers-compile-fp16"} <= names
    assert not any(name.startswith("straight") for name in names)


def test_no_peer_of_gpus_alone_is_measured_on_the_cpu():
    on_cpu = {name for name, entry in PEERS.items() if "cpu" in entry.devices}
    assert not any(name.endswith("fp16") or "tensorrt" in name for name in on_cpu)


def test_the_script_that_runs_it_all_calls_what_there_is():
    text = (ROOT / "benchmarks/gpu/run.sh").read_text()
    scripts = re.findall(r"(?:benchmarks|examples)/\w+\.py", text)
    assert len(scripts) == 3
    assert all((ROOT / script).is_file() for script in scripts)
    assert re.search(r"suite\.py (\w+)", text)[1] in PLANS
    subprocess.run(["sh", "-n", str(ROOT / "benchmarks/gpu/run.sh")], check=True)


def test_tf32_is_off_before_torch_computes(tiny_checkpoint, tmp_path):
    torch = pytest.importorskip("torch")
    from peers import Sources, kind_of

    torch.backends.cudnn.allow_tf32 = True
    sources = Sources(tmp_path, tiny_checkpoint, tmp_path)
    kind_of("diffusers-eager-fp32")(sources, Setup("eager", "fp32", "cpu", 2))
    assert not torch.backends.cudnn.allow_tf32
