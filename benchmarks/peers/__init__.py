"""Who is measured, by name; a peer's module is imported only when its turn comes."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from ldm_engine.runtimes.choice import PRECISIONS, RUNTIMES

from .contract import Peer, Setup, Sources
from .environments import PPDIFFUSERS, Environment, lacking

__all__ = ["PEERS", "Entry", "Peer", "Setup", "Sources", "kind_of", "missing"]


@dataclass(frozen=True)
class Entry:
    """How a peer is opened, and what a reader should know about its setup."""

    place: str  #: module and class
    variant: str  #: what the class distinguishes, such as a runtime
    precision: str
    title: str
    needs: tuple[str, ...]  #: distributions
    setup: str
    devices: tuple[str, ...] = ("cpu",)  #: the kinds it runs on
    environment: Environment | None = None  #: whose Python runs it; None: this one

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
_PPDIFFUSERS = (
    "ppdiffusers' LDMTextToImagePipeline as published, in an environment of its own, over the "
    "checkpoint in its own layout, no_grad, default flags; in bf16 Paddle lacks kernels for CPUs"
)


_TITLES = {
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-mapped": "ONNX Runtime, mapped",
    "paddle": "Paddle Inference",
    "tensorrt": "Paddle with TensorRT",
    "onnxruntime-tensorrt": "ONNX Runtime with TensorRT",
}


def _ours() -> dict[str, Entry]:
    """Every runtime in every precision."""
    entries = {}
    for name, runtime in RUNTIMES.items():
        for precision in PRECISIONS:
            devices = tuple(k for k, offered in runtime.precisions.items() if precision in offered)
            if devices:
                title = f"ldm-engine, {_TITLES.get(name, name)}"
                entries[f"ours-{name}-{precision}"] = Entry(
                    "ours:Ours", name, precision, title, (), _OURS, devices
                )
    return entries


def _diffusers(variant: str, title: str, setup: str) -> dict[str, Entry]:
    devices = {"fp32": ("cpu", "gpu"), "bf16": ("cpu", "gpu"), "fp16": ("gpu",)}
    return {
        f"diffusers-{variant}-{precision}": Entry(
            "diffusers:Diffusers", variant, precision, f"diffusers, {title}", _TORCH, setup, kinds
        )
        for precision, kinds in devices.items()
    }


_STRAIGHT = "diffusers converted straight to"
PEERS: dict[str, Entry] = {
    **_ours(),
    **_diffusers("eager", "torch eager", _EAGER),
    **_diffusers("compile", "torch.compile", _COMPILED),
    **{
        f"straight-openvino-{precision}": Entry(
            "straight_openvino:StraightOpenVINO",
            "",
            precision,
            f"{_STRAIGHT} OpenVINO",
            (*_TORCH, "openvino"),
            _OPENVINO,
        )
        for precision in ("fp32", "bf16")
    },
    "straight-onnxruntime-fp32": Entry(
        "straight_onnxruntime:StraightONNXRuntime",
        "",
        "fp32",
        f"{_STRAIGHT} ONNX Runtime",
        (*_TORCH, "onnxruntime", "onnx"),
        _ONNX,
    ),
    "paddle-dygraph-fp32": Entry(
        "paddle_dygraph:PaddleDygraph",
        "",
        "fp32",
        "Paddle dygraph",
        ("paddlepaddle", *_TORCH),
        _DYGRAPH,
    ),
    "ppdiffusers-fp32": Entry(
        "ppdiffusers:PPDiffusers",
        "",
        "fp32",
        "ppdiffusers, Paddle eager",
        ("ppdiffusers", "paddlenlp", "paddlepaddle"),
        _PPDIFFUSERS,
        environment=PPDIFFUSERS,
    ),
}


def missing(name: str) -> str | None:
    """What the peer called `name` lacks on this machine, or None."""
    entry = PEERS[name]
    return lacking(entry.environment, entry.needs)


def kind_of(name: str) -> type[Peer]:
    """The class of the peer called `name`; its libraries are imported here."""
    module, _, kind = PEERS[name].place.partition(":")
    found: type[Peer] = getattr(importlib.import_module(f"peers.{module}"), kind)
    return found
