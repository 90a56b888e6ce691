"""How far every runtime and precision lies from the original model, as one Markdown table.

For a bundle of examples/shapes: the relative error of each program (as the export measured it), the
pictures of held-out captions against those of the first runtime in fp32, and how many of them show
what they were asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ldm_engine import Bundle, open_bundle
from ldm_engine.bundle.contract import PROGRAMS
from ldm_engine.runtimes.choice import usable_runtimes

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "shapes"))
import evaluate

GUIDANCE_SCALE = 2.0  # what examples/shapes recommends
BASELINE = ("paddle", "fp32")


def measure(bundle: Bundle, captions: int, steps: int, seed: int) -> list[dict[str, Any]]:
    """One row for each runtime and precision that runs here, the baseline first."""
    chosen = evaluate.cases(captions, seed, "heldout")
    pairs = [(choice.runtime.name, precision) for choice, precision in usable_runtimes(bundle)]
    pairs.sort(key=lambda pair: pair != BASELINE)
    rows: list[dict[str, Any]] = []
    baseline: np.ndarray | None = None
    for runtime, precision in pairs:
        print(f"{runtime} {precision}", file=sys.stderr)
        render = evaluate.engine_renderer(bundle.path, runtime, precision)
        images = evaluate.render_cases(render, chosen, GUIDANCE_SCALE, steps)
        baseline = images if baseline is None else baseline
        results = [evaluate.score(i, c.scene) for i, c in zip(images, chosen, strict=True)]
        row = {"runtime": runtime, "precision": precision, "captions": captions, "steps": steps}
        row["programs"] = {
            name: parity.relative_l2_error
            for name, parity in bundle.parity.get(runtime, {}).get(precision, {}).items()
        }
        row["rates"] = evaluate.summarize(chosen, results)
        rows.append(row | compare(images, baseline))
    return rows


def compare(images: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """8-bit pictures [n, h, w, 3] against those of the baseline."""
    difference = np.abs(images.astype(int) - baseline.astype(int))
    power = np.maximum((difference.astype(float) ** 2).mean(axis=(1, 2, 3)), 1e-6)
    psnr = 10 * np.log10(255.0**2 / power)
    return {
        "largest_difference": int(difference.max()),
        "psnr_median": float(np.median(psnr)),
        "psnr_p10": float(np.percentile(psnr, 10)),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    names = (*PROGRAMS, "end_to_end")
    lines = [
        f"| runtime | precision | {' | '.join(f'`{n}`' for n in names)} | largest difference "
        "| PSNR median | PSNR 10 % | color and place | shape | background |",
        "|---" * (len(names) + 8) + "|",
    ]
    for row in rows:
        errors = [f"{row['programs'][n]:.1e}" if n in row["programs"] else "" for n in names]
        is_baseline = row is rows[0]
        psnr = [
            "" if is_baseline else ("> 100 dB" if row[k] > 100 else f"{row[k]:.1f} dB")
            for k in ("psnr_median", "psnr_p10")
        ]
        largest = "" if is_baseline else f"{row['largest_difference']}/255"
        rates = [f"{row['rates'][k]:.3f}" for k in ("color_and_place", "shape", "background")]
        cells = [row["runtime"], row["precision"], *errors, largest, *psnr, *rates]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure, print the table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="of examples/shapes")
    parser.add_argument("--captions", type=int, default=400)
    parser.add_argument("--num-inference-steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    rows = measure(
        open_bundle(arguments.bundle),
        arguments.captions,
        arguments.num_inference_steps,
        arguments.seed,
    )
    print(table(rows))
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
