"""How much ``ldm-engine generate`` holds at once, on the CPU and on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.commands import main as cli
from ldm_engine.commands import memory
from ldm_engine.commands.memory import choose_memory
from ldm_engine.machine.gpu import GPU
from ldm_engine.sampling.opening import open_to_run


@pytest.mark.parametrize(
    ("mode", "free", "sequential"),
    [
        ("auto", 1000, True),
        ("auto", 0, True),
        ("auto", 1 << 50, False),
        ("auto", None, False),  # cannot be told
        ("resident", 1000, False),
        ("sequential", 1 << 50, True),
    ],
)
def test_memory_is_chosen_and_printed(
    tiny_onnx_bundle, tmp_path, monkeypatch, capsys, mode, free, sequential
):
    modes = []

    def from_opened(opened, memory):
        modes.append(memory)
        return open_pipeline(opened, memory)

    open_pipeline = LDMTextToImagePipeline.from_opened
    monkeypatch.setattr(LDMTextToImagePipeline, "from_opened", from_opened)
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: free)
    arguments = ["generate", tiny_onnx_bundle.path, "a", "-o", tmp_path, "--seed", 0]
    arguments += ["--num-inference-steps", 1, "--memory", mode, "--runtime", "onnxruntime"]
    cli.cli.main([str(a) for a in arguments], standalone_mode=False)
    assert modes == ["sequential" if sequential else "resident"]
    is_printed = "--memory sequential" in capsys.readouterr().err
    assert is_printed == (sequential and mode == "auto")
    assert (tmp_path / "a-0.png").exists()


def test_half_of_the_free_memory_is_enough(tiny_onnx_bundle, monkeypatch):
    """Counted are the files of the runtime, and of what makes pictures from text."""
    opened = open_to_run(tiny_onnx_bundle.path, runtime="onnxruntime")
    files = tiny_onnx_bundle.files
    wanted = [n for n in files if "/model.onnx" in n and not n.startswith("vae_encoder/")]
    needed = sum(files[n].bytes for n in wanted)
    for free, expected in ((2 * needed, "resident"), (2 * needed - 1, "sequential")):
        monkeypatch.setattr(memory, "free_memory_bytes", lambda free=free: free)
        assert choose_memory("auto", opened) == expected


def test_on_a_gpu_its_own_memory_counts(tiny_onnx_bundle, monkeypatch):
    opened = open_to_run(tiny_onnx_bundle.path, runtime="onnxruntime")
    opened = replace(opened, options=replace(opened.options, device="gpu:0"))
    for size, expected in ((1000, "sequential"), (24 << 30, "resident")):
        gpu = GPU(0, "NVIDIA A10", (8, 6), size)
        monkeypatch.setattr(memory, "find_gpu", lambda index, gpu=gpu: gpu)
        assert choose_memory("auto", opened) == expected
    assert choose_memory("resident", opened) == "resident"
