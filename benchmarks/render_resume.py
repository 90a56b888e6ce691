"""What a start costs over a job file whose images are done: seconds, and memory at most."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import ldm_engine
from ldm_engine.rendering.jobs.rows import Defaults, RowReader
from ldm_engine.rendering.records import record, to_line
from ldm_engine.sampling.opening import open_to_run
from ldm_engine.sampling.settings import default_values, settings_hash
from process import measure

COMMAND = Path(sys.executable).with_name("ldm-engine")
STEPS = 2


def main() -> None:
    """Make the output of a run that is complete, and measure the command over it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jobs, output = Path(folder, "jobs.jsonl"), Path(folder, "out")
        _make_jobs(jobs, a.rows)
        _make_output(a.bundle, jobs, output)
        options = ["--num-inference-steps", str(STEPS), "--batch-size", "1"]
        command = [COMMAND, "render", a.bundle, jobs, "--output", output, *options]
        used = measure([str(word) for word in command])
    print(
        f"{a.rows} rows: {used['seconds']:.1f} s, {used['core_seconds']:.1f} s on a core; at most "
        f"{used['peak_resident_bytes'] >> 20} MiB resident, "
        f"{used['peak_anonymous_bytes'] >> 20} MiB anonymous"
    )


def _make_jobs(path: Path, count: int) -> None:
    with path.open("w") as file:
        for row in range(count):
            job = {"id": f"job-{row}", "prompt": f"a large red circle, number {row}"}
            file.write(json.dumps(job) + "\n")


def _make_output(bundle: Path, jobs: Path, output: Path) -> None:
    """Render the first job; of all others, write the record and an empty file for the image."""
    opened, settings = open_to_run(bundle), {"num_inference_steps": STEPS, "guidance_scale": 6.0}
    limits = opened.limits
    reader = RowReader(limits, Defaults(settings=default_values() | settings))
    with jobs.open() as rows:
        first_job = [json.loads(next(rows))]
        (done,) = ldm_engine.render(bundle, first_job, output=output, batch_size=1, **settings)
        with (output / "records.jsonl").open("ab") as records:
            for row, line in enumerate(rows, 2):
                (task,) = reader.tasks(row, json.loads(line))
                path = f"images/{task.identity.stem}.png"
                (output / path).parent.mkdir(exist_ok=True)
                (output / path).touch()
                facts = {"settings": settings_hash(task.values).hex()}
                records.write(to_line({**done, **record(task, path, {"bytes": 0}, facts)}))


if __name__ == "__main__":
    main()
