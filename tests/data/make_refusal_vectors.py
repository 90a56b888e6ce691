"""Writes manifests.json, requests.json and scheduler_configs.json: what both engines must refuse.

Each case says what is changed, and the error: its class and a part of its text that both
languages have. A case without an error is accepted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ldm_engine.bundle import (
    PROGRAMS,
    REFERENCE,
    SCHEDULER_CONFIG,
    VOCABULARY,
    ModelInfo,
    engine_file_name,
    program_file_names,
    program_tensors,
)

HERE = Path(__file__).parent
MODEL = {
    "source": "checkpoint",
    "latent_channels": 4,
    "scale_factor": 8,
    "size_multiple": 8,
    "sample_size": 32,
    "token_length": 77,
    "vocab_size": 30522,
    "lowercase": True,
    "time_shift_width": 20160,
    "text_kv_width": 24960,
}
CONFIG = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
}
UNET = ["programs", "unet"]
FILES = [*UNET, "formats", "openvino", "files"]


def base_manifest() -> dict[str, Any]:
    """A whole manifest, of files that are not there."""
    programs = {}
    for name, (inputs, outputs) in program_tensors(ModelInfo(**MODEL)).items():
        formats = {"openvino": "fp32", **({"openvino_int8": "int8"} if name == "unet" else {})}
        programs[name] = {
            "inputs": [vars(t) for t in inputs],
            "outputs": [vars(t) for t in outputs],
            "formats": {
                f: {"files": program_file_names(name, f), "weights": w} for f, w in formats.items()
            },
        }
    names = [SCHEDULER_CONFIG, VOCABULARY, REFERENCE]
    names += [f for p in PROGRAMS for e in programs[p]["formats"].values() for f in e["files"]]
    return {
        "format_version": 1,
        "manifest_sha256": "0" * 64,
        "model": MODEL,
        "programs": programs,
        "files": {n: {"sha256": f"{i:064x}", "bytes": i} for i, n in enumerate(sorted(names))},
        "parity": {"openvino": {"fp32": {"unet": {"relative_l2_error": 1e-7, "tolerance": 1e-4}}}},
        "versions": {"ldm-engine": "0.1.0"},
    }


def tensorrt_manifest() -> dict[str, Any]:
    """The same with programs for a GPU, and Paddle's, which they need."""
    manifest = base_manifest()
    for name, program in manifest["programs"].items():
        engines = [engine_file_name(name, number) for number in range(2)]
        for format_name, more in (("paddle", []), ("tensorrt", engines)):
            files = [*program_file_names(name, format_name), *more]
            program["formats"][format_name] = {"files": files, "weights": "fp32"}
            manifest["files"] |= {f: {"sha256": "", "bytes": 1} for f in files}
    manifest["tensorrt"] = {
        "precision": "fp16", "gpu": "A GPU", "tensorrt": "10.3", "cuda": "12.4",
        "batch": [1, 1, 4], "size": [256, 256, 512],
    }  # fmt: skip
    return manifest


def tensorrt_cases() -> list[dict[str, Any]]:
    """Cases as below, over the manifest with programs for a GPU."""
    invalid = {"base": "tensorrt_base", "error": "BundleError", "says": "is not a valid manifest"}
    build, unet = ["tensorrt"], [*UNET, "formats", "tensorrt"]
    first, second = (engine_file_name("unet", number) for number in range(2))
    graph = list(program_file_names("unet", "tensorrt"))
    return [
        {"base": "tensorrt_base", "path": [], "error": None},
        {**invalid, "path": build, "remove": True, "says": "without how they were built"},
        {**invalid, "path": unet, "remove": True, "says": "without how they were built"},
        {**invalid, "path": [*UNET, "formats", "paddle"], "remove": True,
         "says": "without Paddle's"},
        *({**invalid, "path": [*build, k], "remove": True, "says": k}
          for k in ("precision", "gpu", "tensorrt", "cuda", "batch", "size")),
        *({**invalid, "path": [*build, k], "value": v} for k in ("precision", "gpu", "batch")
          for v in (None, 1, [1, 2], {})),
        {**invalid, "path": [*build, "precision"], "value": "int8", "says": "cannot be in 'int8'"},
        {**invalid, "path": [*unet, "weights"], "value": "int8", "says": "cannot be in 'int8'"},
        *({**invalid, "path": [*build, "size"], "value": v, "says": "no range"}
          for v in ([0, 1, 2], [2, 1, 3], [1, 3, 2])),
        *({**invalid, "path": [*unet, "files"], "value": v, "says": "files of unet"}
          for v in ([*graph, second], [*graph, first, first], [first], [])),
        {"base": "tensorrt_base", "path": [*unet, "files"], "value": graph, "error": None},
        {"path": build, "value": tensorrt_manifest()["tensorrt"], "error": "BundleError",
         "says": "or it alone"},
    ]  # fmt: skip


def manifest_cases() -> list[dict[str, Any]]:
    """What is set or removed, at which path; without `seal` the hash is not put right after.

    Others hold a whole `text`, or what is to be written 100,000 times (`repeat`).
    """
    invalid = {"error": "BundleError", "says": "is not a valid manifest"}
    unreadable = {"error": "BundleError", "says": "cannot be read"}

    def setting(path: list[Any], value: Any, says: str = "", **other: Any) -> dict[str, Any]:
        told = {"says": says} if says else {}
        return {"path": path, "value": value, **invalid, **told, **other}

    cases: list[dict[str, Any]] = [
        {"path": [], "error": None},
        {"path": ["files", "a note"], "value": {"sha256": "", "bytes": 0}, "error": None},
        {"path": ["more"], "value": [1, {}], "error": None},
        {"path": ["model", "source"], "value": "caf\u00e9 \U0001f600", "error": None},
        {"path": ["model", "source"], "value": "x", "seal": False, "error": "BundleError",
         "says": "was altered"},
        {"path": ["manifest_sha256"], "value": None, "seal": False, "error": "BundleError",
         "says": "was altered"},
        {"path": ["manifest_sha256"], "value": "0", "seal": False, "error": "BundleError",
         "says": "was altered"},
        *({"path": ["format_version"], "value": v, "error": "BundleError",
           "says": "has format version"} for v in (0, 2, "1", 1.0, True, None, [])),
        {"path": ["format_version"], "remove": True, "error": "BundleError",
         "says": "has format version"},
        *({"path": [k], "remove": True, **invalid}
          for k in ("model", "programs", "files", "parity", "versions")),
        *({"path": [k], "value": v, **invalid}
          for k in ("model", "programs", "files", "parity") for v in (None, 1, "x", [1])),
        *({"path": ["model", k], "remove": True, **invalid, "says": k} for k in MODEL),
        *(setting(["model", k], v, k if type(v) is int else "") for k in MODEL
          for v in (-1, 0, 2**31, 2**70, 1.5, "4", None, [], {}) if MODEL[k] != v
          and type(MODEL[k]) is int),
        *(setting(["model", "lowercase"], v) for v in (1, 0, "true", None)),
        *(setting(["model", "source"], v) for v in (1, None, [])),
        setting(["model", "sample_size"], 12, "do not divide"),
        setting(["model", "sample_size"], 1032, "larger than"),
        setting(["model", "scale_factor"], 2**30, "larger than"),
        setting(["model", "text_kv_width"], 24961, "the tensors of text_encoder"),
        setting(["model", "latent_channels"], 8, "the tensors of unet"),
        *({"path": ["programs", p], "remove": True, **invalid, "says": p} for p in PROGRAMS),
        *({"path": [*UNET, k], "remove": True, **invalid, "says": k}
          for k in ("inputs", "outputs", "formats")),
        setting([*UNET, "inputs"], [], "the tensors of unet"),
        setting([*UNET, "inputs", 0, "shape"], [1, 4, 32, 32], "the tensors of unet"),
        setting([*UNET, "inputs", 0, "shape", 0], "any"),
        setting([*UNET, "inputs", 0, "dtype"], "float16", "the tensors of unet"),
        setting([*UNET, "inputs", 0, "name"], 7),
        setting([*UNET, "outputs", 0], None),
        setting(FILES, ["unet/openvino_model.bin", "unet/openvino_model.xml"], "files of unet"),
        setting(FILES, [], "files of unet"),
        *(setting([*FILES, 0], name, "leads outside") for name in (
            "../model.xml", "/etc/passwd", "unet/../../x", "", ".", "..", "a\\b", "a\u0000b")),
        setting([*FILES, 0], 5),
        {"path": [*FILES, 0], "value": "./unet//openvino_model.xml", "error": None},
        setting([*UNET, "formats", "openvino", "weights"], 32),
        {"path": [*UNET, "formats", "own"], "value": {"files": [VOCABULARY], "weights": "x"},
         "error": None},
        setting([*UNET, "formats", "own"], {"files": ["none"], "weights": "x"}, "is missing"),
        *({"path": ["files", n], "remove": True, **invalid, "says": n}
          for n in (SCHEDULER_CONFIG, VOCABULARY, REFERENCE, "unet/openvino_model.bin")),
        setting(["files", "../x"], {"sha256": "", "bytes": 0}, "leads outside"),
        setting(["files", "x" * 256], {"sha256": "", "bytes": 0}, "is longer than 255 bytes"),
        {"name": "a name of 255 bytes", "path": ["files", "x" * 255],
         "value": {"sha256": "", "bytes": 0}, "error": None},
        setting(["files", VOCABULARY, "sha256"], None),
        setting(["files", VOCABULARY, "bytes"], "1"),
        setting(["files", VOCABULARY, "bytes"], 1.5),
        setting(["files", VOCABULARY], []),
        setting(["parity", "openvino", "fp32", "unet"], {}, "relative_l2_error"),
        setting(["parity", "openvino", "fp32"], []),
        setting(["parity", "openvino", "fp32", "unet", "tolerance"], None),
        setting(["versions"], {"x": 1}),
    ]  # fmt: skip
    texts = {
        "empty": "", "not JSON": "{", "cut": '{"format_version": 1', "after the end": "{} {}",
        "single quotes": "{'a': 1}", "a comment": "{} // x", "a byte order mark": "\ufeff{}",
        "half a character": '{"format_version": 1, "manifest_sha256": "\\ud800"}',
    }  # fmt: skip
    cases += [{"name": n, "text": t, **unreadable} for n, t in texts.items()]
    cases += [
        {"name": n, "repeat": t, **unreadable} for n, t in (("lists", "["), ("objects", '{"a":'))
    ]
    cases += [
        {"name": t, "text": t, "error": "BundleError", "says": "a JSON object is expected"}
        for t in ("[]", "null", "1")
    ]
    cases += tensorrt_cases()
    for number, case in enumerate(cases):
        case.setdefault("name", f"{number} {'.'.join(map(str, case.get('path', [])))}"[:80])
    return cases


def request_cases() -> list[dict[str, Any]]:
    """Arguments beside those of a plain request; "nan" and "inf" stand for these numbers."""

    def refused(error: str, says: str, **arguments: Any) -> dict[str, Any]:
        return {"arguments": arguments, "error": error, "says": says}

    def accepted(expected: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        return {"arguments": arguments, "error": None, "expected": expected}

    value, two, shape = "InvalidArgumentError", ["a", "b"], "ShapeError"
    return [
        accepted({"seeds": [5], "height": 256, "width": 256, "guidance": None, "texts": ["a"]}),
        accepted({"seeds": [5, 6], "guidance": None, "texts": two}, prompt=two),
        accepted({"seeds": [9, 9]}, prompt=two, seed=[9, 9]),
        accepted({"seeds": [4294967295]}, seed=4294967295),
        accepted({"height": 64, "width": 8192}, height=64, width=8192),
        accepted({"guidance": [6.0, 6.0], "texts": ["", "", "a", "b"]}, prompt=two,
                 guidance_scale=6),
        accepted({"guidance": [1.0, 2.5]}, prompt=two, guidance_scale=[1, 2.5]),
        accepted({"guidance": None}, prompt=two, guidance_scale=[1, 1]),
        accepted({"guidance": [-10000.0]}, guidance_scale=-10000),
        accepted({"texts": ["n", "n", "a", "b"]}, prompt=two, guidance_scale=2,
                 negative_prompt="n"),
        accepted({"texts": ["n", "m", "a", "b"]}, prompt=two, guidance_scale=2,
                 negative_prompt=["n", "m"]),
        accepted({"steps": 1000}, num_inference_steps=1000),
        accepted({"steps": 1}, num_inference_steps=1, eta=1),
        accepted({"steps": 3}, prompt=two, num_inference_steps=3, eta=[0, 0.5]),
        accepted({}, latents={"shape": [1, 4, 32, 32], "value": 0.5}),
        refused(value, "`prompt` is an empty list", prompt=[]),
        refused(value, "`negative_prompt` is an empty list", negative_prompt=[]),
        refused(value, "`negative_prompt` lists 1 texts for 2 prompts", prompt=two,
                negative_prompt=["x"]),
        refused(value, "`negative_prompt` lists 3 texts for 2 prompts", prompt=two,
                negative_prompt=["x", "y", "z"]),
        *(refused(shape, f"`height` is {v}; multiples of 64", height=v)
          for v in (0, -64, 1, 63, 65, 100, 8256, 2**31 - 64)),
        *(refused(shape, f"`width` is {v}; multiples of 64", width=v) for v in (0, -64, 65, 8256)),
        *(refused(value, f"`num_inference_steps` is {v}; a whole number from 1 to 1000",
                  num_inference_steps=v) for v in (0, -1, 1001, 2**31 - 1)),
        *(refused(value, f"`eta` is {v}; a number from 0", eta=v)
          for v in (-0.5, 1.5, 2, "nan", "inf")),
        refused(value, "`eta` lists 3 numbers for 2 images", prompt=two, eta=[0, 0, 0]),
        refused(value, "`eta` is 1.5", prompt=two, eta=[0, 1.5]),
        *(refused(value, f"`guidance_scale` is {v}; a number", guidance_scale=v)
          for v in (10001, -20000, "nan", "inf")),
        refused(value, "`guidance_scale` lists 1 numbers for 2 images", prompt=two,
                guidance_scale=[2]),
        refused(value, "`guidance_scale` is nan", prompt=two, guidance_scale=[2, "nan"]),
        *(refused(value, f"`seed` asks for {v}", seed=v) for v in (-1, 4294967296)),
        refused(value, "`seed` asks for 4294967296", prompt=two, seed=4294967295),
        refused(value, "`seed` asks for -5", prompt=two, seed=[0, -5]),
        refused(value, "`seed` lists 2 seeds for 1 images", seed=[1, 2]),
        refused(shape, "accepted here",
                latents={"shape": [1, 4, 64, 64], "value": 0}),
        refused(shape, "accepted here", prompt=two, latents={"shape": [1, 4, 32, 32], "value": 0}),
        refused(value, "NaN or infinity", latents={"shape": [1, 4, 32, 32], "value": "nan"}),
        refused(value, "NaN or infinity", latents={"shape": [1, 4, 32, 32], "value": "inf"}),
    ]  # fmt: skip


def scheduler_cases() -> list[dict[str, Any]]:
    """Keys set in a published config, and those of them that are named."""
    fixed = {
        "_class_name": ["PNDMScheduler", None, 1, []],
        "prediction_type": ["v_prediction", "sample", None],
        "timestep_spacing": ["trailing", "linspace", {}],
        "clip_sample": [True, "false", None],
        "thresholding": [True],
        "rescale_betas_zero_snr": [True],
        "trained_betas": [[0.1], 0.1],
        "beta_schedule": ["squaredcos_cap_v2", None, ["linear"]],
        "num_train_timesteps": [0, -1, 1000001, 1000.0, "1000", True, None],
        "steps_offset": [2, -1, 0.5, "0", True],
        "set_alpha_to_one": [1, "true", None],
        "beta_start": [0, -0.1, 1, 2, "0.1", None, True],
        "beta_end": [0, 1, 1.5, "x"],
    }
    cases = [{"set": {k: v}, "named": [k]} for k, values in fixed.items() for v in values]
    cases += [
        {"set": {}, "named": None},
        {"set": {"steps_offset": 1, "set_alpha_to_one": False}, "named": None},
        {"set": {"beta_schedule": "scaled_linear", "num_train_timesteps": 1}, "named": None},
        {"set": {"unknown": 1}, "named": None},
        {"set": {"clip_sample": True, "beta_end": 3, "steps_offset": 7},
         "named": ["clip_sample", "beta_end", "steps_offset"]},
        {"set": {"beta_start": 0.5, "beta_end": 0.999}, "named": [], "says": "signal"},
        {"set": {"beta_start": 1e-12, "beta_end": 1e-11}, "named": [], "says": "signal"},
    ]  # fmt: skip
    return cases


def write(name: str, content: Any) -> None:
    """One line an entry of the list `cases`."""
    cases = content.pop("cases")
    head = json.dumps(content, indent=1)[:-2]
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / f"{name}.json").write_text(f'{head},\n "cases": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    bases = {"base": base_manifest(), "tensorrt_base": tensorrt_manifest()}
    write("manifests", {**bases, "cases": manifest_cases()})
    write("requests", {"model": MODEL, "scheduler": CONFIG, "cases": request_cases()})
    write("scheduler_configs", {"config": CONFIG, "cases": scheduler_cases()})
