"""How far every runtime and precision lies from the original model, as one Markdown table.

For a bundle of examples/shapes: the relative error of each program (as the export measured it), the
pictures of held-out captions against those of the first runtime in fp32 on the CPU, and how many of
them show what their captions say. Fails if pictures are too far apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ldm_engine import Bundle, LDMEngineError, open_bundle
from ldm_engine.bundle.contract import PROGRAMS
from ldm_engine.runtimes.choice import select_runtimes
from tables import table

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "shapes"))
import evaluate

GUIDANCE_SCALE = 2.0  # what examples/shapes recommends
BASELINE = ("paddle", "fp32")
#: What the median picture must reach, in dB to the baseline. In fp32 two runtimes on the CPU are
#: above 90; lower precisions go other ways from step to step.
MIN_PSNR = {"fp32": 60.0, "fp16": 35.0, "bf16": 35.0, "int8": 35.0}


def measure(
    bundle: Bundle,
    captions: int,
    steps: int,
    seed: int,
    device: str = "cpu",
    sheets: Path | None = None,
) -> list[dict[str, Any]]:
    """One row for each runtime and precision that runs on `device`, the baseline first.

    Contact sheets go into the folder `sheets`.

    Raises:
        RuntimeUnavailableError: if none does, before anything is loaded.
    """
    chosen = evaluate.cases(captions, seed, "heldout")
    names = [(c.runtime.name, p) for c, p in select_runtimes(bundle, "all", "all", device)[0]]
    on_cpu = [(c.runtime.name, p) for c, p in select_runtimes(bundle, "all", "fp32")[0]]
    first = BASELINE if BASELINE in on_cpu else on_cpu[0]
    runs = dict.fromkeys([(*first, "cpu"), *((*name, device) for name in names)])
    rows: list[dict[str, Any]] = []
    baseline: np.ndarray | None = None
    for runtime, precision, where in runs:
        title = f"{runtime} {precision}" + ("" if where == "cpu" else f" {where}")
        print(title, file=sys.stderr)
        render = evaluate.engine_renderer(bundle.path, runtime, precision, where)
        images = evaluate.render_cases(render, chosen, GUIDANCE_SCALE, steps)
        baseline = images if baseline is None else baseline
        results = [evaluate.score(i, c.scene) for i, c in zip(images, chosen, strict=True)]
        if sheets is not None:
            sheets.mkdir(parents=True, exist_ok=True)
            evaluate.contact_sheet(images, results).save(sheets / f"{title.replace(' ', '-')}.png")
        parity = bundle.parity.get(runtime, {}).get(precision, {}) if where == "cpu" else {}
        rows.append(
            {
                "runtime": runtime,
                "precision": precision,
                "device": where,
                "captions": captions,
                "steps": steps,
                "programs": {name: p.relative_l2_error for name, p in parity.items()},
                "rates": evaluate.summarize(chosen, results),
                **compare(images, baseline),
            }
        )
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
        "psnr_least": float(psnr.min()),
    }


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    programs = (*PROGRAMS, "end_to_end")
    head = ["runtime", "precision", "device", *(f"`{name}`" for name in programs)]
    head += ["largest difference", "PSNR median", "PSNR 10 %", "PSNR least"]
    head += ["color and place", "shape", "background"]
    cells = []
    for row in rows:
        errors = [f"{row['programs'][n]:.1e}" if n in row["programs"] else "" for n in programs]
        pictures = [f"{row['largest_difference']}/255"]
        for name in ("psnr_median", "psnr_p10", "psnr_least"):
            pictures.append("> 100 dB" if row[name] > 100 else f"{row[name]:.1f} dB")
        rates = [f"{row['rates'][k]:.3f}" for k in ("color_and_place", "shape", "background")]
        pictures = [""] * 4 if row is rows[0] else pictures
        device = "" if row["device"] == "cpu" else row["device"]
        cells.append([row["runtime"], row["precision"], device, *errors, *pictures, *rates])
    return table(head, cells)


def main() -> None:
    """Parse the command line, measure, print the table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="of examples/shapes")
    parser.add_argument("--device", default="cpu", help="cpu, or gpu:0, gpu:1, ...")
    parser.add_argument("--captions", type=int, default=400)
    parser.add_argument("--num-inference-steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    a = parser.parse_args()
    try:
        bundle = open_bundle(a.bundle)
        rows = measure(bundle, a.captions, a.num_inference_steps, a.seed, a.device, a.sheets)
    except LDMEngineError as error:
        sys.exit(f"Error: {error}")
    print(to_markdown(rows))
    if a.output:
        a.output.write_text(json.dumps(rows, indent=1) + "\n")
    far = [r for r in rows if r["psnr_median"] < MIN_PSNR[r["precision"]]]
    if far:
        listing = ", ".join(f"{r['runtime']} {r['precision']}" for r in far)
        sys.exit(f"Error: the pictures of {listing} are further off than MIN_PSNR accepts.")


if __name__ == "__main__":
    main()
