"""``render --dry-run``: what is printed is what a run does, and nothing is written."""

from __future__ import annotations

import json

from rendering_runs import Runs, files_of

OPTIONS = ("--runtime", "onnxruntime", "--batch-size", 2, "--num-inference-steps", 2)
ROWS = [{"prompt": f"a {i}", "id": f"r{i}"} for i in range(4)]
BAD = [{"prompt": "a", "id": "bad", "eta": 5}]


def forecast(runs, jobs, output, *options):
    shown = runs(jobs, output, *OPTIONS, "--dry-run", "--json-progress", *options)
    (line,) = [line for line in shown.splitlines() if line.startswith("{")]
    return json.loads(line)


def all_of(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_of_a_run_that_was_not_begun(crash_runs, tmp_path):
    crash_runs.folder = tmp_path
    jobs = crash_runs.jobs([*ROWS, *BAD])
    shown = crash_runs(jobs, tmp_path / "out", *OPTIONS, "--dry-run")
    assert "4 of 4 images would be rendered" in shown
    assert "Their ids: r0, r1, r2, r3." in shown
    assert "1 row cannot be rendered" in shown
    assert "row 5: `eta` is 5" in shown
    assert "measured when a run begins" in shown
    assert not (tmp_path / "out").exists()
    crash_runs(jobs, tmp_path / "out", *OPTIONS, "--dry-run", "--strict", code=1)
    assert "None of the jobs" in crash_runs(
        crash_runs.jobs(BAD), tmp_path / "out", *OPTIONS, "--dry-run", code=1
    )


def test_a_checkpoint_is_not_exported_for_it(tmp_path, tiny_checkpoint):
    runs = Runs(tiny_checkpoint, tmp_path)
    said = runs(runs.jobs(ROWS), tmp_path / "out", *OPTIONS, "--dry-run", code=2)
    assert "is a checkpoint, which would be exported first" in " ".join(said.split())


def test_of_a_run_that_goes_on(crash_runs, tmp_path):
    crash_runs.folder = tmp_path
    output = tmp_path / "out"
    crash_runs(crash_runs.jobs([*ROWS[:2], *BAD]), output, *OPTIONS)
    (output / "images").rename(tmp_path / "images")  # so that the records would be written anew
    before = all_of(output)
    found = forecast(crash_runs, crash_runs.jobs(ROWS), output)
    assert (found["done"], found["to_do"]) == (0, 4)
    (tmp_path / "images").rename(output / "images")
    found = forecast(crash_runs, crash_runs.jobs(ROWS), output)
    assert (found["done"], found["to_do"], found["first"]) == (2, 2, ["r2", "r3"])
    assert found["seconds_left"] > 0
    assert found["groups"][0]["images"] == 2
    assert all_of(output).items() >= before.items()
    assert len(files_of(output)) == 3  # two images and the page
    assert "other settings" in crash_runs(
        crash_runs.jobs(ROWS), output, *OPTIONS, "--dry-run", "--eta", 1, code=1
    )


def test_of_archives(crash_runs, tmp_path):
    crash_runs.folder = tmp_path
    options = ("--layout", "webdataset", "--images-per-tar", 3)
    crash_runs(crash_runs.jobs(ROWS), tmp_path / "out", *OPTIONS, *options)
    (tmp_path / "out/shards/000000.tar").unlink()
    before = all_of(tmp_path / "out")
    found = forecast(crash_runs, tmp_path / "jobs.jsonl", tmp_path / "out", *options)
    assert (found["done"], found["to_do"]) == (1, 3)
    assert all_of(tmp_path / "out") == before
