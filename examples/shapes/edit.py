"""Measures, without a person, whether pictures that are edited show what they are to show.

Edits of drawn pictures: a circle gets another colour, by image-to-image; one of two things becomes
another, by inpainting its half; and a picture of which a half was cut off is painted on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import drawing
import evaluate
from drawing import Scene, Thing
from evaluate import Case
from ldm_engine import LDMTextToImagePipeline, outpainting
from ldm_engine.commands.images import contact_sheet

SHOWN = 12  # of each kind on the sheet


@dataclass(frozen=True)
class Edit:
    """A picture, and what it is to become."""

    picture: np.ndarray  #: [64, 64, 3] uint8
    mask: np.ndarray | None  #: [64, 64] bool, what may change; None: all
    case: Case  #: the caption and scene afterwards


def recoloured(rng: np.random.Generator, scene: Scene) -> tuple[Scene, None] | None:
    """The scene with its first circle in another colour; None if it has no circle."""
    circles = [i for i, thing in enumerate(scene.things) if thing.shape == "circle"]
    if not circles:
        return None
    color = _other(rng, drawing.COLORS, scene.things[circles[0]].color)
    return _with(scene, circles[0], color=color), None


def replaced(rng: np.random.Generator, scene: Scene) -> tuple[Scene, np.ndarray] | None:
    """The scene of two things with another one in one half, and that half."""
    if len(scene.things) < 2:
        return None
    at = int(rng.integers(2))
    thing = scene.things[at]
    shape = _other(rng, drawing.SHAPES, thing.shape)
    color = _other(rng, drawing.COLORS, thing.color)
    return _with(scene, at, shape=shape, color=color), evaluate.region(thing, 2)


def extended(rng: np.random.Generator, scene: Scene) -> tuple[Scene, np.ndarray] | None:
    """The scene of two things, and the half of one of them."""
    if len(scene.things) < 2:
        return None
    return scene, evaluate.region(scene.things[int(rng.integers(2))], 2)


EDITS: dict[str, Callable[[np.random.Generator, Scene], tuple[Scene, np.ndarray | None] | None]] = {
    "recolour": recoloured,
    "replace": replaced,
    "extend": extended,
}


def without(picture: np.ndarray, half: np.ndarray) -> np.ndarray:
    """The picture as outpainting begins it, with a half that it has lost."""
    rows, columns = np.nonzero(~half)
    kept = picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = half.shape
    begun, _ = outpainting(
        kept, left=int(columns.min()), top=int(rows.min()),
        right=int(width - 1 - columns.max()), bottom=int(height - 1 - rows.max()),
    )  # fmt: skip
    return np.asarray(begun)


def _other(rng: np.random.Generator, choices: Iterable[str], current: str) -> str:
    others = [choice for choice in choices if choice != current]
    return str(others[rng.integers(len(others))])


def _with(scene: Scene, at: int, **changes: str) -> Scene:
    things: list[Thing] = list(scene.things)
    things[at] = replace(things[at], **changes)
    return replace(scene, things=tuple(things))


def edits(kind: str, count: int, seed: int) -> list[Edit]:
    """`count` edits of held-out scenes; image i starts from noise seed `seed + i`."""
    rng = np.random.default_rng([seed, 5])
    made: list[Edit] = []
    while len(made) < count:
        scene = drawing.sample_scene(rng, held_out=True)
        edited = EDITS[kind](rng, scene)
        if edited is None:
            continue
        after, mask = edited
        caption, names_size = drawing.sample_caption(rng, after)
        picture = drawing.render(rng, scene)
        if kind == "extend" and mask is not None:
            picture = without(picture, mask)
        made.append(Edit(picture, mask, Case(caption, after, names_size, seed + len(made))))
    return made


def render(pipe: LDMTextToImagePipeline, chosen: list[Edit], **settings: Any) -> np.ndarray:
    """[n, 64, 64, 3] uint8, a batch at a time."""
    images = []
    for start in range(0, len(chosen), evaluate.BATCH):
        part = chosen[start : start + evaluate.BATCH]
        masks = None if part[0].mask is None else [edit.mask for edit in part]
        output = pipe(
            [edit.case.caption for edit in part],
            image=[edit.picture for edit in part],
            mask_image=masks,
            seed=[edit.case.seed for edit in part],
            output_type="np",
            **settings,
        )
        images.append(np.rint(output.images * 255).astype(np.uint8))
    return np.concatenate(images)


def unchanged(chosen: list[Edit], images: np.ndarray) -> float | None:
    """The share of pictures whose bytes outside of the mask are all as they were; None: no mask."""
    kept = [
        bool((image[~edit.mask] == edit.picture[~edit.mask]).all())
        for edit, image in zip(chosen, images, strict=True)
        if edit.mask is not None
    ]
    return float(np.mean(kept)) if kept else None


def before(edit: Edit) -> np.ndarray:
    """The picture to be edited, hatched where it is painted anew."""
    if edit.mask is None:
        return edit.picture
    y, x = np.indices(edit.mask.shape)
    return np.where((edit.mask & ((x + y) % 8 < 2))[..., None], np.uint8(160), edit.picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=EDITS, nargs="+", default=list(EDITS))
    parser.add_argument("--strength", type=float, nargs="+", default=[0.8])
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--num-inference-steps", type=int, default=50)
    parser.add_argument("--solver", default="ddim")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--sheet", type=Path, help="image file: the first before and after")
    a = parser.parse_args()
    pipe = LDMTextToImagePipeline.from_pretrained(a.bundle)
    report, shown = [], []
    for kind in a.kind:
        chosen = edits(kind, a.count, a.seed)
        for strength in a.strength if kind == "recolour" else [1.0]:
            images = render(
                pipe, chosen, strength=strength, guidance_scale=a.guidance_scale,
                num_inference_steps=a.num_inference_steps, solver=a.solver,
            )  # fmt: skip
            cases = [edit.case for edit in chosen]
            results = [evaluate.score(i, c.scene) for i, c in zip(images, cases, strict=True)]
            rates = evaluate.summarize(cases, results)
            entry = {"kind": kind, "strength": strength, "rates": rates}
            entry["unchanged"] = unchanged(chosen, images)
            report.append(entry)
            print(json.dumps(entry), flush=True)
        shown += [*map(before, chosen[:SHOWN]), *images[:SHOWN]]
    if a.json:
        a.json.write_text(json.dumps(report, indent=1) + "\n")
    if a.sheet:
        contact_sheet(list(map(Image.fromarray, shown)), columns=SHOWN).save(a.sheet)


if __name__ == "__main__":
    main()
