"""Writes requests.json and scheduler_configs.json: what both engines must refuse.

Requests are those to a bundle with the tables of solvers_files.json. Each case says what is given
or changed, and the error: its class and a part of its text that both languages have. A case without
an error is accepted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from make_manifest_vectors import MODEL, write
from make_solvers_file_vectors import TABLES
from make_vectors import HUGGINGFACE


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
        accepted({"steps": 12}, num_inference_steps=12, solver="dpmsolver++"),
        accepted({"steps": 3}, solver="dpmsolver++", timesteps=[999, 500, 0]),
        accepted({"steps": 2}, timesteps=[7, 3], num_inference_steps=2, eta=1),
        accepted({"steps": 3}, solver="fitted", num_inference_steps=3, guidance_scale=6),
        accepted({"steps": 2}, prompt=two, solver="fitted", num_inference_steps=2,
                 guidance_scale=[2, 2]),
        accepted({"steps": 4}, num_inference_steps="auto", guidance_scale=6),
        accepted({"steps": 4}, num_inference_steps="auto", guidance_scale=6, solver="fitted"),
        accepted({"steps": 2}, num_inference_steps="auto", guidance_scale=2),
        accepted({"steps": 3}, solver="fitted", num_inference_steps=3, guidance_scale=6,
                 solver_table=TABLES.tables[1].digest),
        accepted({"steps": 4}, num_inference_steps="auto", guidance_scale=6,
                 solver_table=TABLES.tables[2].digest),
        accepted({"steps": 4}, num_inference_steps="auto", guidance_scale=6.25),
        accepted({"steps": 4}, num_inference_steps=4, guidance_scale=7, solver="fitted"),
        refused(value, "No fitted solver of the bundle reaches", num_inference_steps="auto",
                guidance_scale=7),
        refused(value, "of 3 steps for a `guidance_scale` of 6.25, but of 4", solver="fitted",
                num_inference_steps=3, guidance_scale=6.25),
        refused(value, "at most 1 apart", num_inference_steps=4, guidance_scale=8,
                solver="fitted"),
        refused(value, "no fitted solver for a `guidance_scale` of 9", guidance_scale=9,
                num_inference_steps="auto"),
        refused(value, "no fitted solver for a `guidance_scale` of 5, but for 2, 6, 6.5",
                solver="fitted", num_inference_steps=3, guidance_scale=5),
        refused(value, "for a `guidance_scale` of 1", solver="fitted", num_inference_steps=3),
        refused(value, "of 5 steps for a `guidance_scale` of 6", solver="fitted",
                num_inference_steps=5, guidance_scale=6),
        refused(value, "of 50 steps for a `guidance_scale` of 6", solver="fitted",
                guidance_scale=6),
        refused(value, "with the solver fitted, whose weights belong to one guidance", prompt=two,
                num_inference_steps="auto", guidance_scale=[6, 2]),
        refused(value, "which adds no noise", solver="fitted", num_inference_steps=3,
                guidance_scale=6, eta=1),
        refused(value, "which adds no noise", num_inference_steps="auto", guidance_scale=6,
                eta=1),
        refused(value, "`timesteps` is given with the solver fitted", solver="fitted",
                num_inference_steps=3, guidance_scale=6, timesteps=[999, 41, 0]),
        refused(value, "`num_inference_steps` is auto and `timesteps`", guidance_scale=6,
                num_inference_steps="auto", timesteps=[3, 2]),
        refused(value, "`num_inference_steps` is auto and `solver`", guidance_scale=6,
                num_inference_steps="auto", solver="dpmsolver++"),
        refused(value, "for a `guidance_scale` of 3", num_inference_steps="auto",
                guidance_scale=3),
        refused(value, "`solver_table` is 0123456789abcdef", solver="fitted",
                num_inference_steps=3, guidance_scale=6, solver_table="0123456789abcdef"),
        refused(value, "`solver_table` is 0123456789abcdef", solver_table="0123456789abcdef"),
        *(refused(value, "the 16 digits", solver_table=v) for v in ("x", "0123456789ABCDEF")),
        *(refused(value, "ddim, dpmsolver++, fitted is accepted", solver=v)
          for v in ("euler", "", "DDIM")),
        refused(value, "which adds no noise", solver="dpmsolver++", eta=0.5),
        refused(value, "which adds no noise", prompt=two, solver="dpmsolver++", eta=[0, 1]),
        *(refused(value, "a descending list of whole numbers from 999 to 0", timesteps=v)
          for v in ([1000], [-1], [3, 3], [1, 2], [5, 4, -1])),
        refused(value, "`timesteps` lists 2 and `num_inference_steps` is 7", timesteps=[2, 1],
                num_inference_steps=7),
        *picture_cases(accepted, refused),
        refused(value, "`prompt` is an empty list", prompt=[]),
        refused(value, "`negative_prompt` is an empty list", negative_prompt=[]),
        refused(value, "the character U+0000", prompt=["a", "b\0c"]),
        refused(value, "the character U+0000", negative_prompt="\0"),
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


def picture_cases(
    accepted: Callable[..., dict[str, Any]], refused: Callable[..., dict[str, Any]]
) -> list[dict[str, Any]]:
    """Pictures of one colour, and masks of which a corner is white, by their sides and that."""
    value, two, shape = "InvalidArgumentError", ["a", "b"], "ShapeError"
    picture, other = ({"height": 64, "width": 128, "value": v} for v in (10, 20))
    mask = {"height": 64, "width": 128, "white": [3, 70]}
    small = {"height": 64, "width": 64, "white": [1, 1]}
    size = {"height": 64, "width": 128}
    return [
        accepted({"steps": 40, **size}, image=picture),
        accepted({"steps": 28, **size}, image=picture, strength=0.58),  # of 28.999..., as diffusers
        accepted({"steps": 50, "kept": 128 - 9, **size}, image=picture, mask_image=mask),
        accepted({"steps": 1, "kept": 128 - 9}, image=picture, mask_image=mask, strength=0.1,
                 num_inference_steps=19, eta=1),
        accepted({"steps": 9}, image=picture, num_inference_steps=12, solver="dpmsolver++"),
        accepted({"steps": 2}, image=picture, timesteps=[900, 500, 100]),
        accepted({"steps": 40}, prompt=two, image=[picture, other], **size),
        accepted({"steps": 40}, prompt=two, image=picture, guidance_scale=[2, 1]),
        accepted({"steps": 4}, num_inference_steps="auto", guidance_scale=6, image=picture,
                 strength=1),
        accepted({"steps": 4}, num_inference_steps="auto", guidance_scale=6, image=picture,
                 mask_image=mask),
        accepted({"steps": 40}, image=picture, image_sha256=sha256_of(picture)),
        refused(value, "with the solver fitted, whose steps belong together",
                num_inference_steps="auto", guidance_scale=6, image=picture),
        refused(value, "`strength` is given without an `image`", strength=0.5),
        refused(value, "`mask` is given without an `image`", mask_image=mask),
        *(refused(value, f"`strength` is {v}; a number above 0", image=picture, strength=v)
          for v in (0, -1, 1.5, "nan", "inf")),
        refused(value, "which is less than one. Give a strength of 0.2 or more",
                image=picture, strength=0.1, num_inference_steps=5),
        refused(shape, "The mask has 64x64 pixels and `image` 128x64", image=picture,
                mask_image=small),
        refused(value, "has nothing white", image=picture, mask_image={**mask, "white": None}),
        refused(value, "`latents` is given beside `image`", image=picture,
                latents={"shape": [1, 4, 8, 16], "value": 0}),
        refused(shape, "sides that are multiples of 64", image={**picture, "width": 100}),
        refused(value, "`image` lists 3 pictures for 2 images", prompt=two, image=[picture] * 3),
        refused(value, "`mask` lists 3 pictures for 2 images", prompt=two, image=picture,
                mask_image=[mask] * 3),
        refused(shape, "`image`", prompt=two, image=[picture, {**picture, "width": 64}]),
        refused(value, "the pixels would differ", image=picture, image_sha256="0" * 64),
        refused(value, "and none is given", image_sha256="0" * 64),
        refused(value, "and none is given", image=picture, mask_sha256="0" * 64),
        refused(value, "the 64 digits", image=picture, image_sha256="0" * 63),
    ]  # fmt: skip


def sha256_of(picture: dict[str, Any]) -> str:
    """As documented: of a line with the shape, and the pixels."""
    height, width, value = picture["height"], picture["width"], picture["value"]
    pixels = bytes([value]) * (height * width * 3)
    return hashlib.sha256(f"{height}x{width}x3\n".encode() + pixels).hexdigest()


def scheduler_cases() -> list[dict[str, Any]]:
    """Keys set in a published config, and those of them that are named."""
    fixed = {
        "_class_name": ["PNDMScheduler", None, 1, []],
        "prediction_type": ["v_prediction", "sample", None],
        "timestep_spacing": ["trailing", None, {}],
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
        {"set": {"timestep_spacing": "linspace"}, "named": None},
        {"set": {"clip_sample": True, "beta_end": 3, "steps_offset": 7},
         "named": ["clip_sample", "beta_end", "steps_offset"]},
        {"set": {"beta_start": 0.5, "beta_end": 0.999}, "named": [], "says": "signal"},
        {"set": {"beta_start": 1e-12, "beta_end": 1e-11}, "named": [], "says": "signal"},
        {"set": {"beta_start": 0.02, "beta_end": 1e-9}, "named": [], "says": "signal"},
    ]  # fmt: skip
    return cases


if __name__ == "__main__":
    write("requests", {"model": MODEL, "scheduler": HUGGINGFACE, "cases": request_cases()})
    write("scheduler_configs", {"config": HUGGINGFACE, "cases": scheduler_cases()})
