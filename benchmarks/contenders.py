"""Who can compute one guided UNet step: our programs in each runtime, diffusers' UNet elsewhere.

A contender is named `ours-RUNTIME-PRECISION`, `diffusers-torch-PRECISION` or
`diffusers-openvino-PRECISION`. Each gives a function that runs one step on the same inputs and
returns the noise prediction.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ldm_engine import open_bundle
from ldm_engine.runtimes import choose_runtime, resolve_options

Step = Callable[[], np.ndarray]


def step_inputs(folder: Path, size: int) -> dict[str, np.ndarray]:
    """Seeded latents [1, 4, h, w] and text states [2, 77, D] for a checkpoint `folder`."""
    import json

    config = json.loads((folder / "unet" / "config.json").read_text())
    stream = np.random.RandomState(0)
    width = config.get("cross_attention_dim", 1280)
    return {
        "latents": stream.standard_normal((1, config["in_channels"], size, size)).astype("f4"),
        "context": stream.standard_normal((2, 77, width)).astype("f4"),
        "timestep": np.array([481], "f4"),
    }


def ours(name: str, bundle_path: Path, inputs: dict[str, np.ndarray], threads: int) -> Step:
    """One of our runtimes; what is computed once a prompt or schedule is computed beforehand."""
    _, runtime_name, precision = name.split("-")
    bundle = open_bundle(bundle_path)
    runtime = choose_runtime(bundle, runtime_name, precision).runtime
    options = resolve_options(runtime, "cpu", precision, threads)
    program = runtime.open(bundle, "unet", options)
    latents, model = inputs["latents"], bundle.model
    program.allocate(
        {
            "latents": latents.shape,
            "time_shift": (1, model.time_shift_width),
            "text_kv": (2, model.token_length, model.text_kv_width),
            "noise_pred": (2, *latents.shape[1:]),
        }
    )
    program.inputs["latents"][:] = latents
    for tensor in ("time_shift", "text_kv"):
        program.inputs[tensor][:] = inputs[tensor]

    def step() -> np.ndarray:
        program.run()
        return program.outputs["noise_pred"]

    return step


def diffusers_torch(name: str, folder: Path, inputs: dict[str, np.ndarray], threads: int) -> Step:
    """diffusers' own UNet in eager mode."""
    import torch

    torch.set_num_threads(threads)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[name.rsplit("-", 1)[1]]
    unet = _load_unet(folder).to(kind)
    latents = torch.from_numpy(np.concatenate([inputs["latents"]] * 2)).to(kind)
    context = torch.from_numpy(inputs["context"]).to(kind)
    timestep = torch.tensor(int(inputs["timestep"][0]))

    def step() -> np.ndarray:
        with torch.inference_mode():
            out: np.ndarray = unet(latents, timestep, context).sample.float().numpy()
        return out

    return step


def diffusers_openvino(
    name: str, folder: Path, inputs: dict[str, np.ndarray], threads: int
) -> Step:
    """diffusers' UNet converted straight, with static shapes; the result stays with the weights."""
    import openvino as ov

    size = inputs["latents"].shape[-1]
    graph = folder / f"straight-openvino-{size}" / "unet.xml"
    if not graph.is_file():
        graph.parent.mkdir(exist_ok=True)
        _convert_unet(folder, inputs, graph)
    precision = {"fp32": "f32", "bf16": "bf16"}[name.rsplit("-", 1)[1]]
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = ov.Core()
    request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()
    doubled = np.concatenate([inputs["latents"]] * 2)
    arrays = [doubled, np.array(481, "f4"), inputs["context"]]
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))

    def step(inputs: list[np.ndarray] = arrays) -> np.ndarray:  # which keeps them alive
        request.infer()
        out: np.ndarray = request.get_output_tensor(0).data
        return out

    return step


def _convert_unet(folder: Path, inputs: dict[str, np.ndarray], graph: Path) -> None:
    import openvino as ov
    import torch

    unet = _load_unet(folder)

    class Wrapped(torch.nn.Module):
        def forward(self, sample: Any, timestep: Any, context: Any) -> Any:
            return unet(sample, timestep, context, return_dict=False)[0]

    wrapped = Wrapped()
    wrapped.unet = unet
    sample = torch.from_numpy(np.concatenate([inputs["latents"]] * 2))
    example = (sample, torch.tensor(481.0), torch.from_numpy(inputs["context"]))
    shapes = [list(e.shape) for e in example]
    with torch.no_grad():
        model = ov.convert_model(wrapped, example_input=example, input=shapes)
    ov.save_model(model, graph, compress_to_fp16=False)


def _load_unet(folder: Path) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(folder / "unet").eval()


def prepare(inputs: dict[str, np.ndarray], bundle_path: Path, folder: Path) -> None:
    """Add what our UNet takes for the same context and timestep: `text_kv` and `time_shift`."""
    from safetensors.numpy import load_file

    bundle = open_bundle(bundle_path)
    runtime = choose_runtime(bundle).runtime
    time_encoder = runtime.open(bundle, "time_encoder", resolve_options(runtime, "cpu", "fp32", 2))
    time_encoder.allocate({"timesteps": (1,), "time_shift": (1, bundle.model.time_shift_width)})
    time_encoder.inputs["timesteps"][:] = inputs["timestep"]
    time_encoder.run()
    inputs["time_shift"] = time_encoder.outputs["time_shift"].copy()
    weights = {}
    for file in sorted((folder / "unet").glob("*.safetensors")):
        weights.update({n: w for n, w in load_file(file).items() if ".attn2.to_" in n})
    parts = [inputs["context"] @ weights[n].T for n in _projections(weights)]
    inputs["text_kv"] = np.concatenate(parts, axis=2).astype("f4")


def _projections(weights: dict[str, np.ndarray]) -> list[str]:
    """Names of all key and value projections in the order in which the UNet uses them."""
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}

    def place(name: str) -> tuple[int, list[int], bool]:
        parts = name.split(".")
        return order[parts[0]], [int(p) for p in parts if p.isdigit()], ".to_v." in name

    return sorted((n for n in weights if ".to_k." in n or ".to_v." in n), key=place)


def open_contender(
    name: str, bundle: Path, folder: Path, inputs: dict[str, np.ndarray], threads: int
) -> Step:
    """The step function of the contender called `name`."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if name.startswith("ours-"):
        return ours(name, bundle, inputs, threads)
    opener = diffusers_torch if name.startswith("diffusers-torch-") else diffusers_openvino
    return opener(name, folder, inputs, threads)
