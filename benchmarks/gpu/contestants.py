"""Who takes a guided UNet step on a GPU: this engine's runtimes, and diffusers' UNet in torch.

All get the same latents, prompt and timestep. A step of ours sends its inputs to the device and
fetches its result, as in the engine's loop; torch's are on the device already and stay there. torch
is as it comes: neither ``cudnn.benchmark`` nor ``channels_last`` is set, which could speed it up.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ldm_engine import Bundle
from ldm_engine.errors import RuntimeUnavailableError
from ldm_engine.runtimes.choice import Choice, resolve_options
from ldm_engine.sampling.encoding import encode_text, encode_time, unet_shapes
from ldm_engine.sampling.noise import NoiseStream
from ldm_engine.sampling.tokenizer import Tokenizer

PROMPT = "A painting of a squirrel eating a burger"
TIMESTEP = 481

Array = NDArray[np.float32]


class Contestant(Protocol):
    """Takes one step when called; what it says is the same each time."""

    def __call__(self) -> None:
        """Take the step; it is over when this returns."""

    def result(self) -> Array:
        """The noise prediction [2, 4, h, w] of the last step."""


def whole_number(least: int) -> Callable[[str], int]:
    """What reads an argument that is a whole number, at least `least`."""

    def read(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    read.__name__ = "int"  # as argparse tells what is no number
    return read


def make_latents(channels: int, size: int) -> Array:
    """[1, channels, size, size], from seed 0."""
    values = np.empty((1, channels, size, size), np.float32)
    NoiseStream([0]).fill(values)
    return values


class Ours:
    """One runtime and precision of this engine."""

    def __init__(self, bundle: Bundle, choice: Choice, precision: str, device: str) -> None:
        options = resolve_options(choice.runtime, device, precision, None)
        model, runtime = bundle.model, choice.runtime
        encoder = runtime.open(bundle, "text_encoder", options)
        tokenizer = Tokenizer.of(bundle)
        texts = [encode_text(encoder, model, tokenizer, text) for text in ("", PROMPT)]
        del encoder
        shift = encode_time(runtime.open(bundle, "time_encoder", options), model, [TIMESTEP])
        latents = make_latents(model.latent_channels, model.sample_size)
        self._unet = runtime.open(bundle, "unet", options)
        self._unet.allocate(unet_shapes(model, latents.shape, rows=2))
        given = {"latents": latents, "text_kv": np.stack(texts), "time_shift": shift}
        for name, values in given.items():
            np.copyto(self._unet.inputs[name], values)
        self._unet.run()

    def __call__(self) -> None:
        """Take the step."""
        self._unet.run(unchanged=("text_kv",))

    def result(self) -> Array:
        """The noise prediction of the last step."""
        return self._unet.outputs["noise_pred"].copy()


class Torch:
    """diffusers' UNet in torch, eager or compiled."""

    def __init__(self, checkpoint: Path, precision: str, device: str, compiled: str | None) -> None:
        """`compiled` is a mode of ``torch.compile``, or None."""
        import torch
        from diffusers import LDMTextToImagePipeline

        self._torch, self._device = torch, torch_device(device)
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        pipe = LDMTextToImagePipeline.from_pretrained(checkpoint)
        self._context = _encode(pipe, self._device).to(dtype)
        unet = pipe.unet.to(self._device, dtype).eval()
        del pipe
        latents = make_latents(unet.config.in_channels, unet.config.sample_size)
        doubled = torch.from_numpy(np.concatenate([latents] * 2))
        self._latents = doubled.to(self._device, dtype)
        self._timestep = torch.tensor(TIMESTEP, device=self._device)
        self._unet = unet if compiled is None else torch.compile(unet, mode=compiled, dynamic=False)
        self._predicted: Any = None

    def __call__(self) -> None:
        """Take the step, and wait for the device."""
        with self._torch.inference_mode():
            self._predicted = self._unet(
                self._latents, self._timestep, encoder_hidden_states=self._context
            ).sample
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)

    def result(self) -> Array:
        """The noise prediction of the last step."""
        values: Array = self._predicted.float().cpu().numpy()
        return values


def torch_device(device: str) -> Any:
    """torch's name for `device`.

    Raises:
        RuntimeUnavailableError: if it is a GPU, and the installed torch sees none.
    """
    import torch

    if device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeUnavailableError(
            f"torch {torch.__version__} sees no GPU: it is one for CPUs, or there is no driver. "
            "Get one with CUDA from https://pytorch.org, or leave torch out with --torch none."
        )
    # Else its convolutions in fp32 are rounded to TF32, and nobody's errors could be told.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(device.replace("gpu", "cuda"))


def _encode(pipe: Any, device: Any) -> Any:
    """The texts' states [2, T, .] in fp32, as diffusers' pipeline makes them."""
    import torch

    length = pipe.bert.config.max_position_embeddings
    arguments = {"padding": "max_length", "max_length": length, "truncation": True}
    ids = pipe.tokenizer(["", PROMPT], return_tensors="pt", **arguments).input_ids
    with torch.inference_mode():
        states = pipe.bert.to(device).eval()(ids.to(device))[0]
    return states.clone()  # no inference tensor: those cannot be compiled over
