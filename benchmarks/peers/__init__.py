"""Who is measured, by name; a peer's module is imported only when its turn comes."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from ldm_engine.machine.environment import versions

from .contract import Peer, Sources

__all__ = ["PEERS", "Entry", "Peer", "Sources", "missing", "open_peer", "peer_files"]


@dataclass(frozen=True)
class Entry:
    """How a peer is opened, and what a reader should know about its setup."""

    place: str  #: module and class
    variant: str  #: what the class is told, such as a runtime
    precision: str
    title: str
    needs: tuple[str, ...]  #: distributions
    setup: str

    @property
    def is_ours(self) -> bool:
        """Whether it is this project that is measured."""
        return self.place.startswith("ours:")


_TORCH = ("torch", "diffusers", "transformers")
_OURS = (
    "ldm_engine.LDMTextToImagePipeline, programs resident, compiled-model cache on; Paddle's "
    "malloc keeps its blocks"
)
_EAGER = (
    "diffusers' LDMTextToImagePipeline as published, inference mode, plain malloc; in bf16 its "
    "pixels are widened to fp32, without which it fails"
)
_COMPILED = _EAGER + "; UNet, text encoder and decoder through torch.compile (inductor), static"
_OPENVINO = (
    "diffusers' components converted by openvino.convert_model, weights not compressed, reshaped "
    "to static shapes, latency hint, compiled-model cache on, inputs shared; a loop in NumPy with "
    "diffusers' DDIMScheduler and transformers' tokenizer, which import torch"
)
_ONNX = (
    "diffusers' components through torch.onnx.export (opset 17), free dimensions fixed, all graph "
    "optimizations anew at each start; the same loop"
)
_DYGRAPH = (
    "this project's paddle.nn models before export, no_grad, default flags, which use no oneDNN; "
    "the same loop"
)


def _ours(runtime: str, precision: str, title: str, needs: str) -> Entry:
    return Entry("ours:Ours", runtime, precision, f"ldm-engine, {title}", (needs,), _OURS)


PEERS: dict[str, Entry] = {
    "ours-openvino-fp32": _ours("openvino", "fp32", "OpenVINO", "openvino"),
    "ours-openvino-bf16": _ours("openvino", "bf16", "OpenVINO", "openvino"),
    "ours-openvino-int8": _ours("openvino", "int8", "OpenVINO", "openvino"),
    "ours-onnxruntime-fp32": _ours("onnxruntime", "fp32", "ONNX Runtime", "onnxruntime"),
    "ours-paddle-fp32": _ours("paddle", "fp32", "Paddle Inference", "paddlepaddle"),
    "ours-paddle-bf16": _ours("paddle", "bf16", "Paddle Inference", "paddlepaddle"),
    **{
        f"diffusers-eager-{precision}": Entry(
            "diffusers:Diffusers", "eager", precision, "diffusers, torch eager", _TORCH, _EAGER
        )
        for precision in ("fp32", "bf16")
    },
    **{
        f"diffusers-compile-{precision}": Entry(
            "diffusers:Diffusers",
            "compile",
            precision,
            "diffusers, torch.compile",
            _TORCH,
            _COMPILED,
        )
        for precision in ("fp32", "bf16")
    },
    **{
        f"straight-openvino-{precision}": Entry(
            "straight_openvino:StraightOpenVINO",
            "",
            precision,
            "diffusers converted straight to OpenVINO",
            (*_TORCH, "openvino"),
            _OPENVINO,
        )
        for precision in ("fp32", "bf16")
    },
    "straight-onnxruntime-fp32": Entry(
        "straight_onnxruntime:StraightONNXRuntime",
        "",
        "fp32",
        "diffusers converted straight to ONNX Runtime",
        (*_TORCH, "onnxruntime", "onnx"),
        _ONNX,
    ),
    "paddle-dygraph-fp32": Entry(
        "paddle_dygraph:PaddleDygraph",
        "",
        "fp32",
        "Paddle dygraph",
        ("paddlepaddle", "diffusers", "transformers", "torch"),
        _DYGRAPH,
    ),
}


def missing(name: str) -> str | None:
    """What the peer called `name` lacks on this machine, or None."""
    lacking = [n for n, version in versions(PEERS[name].needs).items() if version is None]
    return f"not installed: {', '.join(lacking)}" if lacking else None


def open_peer(name: str, sources: Sources, threads: int) -> Peer:
    """The peer called `name`, its weights loaded."""
    entry = PEERS[name]
    return _kind(entry)(sources, entry.variant, entry.precision, threads)


def peer_files(name: str, sources: Sources) -> list[Path]:
    """What the peer called `name` reads from disk to run."""
    entry = PEERS[name]
    return _kind(entry).files(sources, entry.variant, entry.precision)


def _kind(entry: Entry) -> type[Peer]:
    module, _, name = entry.place.partition(":")
    kind: type[Peer] = getattr(importlib.import_module(f"peers.{module}"), name)
    return kind
