"""How much ``ldm-engine generate`` holds at once, on the CPU and on a GPU."""

from __future__ import annotations

import pytest

from ldm_engine import LDMTextToImagePipeline
from ldm_engine.commands import main as cli
from ldm_engine.commands import memory
from ldm_engine.commands.memory import choose_memory
from ldm_engine.machine.gpu import GPU
from ldm_engine.runtimes.choice import choose_runtime


@pytest.mark.parametrize(
    ("asked", "free", "sequential"),
    [
        ("auto", 1000, True),
        ("auto", 0, True),
        ("auto", 1 << 50, False),
        ("auto", None, False),  # cannot be told
        ("resident", 1000, False),
        ("sequential", 1 << 50, True),
    ],
)
def test_memory_is_chosen_and_told(
    tiny_onnx_bundle, tmp_path, monkeypatch, capsys, asked, free, sequential
):
    opened = {}

    def from_pretrained(path, **options):
        opened.update(options)
        return open_pipeline(path, **options)

    open_pipeline = LDMTextToImagePipeline.from_pretrained
    monkeypatch.setattr(LDMTextToImagePipeline, "from_pretrained", from_pretrained)
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: free)
    arguments = ["generate", tiny_onnx_bundle.path, "a", "-o", tmp_path, "--seed", 0]
    arguments += ["--num-inference-steps", 1, "--memory", asked, "--runtime", "onnxruntime"]
    cli.cli.main([str(a) for a in arguments], standalone_mode=False)
    assert opened["memory"] == ("sequential" if sequential else "resident")
    told = "--memory sequential" in capsys.readouterr().err
    assert told == (sequential and asked == "auto")
    assert (tmp_path / "a-0.png").exists()


def test_half_of_the_free_memory_is_enough(tiny_onnx_bundle, monkeypatch):
    """Counted are the files of the runtime that is used, not all of the bundle's."""
    choice = choose_runtime(tiny_onnx_bundle, "onnxruntime")
    files = tiny_onnx_bundle.files
    needed = sum(files[n].bytes for n in files if "/model.onnx" in n)
    for free, expected in ((2 * needed, "resident"), (2 * needed - 1, "sequential")):
        monkeypatch.setattr(memory, "free_memory_bytes", lambda free=free: free)
        assert choose_memory("auto", tiny_onnx_bundle, choice, "fp32", "cpu") == expected


def test_on_a_gpu_its_own_memory_counts(tiny_onnx_bundle, monkeypatch):
    choice = choose_runtime(tiny_onnx_bundle, "onnxruntime")
    for size, expected in ((1000, "sequential"), (24 << 30, "resident")):
        gpu = GPU(0, "NVIDIA A10", (8, 6), size)
        monkeypatch.setattr(memory, "find_gpu", lambda index, gpu=gpu: gpu)
        assert choose_memory("auto", tiny_onnx_bundle, choice, "fp32", "gpu:0") == expected
    assert choose_memory("resident", tiny_onnx_bundle, choice, "fp32", "gpu:0") == "resident"
