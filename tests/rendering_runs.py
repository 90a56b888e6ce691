"""Runs the command ``render`` on jobs and compares what came out."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from forked import run_command

ENVIRONMENT = {"COLUMNS": "100"}
COMMAND = Path(sys.executable).parent / "ldm-engine"


class Runs:
    """Runs ``ldm-engine render`` on one bundle: called, to its end; `start` gives its process."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.bundle = bundle
        self.folder = folder

    def jobs(self, rows, name="jobs.jsonl"):
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def command(self, jobs, output, *options):
        words = [COMMAND, "render", self.bundle, jobs, "--output", output, *options]
        return [str(word) for word in words]

    def start(self, jobs, output, *options, file_size_limit=None, environment=None):
        def prepare():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a parent may ignore
            if file_size_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, file_size_limit))

        return subprocess.Popen(
            self.command(jobs, output, *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=prepare,
            env={**os.environ, **ENVIRONMENT, **(environment or {})},
        )

    def __call__(self, jobs, output, *options, code=0):
        words = self.command(jobs, output, *options)[1:]
        done = run_command(*words, environment=ENVIRONMENT, is_merged=True)
        assert done.returncode == code, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout


def read_lines(path):
    """The lines of a journal, whole ones only."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(True) if line[-1:] == b"\n"]


def images_of(output):
    """Content by path of all files in the folder of images."""
    return {n: c for n, c in files_of(output).items() if n.startswith("images/")}


def files_of(output):
    """Content by path of all images and archives, of the page, and of what is left lying about."""
    files = sorted(p for p in output.rglob("*") if p.is_file())
    names = [str(p.relative_to(output)) for p in files]
    content = [n for n in names if not n.endswith((".jsonl", ".json", ".js")) and ".locks" not in n]
    return {name: (output / name).read_bytes() for name in content}


def records_of(output, name="records.jsonl"):
    """Records by id without what differs from run to run; each id is there once."""
    records = read_lines(output / name)
    found = {r["id"]: {k: v for k, v in r.items() if k != "seconds"} for r in records}
    assert len(found) == len(records)
    return found
