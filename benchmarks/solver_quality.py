"""How near the pictures of each solver, in each precision, come to the converged ones, as a table.

For a bundle of examples/shapes to which solvers were fitted: held-out captions, drawn by DDIM in 50
steps, by every fitted solver and by DPM-Solver++ in as many steps, against the converged pictures
in fp32; and how many of them show what their captions say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldm_engine import LDMEngineError, LDMTextToImagePipeline
from ldm_engine.commands.images import contact_sheet
from ldm_engine.fitting.images import BATCH, Array, Images
from ldm_engine.fitting.judging import figures, psnr
from ldm_engine.fitting.reference import STEPS, reference_rows
from ldm_engine.fitting.tables import DDIM_STEPS
from ldm_engine.runtimes.choice import usable_runtimes
from ldm_engine.sampling.solvers import Row, ddim_rows, dpmsolver_rows
from tables import table

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "shapes"))
import evaluate

RUNTIME = "openvino"
SHOWN = 12  # captions on the contact sheet
Key = tuple[float, str, int]  # guidance, solver, steps


class Quality:
    """One bundle, and held-out captions.

    Attributes:
        pictures: of `rows` so far: what each solver drew in fp32 for the first captions.
    """

    def __init__(self, bundle: Path, captions: int, seed: int) -> None:
        self._bundle = bundle
        self._cases = evaluate.cases(captions, seed, "heldout")
        self.pictures: dict[Key, Array] = {}
        with self._opened("fp32") as pipe:
            self._tables = pipe.opened.tables.tables
            self._schedule = pipe.schedule
            self._precisions = [
                precision
                for choice, precision in usable_runtimes(pipe.bundle)
                if choice.runtime.name == RUNTIME
            ]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One for each guidance, solver, number of steps and precision."""
        for guidance in dict.fromkeys(fitted.guidance_scale for fitted in self._tables):
            with self._opened("fp32") as pipe:
                converged = self._pixels(pipe, guidance, reference_rows(self._schedule, STEPS))
            yield self._row((guidance, "converged", STEPS), "fp32", converged, converged)
            for precision in self._precisions:
                with self._opened(precision) as pipe:
                    for key, rows in self._solvers(guidance, precision):
                        pixels = self._pixels(pipe, guidance, rows)
                        yield self._row(key, precision, pixels, converged)

    def _opened(self, precision: str) -> LDMTextToImagePipeline:
        return LDMTextToImagePipeline.from_pretrained(
            self._bundle, runtime=RUNTIME, precision=precision
        )

    def _solvers(self, guidance: float, precision: str) -> Iterator[tuple[Key, Sequence[Row]]]:
        yield (guidance, "ddim", DDIM_STEPS), ddim_rows(self._schedule, DDIM_STEPS, 0.0)
        for fitted in self._tables:
            if fitted.guidance_scale == guidance:
                n = fitted.steps
                yield (guidance, "fitted", n), fitted.rows(self._schedule)
                if precision == "fp32":
                    usual = self._schedule.log_snr_timesteps(n)
                    yield (guidance, "dpmsolver++", n), dpmsolver_rows(self._schedule, usual)

    def _pixels(self, pipe: LDMTextToImagePipeline, guidance: float, rows: Sequence[Row]) -> Array:
        """[N, H, W, 3] in [0, 1]."""
        parts = []
        for start in range(0, len(self._cases), BATCH):
            cases = self._cases[start : start + BATCH]
            images = Images(
                pipe, [c.caption for c in cases], [c.seed for c in cases], guidance, lambda: None
            )
            parts.append(images.decode(images.walk(rows)[None]))
        return np.concatenate(parts)

    def _row(self, key: Key, precision: str, pixels: Array, converged: Array) -> dict[str, Any]:
        guidance, solver, steps = key
        print(f"guidance {guidance:g}, {solver} {steps}, {precision}", file=sys.stderr)
        seen = np.rint(pixels * 255).astype(np.uint8)
        if precision == "fp32":
            self.pictures[key] = seen[:SHOWN]
        results = [evaluate.score(i, c.scene) for i, c in zip(seen, self._cases, strict=True)]
        return {
            "guidance_scale": guidance,
            "solver": solver,
            "steps": steps,
            "precision": precision,
            "psnr": vars(figures(psnr(pixels, converged))),
            "rates": evaluate.summarize(self._cases, results),
        }


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    head = ["guidance", "solver", "calls", "precision", "median", "10th percentile", "least"]
    head += ["color and place", "shape", "background"]
    cells = []
    for row in rows:
        names = ("median", "tenth_percentile", "least")
        is_reference = row["solver"] == "converged"
        pictures = ["" if is_reference else f"{row['psnr'][name]:.1f}" for name in names]
        rates = [f"{row['rates'][k]:.3f}" for k in ("color_and_place", "shape", "background")]
        cells.append(
            [
                f"{row['guidance_scale']:g}",
                row["solver"],
                str(row["steps"]),
                row["precision"],
                *pictures,
                *rates,
            ]
        )
    return table(head, cells)


def main() -> None:
    """Parse the command line, measure, print the table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="of examples/shapes, with fitted solvers")
    parser.add_argument("--captions", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--sheet", type=Path, help="image file: pictures of the last guidance")
    a = parser.parse_args()
    rows = []
    try:
        quality = Quality(a.bundle, a.captions, a.seed)
        for row in quality.rows():
            rows.append(row)
            if a.output:  # as far as it is: the whole takes long
                a.output.write_text(json.dumps(rows, indent=1) + "\n")
    except LDMEngineError as error:
        sys.exit(f"Error: {error}")
    print(to_markdown(rows))
    if a.sheet:
        last = rows[-1]["guidance_scale"]
        shown = [p for key, p in quality.pictures.items() if key[0] == last]
        images = [Image.fromarray(pixels) for row in shown for pixels in row]
        contact_sheet(images, min(SHOWN, a.captions)).save(a.sheet)


if __name__ == "__main__":
    main()
