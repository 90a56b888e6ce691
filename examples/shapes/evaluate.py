"""Measures, without a person, whether pictures show what their captions say; trains nothing."""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import drawing
from drawing import Scene, Thing

COLOR_TOLERANCE = 50.0  # RGB distance; the closest two palette colors are 99 apart
BACKGROUND_TOLERANCE = 40.0  # RGB distance; the closest two backgrounds are 220 apart
PLACE_TOLERANCE = 6.0  # pixels between centroids; pictures jitter by 2 in x and in y
MIN_SHAPE_IOU = 0.7  # the most alike two drawings, circle and square, overlap by 0.85
MIN_OBJECT_PIXELS = 40  # the smallest drawn object, a small star, has 120
MIN_FOREGROUND_DISTANCE = 45.0  # RGB distance that tells an object from the background
LATENT_SHAPE = (4, 8, 8)
BATCH = 20

Renderer = Callable[[list[str], list[int], float, int], np.ndarray]


@dataclass(frozen=True)
class ThingResult:
    """What was found where one object was asked for; `None` where nothing was."""

    color: str | None
    shape: str | None
    size: str | None
    has_color_at_place: bool
    has_shape: bool
    has_size: bool


@dataclass(frozen=True)
class Result:
    """One picture's verdict: everything asked for must hold for every object."""

    things: tuple[ThingResult, ...]
    background: str | None
    has_background: bool

    @property
    def has_colors_at_places(self) -> bool:
        """Every object's color is right, at its place."""
        return all(thing.has_color_at_place for thing in self.things)

    @property
    def has_shapes(self) -> bool:
        """Every object's shape is right."""
        return all(thing.has_shape for thing in self.things)

    @property
    def has_sizes(self) -> bool:
        """Every object's size is right."""
        return all(thing.has_size for thing in self.things)

    @property
    def has_everything(self) -> bool:
        """Colors, places, shapes and background are right; sizes are counted apart."""
        return self.has_colors_at_places and self.has_shapes and self.has_background


def score(image: np.ndarray, scene: Scene) -> Result:
    """Compare a picture, [64, 64, 3] uint8, with the scene it was asked to show."""
    pixels = image.astype(np.float32)
    ring = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3)])
    sides = np.concatenate([pixels[:, :2].reshape(-1, 3), pixels[:, -2:].reshape(-1, 3)])
    backdrop = np.median(np.concatenate([ring, sides]), axis=0)
    background = nearest(backdrop, drawing.BACKGROUNDS, BACKGROUND_TOLERANCE)
    things = tuple(
        score_thing(pixels, backdrop, thing, region(thing, len(scene.things)))
        for thing in scene.things
    )
    return Result(things, background, background == scene.background)


def region(thing: Thing, things: int) -> np.ndarray:
    """Where an object is looked for, [64, 64] bool: everywhere if alone, else its half."""
    half = drawing.IMAGE_SIZE // 2
    mask = np.ones((drawing.IMAGE_SIZE,) * 2, bool)
    if things > 1:
        mask = np.zeros_like(mask)
        rows = {"top": slice(0, half), "bottom": slice(half, None)}.get(thing.place, slice(None))
        columns = {"left": slice(0, half), "right": slice(half, None)}.get(thing.place, slice(None))
        mask[rows, columns] = True
    return mask


def score_thing(
    pixels: np.ndarray, backdrop: np.ndarray, thing: Thing, where: np.ndarray
) -> ThingResult:
    """Find the one object in a region and judge it."""
    distance = np.linalg.norm(pixels - backdrop, axis=-1)
    rough = (distance > MIN_FOREGROUND_DISTANCE) & where
    if rough.sum() < MIN_OBJECT_PIXELS:
        return ThingResult(None, None, None, False, False, False)
    inner = rough & (distance > 0.8 * np.percentile(distance[rough], 80))
    rgb = np.median(pixels[inner], axis=0)
    color = nearest(rgb, drawing.COLORS, COLOR_TOLERANCE)
    mask = rough & (distance > 0.5 * np.linalg.norm(rgb - backdrop))
    ys, xs = np.nonzero(mask)
    x, y = float(xs.mean()) + 0.5, float(ys.mean()) + 0.5
    shape, size = classify_shape(mask)
    place_x, place_y = drawing.PLACES[thing.place]
    center_x, center_y = template_center(thing.shape, drawing.SIZES[size or thing.size])
    off_place = np.hypot(x - place_x - center_x, y - place_y - center_y)
    return ThingResult(
        color=color,
        shape=shape,
        size=size,
        has_color_at_place=color == thing.color and bool(off_place <= PLACE_TOLERANCE),
        has_shape=shape == thing.shape,
        has_size=size == thing.size,
    )


def classify_shape(mask: np.ndarray) -> tuple[str | None, str | None]:
    """The shape and size whose drawing overlaps best with `mask`, [64, 64] bool, if any does."""
    ys, xs = np.nonzero(mask)
    x, y = xs.mean() + 0.5, ys.mean() + 0.5
    best: tuple[float, str, int] = (0.0, "", 0)
    for shape in drawing.SHAPES:
        for extent in range(13, 34):
            center_x, center_y = template_center(shape, extent)
            for dx in (-1, 0, 1):
                for dy in (-1, 0, 1):
                    at = round(x - center_x) + dx, round(y - center_y) + dy
                    best = max(best, (iou(mask, template(shape, extent, *at)), shape, extent))
    if best[0] < MIN_SHAPE_IOU:
        return None, None
    middle = sum(drawing.SIZES.values()) / 2
    return best[1], "large" if best[2] > middle else "small"


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


@functools.lru_cache(maxsize=100_000)
def template(shape: str, extent: int, x: int, y: int) -> np.ndarray:
    return drawing.coverage(shape, extent, min(max(x, 0), 64), min(max(y, 0), 64)) > 0.5


@functools.cache
def template_center(shape: str, extent: int) -> tuple[float, float]:
    """How far an object's centroid lies from the point it is drawn at, (x, y) in pixels."""
    half = drawing.IMAGE_SIZE // 2
    ys, xs = np.nonzero(template(shape, extent, half, half))
    return float(xs.mean()) + 0.5 - half, float(ys.mean()) + 0.5 - half


def nearest(
    rgb: np.ndarray, palette: dict[str, tuple[int, int, int]], tolerance: float
) -> str | None:
    """The palette's closest color, or None if even that is further away than the tolerance."""
    distances = {name: float(np.linalg.norm(rgb - np.asarray(c))) for name, c in palette.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= tolerance else None


@dataclass(frozen=True)
class Case:
    """One caption to render, and what it asks for."""

    caption: str
    scene: Scene
    names_size: bool
    seed: int


def cases(count: int, seed: int, split: str) -> list[Case]:
    """`count` captions of one side of the split; image i starts from noise seed `seed + i`."""
    rng = np.random.default_rng([seed, 3])
    chosen = []
    for i in range(count):
        scene = drawing.sample_scene(rng, held_out=split == "heldout")
        caption, names_size = drawing.sample_caption(rng, scene)
        chosen.append(Case(caption, scene, names_size, seed + i))
    return chosen


def initial_latents(seeds: list[int]) -> np.ndarray:
    """[n, 4, 8, 8] float32, one legacy NumPy generator for each image."""
    return np.stack(
        [np.random.RandomState(s).standard_normal(LATENT_SHAPE).astype(np.float32) for s in seeds]
    )


def engine_renderer(
    path: Path, runtime: str = "auto", precision: str = "fp32", device: str = "cpu"
) -> Renderer:
    """Renders an exported bundle with this project's engine, as [n, 64, 64, 3] float32."""
    from ldm_engine import LDMTextToImagePipeline

    pipe = LDMTextToImagePipeline.from_pretrained(
        path, runtime=runtime, precision=precision, device=device
    )

    def render(
        captions: list[str], seeds: list[int], guidance_scale: float, steps: int
    ) -> np.ndarray:
        output = pipe(
            captions,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            seed=seeds,
            output_type="np",
        )
        return np.asarray(output.images)

    return render


def diffusers_renderer(path: Path, threads: int | None) -> Renderer:
    """Renders a checkpoint folder with diffusers' own pipeline, unmodified, in float32."""
    import torch
    from diffusers import LDMTextToImagePipeline

    if threads:
        torch.set_num_threads(threads)
    pipe = LDMTextToImagePipeline.from_pretrained(path, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)

    def render(
        captions: list[str], seeds: list[int], guidance_scale: float, steps: int
    ) -> np.ndarray:
        output = pipe(
            captions,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            latents=torch.from_numpy(initial_latents(seeds)),
            output_type="np",
        )
        return np.asarray(output.images)

    return render


def render_cases(
    render: Renderer, chosen: list[Case], guidance_scale: float, steps: int
) -> np.ndarray:
    """[n, 64, 64, 3] uint8, a batch at a time, with progress."""
    images, start = [], time.monotonic()
    for i in range(0, len(chosen), BATCH):
        batch = chosen[i : i + BATCH]
        rendered = render(
            [c.caption for c in batch], [c.seed for c in batch], guidance_scale, steps
        )
        images.append(np.rint(rendered * 255).astype(np.uint8))
        print(
            f"rendered {i + len(batch)}/{len(chosen)} in {time.monotonic() - start:.0f} s",
            flush=True,
        )
    return np.concatenate(images)


def summarize(chosen: list[Case], results: list[Result]) -> dict[str, float]:
    """The share of captions for which each property holds; sizes where captions name them."""
    sized = [r.has_sizes for c, r in zip(chosen, results, strict=True) if c.names_size]
    return {
        "color_and_place": float(np.mean([r.has_colors_at_places for r in results])),
        "shape": float(np.mean([r.has_shapes for r in results])),
        "background": float(np.mean([r.has_background for r in results])),
        "overall": float(np.mean([r.has_everything for r in results])),
        "size": float(np.mean(sized)) if sized else float("nan"),
    }


def describe(case: Case, result: Result) -> str:
    """One line on what a failed picture shows instead."""
    found = "; ".join(
        f"{t.place}: {r.size} {r.color} {r.shape}"
        + ("" if r.has_color_at_place else " (color or place wrong)")
        for t, r in zip(case.scene.things, result.things, strict=True)
    )
    return f"seed {case.seed}: {case.caption!r} -> {found}; background {result.background}"


def contact_sheet(images: np.ndarray, results: list[Result], columns: int = 20) -> Image.Image:
    """All pictures in reading order at twice their size; failed ones have a red frame."""
    cell = 2 * drawing.IMAGE_SIZE + 6
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * cell), (200, 200, 200))
    draw = ImageDraw.Draw(sheet)
    for i, (pixels, result) in enumerate(zip(images, results, strict=True)):
        x, y = i % columns * cell, i // columns * cell
        if not result.has_everything:
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=(255, 0, 0))
        picture = Image.fromarray(pixels).resize((cell - 6, cell - 6), Image.Resampling.NEAREST)
        sheet.paste(picture, (x + 3, y + 3))
    return sheet


def autoencoder_psnr(path: Path, count: int, seed: int) -> float:
    """PSNR in dB over all pixels of `count` held-out pictures, encoded and decoded."""
    import torch
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(path / "vqvae", torch_dtype=torch.float32)
    rng = np.random.default_rng([seed, 4])
    squares = []
    for _ in range(0, count, BATCH):
        drawn = np.stack(
            [drawing.render(rng, drawing.sample_scene(rng, held_out=True)) for _ in range(BATCH)]
        )
        images = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            latents = model.encode(images * 2 - 1).latent_dist.mode()
            decoded = (model.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        squares.append((decoded - images).square().mean().item())
    return float(-10 * np.log10(np.mean(squares)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", type=Path, help="an exported bundle or a diffusers checkpoint folder"
    )
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--guidance-scale", type=float, nargs="+", default=[2.0])
    parser.add_argument("--num-inference-steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("heldout", "train"), default="heldout")
    parser.add_argument("--json", type=Path, help="write the figures and failures here")
    parser.add_argument(
        "--contact-sheet", type=Path, help="write the last guidance's pictures here (PNG)"
    )
    parser.add_argument(
        "--autoencoder", action="store_true", help="checkpoint folder: also measure PSNR"
    )
    parser.add_argument("--threads", type=int, help="checkpoint folder: torch threads")
    parser.add_argument("--runtime", default="auto", help="bundle: what runs it")
    parser.add_argument("--precision", default="fp32", help="bundle: fp32, bf16 or int8")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    is_bundle = (args.model / "bundle.json").exists()
    render = (
        engine_renderer(args.model, args.runtime, args.precision)
        if is_bundle
        else diffusers_renderer(args.model, args.threads)
    )
    chosen = cases(args.captions, args.seed, args.split)
    report = []
    for guidance_scale in args.guidance_scale:
        images = render_cases(render, chosen, guidance_scale, args.num_inference_steps)
        results = [score(image, c.scene) for image, c in zip(images, chosen, strict=True)]
        failed = [(c, r) for c, r in zip(chosen, results, strict=True) if not r.has_everything]
        print(f"guidance {guidance_scale:g}: {len(failed)} of {len(chosen)} fail")
        print("\n".join("  " + describe(c, r) for c, r in failed))
        report.append(
            {
                "guidance_scale": guidance_scale,
                "num_inference_steps": args.num_inference_steps,
                "captions": len(chosen),
                "split": args.split,
                "seed": args.seed,
                "rates": summarize(chosen, results),
                "failures": [
                    {"caption": c.caption, "seed": c.seed, **asdict(r)} for c, r in failed
                ],
            }
        )
    print("\nguidance  color+place   shape  background  overall    size")
    for entry in report:
        r = entry["rates"]
        print(
            f"{entry['guidance_scale']:8g}  {r['color_and_place']:11.3f}  {r['shape']:6.3f}  "
            f"{r['background']:10.3f}  {r['overall']:7.3f}  {r['size']:6.3f}"
        )
    if args.autoencoder and not is_bundle:
        psnr = autoencoder_psnr(args.model, 500, args.seed)
        print(f"autoencoder PSNR on 500 held-out pictures: {psnr:.2f} dB")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if args.contact_sheet:
        contact_sheet(images, results).save(args.contact_sheet)


if __name__ == "__main__":
    main()
