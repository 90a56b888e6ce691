"""Memory of a long run: what the process holds itself after so many images."""

from __future__ import annotations

import argparse
import os
import tempfile

import ldm_engine
from ldm_engine.machine.memory import read_memory


def main() -> None:
    """Render without end in sight, and look at /proc at each of the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 1000, 2500, 5000])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-inference-steps", type=int, default=5)
    a = parser.parse_args()
    jobs = [f"a large red circle, number {i}, black background" for i in range(max(a.counts))]
    with tempfile.TemporaryDirectory() as folder:
        records = ldm_engine.render(
            a.bundle,
            jobs,
            output=f"{folder}/out",
            batch_size=a.batch_size,
            num_inference_steps=a.num_inference_steps,
            guidance_scale=2.0,
        )
        for count, _ in enumerate(records, 1):
            memory = read_memory(os.getpid()) if count in a.counts else None
            if memory is not None:
                print(
                    f"{count} images: {memory.anonymous / 2**20:.1f} MiB anonymous, "
                    f"{memory.resident / 2**20:.1f} MiB resident",
                    flush=True,
                )


if __name__ == "__main__":
    main()
