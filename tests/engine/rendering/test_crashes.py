"""Killed at any instant and started again, a run ends as if nothing had happened.

Each kind of change that a run makes to its files is killed by itself; a few kills come at random.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from PIL import Image

import ldm_engine
from kill_points import KillPoint, kill_points, render_apart
from ldm_engine.errors import OutputError
from rendering_runs import files_of, images_of, read_lines, records_of

JOBS = 60
KILLS = 5
#: ONNX Runtime starts fastest, and a process lives for a few batches only.
OPTIONS = ("--batch-size", 4, "--runtime", "onnxruntime", "--num-inference-steps", 10)
FAR_BELOW_AN_IMAGE = 5000  #: bytes; far above the first file, run.json
SETTINGS = {"num_inference_steps": 1, "batch_size": 2, "runtime": "onnxruntime", "threads": 1}
ARCHIVES = {"layout": "webdataset", "images_per_tar": 3}


def make_rows(count):
    """Three groups that share no batches, ids of all kinds, and two rows that fail."""
    rows = [
        {
            "id": f"Job/{i} 🐿" if i % 3 else f"job-{i}",
            "prompt": f"a {i % 7} thing",
            "guidance_scale": (1, 2, 3.5)[i % 3],
            "eta": (0, 0.5)[i % 2],
            "note": i,
        }
        for i in range(count)
    ]
    return [*rows[:5], {"prompt": 7}, *rows[5:], rows[3]]


def from_pictures(rows, folder):
    """The rows, two thirds of them with a picture in `folder`, half of these with a mask too."""
    image, mask = folder / "picture.png", folder / "mask.png"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(image)
    Image.linear_gradient("L").resize((64, 64)).save(mask)
    inputs = ({}, {"image": str(image), "strength": 1}, {"image": str(image), "mask": str(mask)})
    return [{**row, **inputs[i % 3]} for i, row in enumerate(rows)]


@dataclass(frozen=True)
class Case:
    """A start of a run, whose kinds of changes are those to be killed at."""

    options: Mapping[str, Any] = field(default_factory=dict)
    pictures: bool = False  #: whether jobs start from some
    killed_at: KillPoint | None = None  #: an earlier start was
    shards: int = 0  #: that have rendered before


CASES = {
    "first start": Case(),
    "first start with archives": Case(ARCHIVES),
    "second start": Case(killed_at=KillPoint("torn", "records.jsonl")),
    "second start with archives": Case(ARCHIVES, killed_at=KillPoint("torn", "records.jsonl")),
    "after shards": Case(shards=2),
    "from pictures": Case(pictures=True),
}


def _assert_same(output, whole):
    assert files_of(output) == files_of(whole)
    assert records_of(output) == records_of(whole)
    failures = [
        {f["row"]: f["error"] for f in read_lines(o / "failures.jsonl")} for o in (output, whole)
    ]
    assert failures[0] == failures[1]
    assert len(failures[0]) == len(read_lines(output / "failures.jsonl")) == 2
    left = {p.name for p in output.iterdir()}
    assert left == {p.name for p in whole.iterdir()}


def _check_what_is_there(output):
    """At every instant an image is whole, and what has a record is there."""
    for record in read_lines(output / "records.jsonl"):
        size = record.get("archive_bytes", record["bytes"])
        assert (output / record["path"]).stat().st_size == size
    for content in images_of(output).values():
        assert content.endswith(b"IEND\xaeB`\x82")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_kill_at_any_change_changes_nothing(tiny_onnx_bundle, tmp_path, case):
    jobs = from_pictures(make_rows(7), tmp_path) if case.pictures else make_rows(7)
    settings = {**SETTINGS, **case.options}
    render = partial(ldm_engine.render, tiny_onnx_bundle.path, jobs, **settings)
    apart = partial(render_apart, tiny_onnx_bundle.path, jobs, **settings)
    whole, begun = tmp_path / "whole", tmp_path / "begun"
    points = kill_points(tiny_onnx_bundle.path, jobs, output=whole, **settings)
    begun.mkdir()
    if case.killed_at:
        assert apart(output=begun, point=case.killed_at)
    for number in range(case.shards):
        deque(render(output=begun, shard=f"{number + 1}/{case.shards}"), maxlen=0)
    if any(begun.iterdir()):
        copy = shutil.copytree(begun, tmp_path / "continued")
        points = kill_points(tiny_onnx_bundle.path, jobs, output=copy, **settings)
    output = shutil.copytree(begun, tmp_path / "out")
    for point in points:
        if not apart(output=output, point=point):  # which was not on the way from the last kill
            _assert_same(output, whole)
            shutil.rmtree(output)
            shutil.copytree(begun, output)
            assert apart(output=output, point=point), point
        _check_what_is_there(output)
    deque(render(output=output), maxlen=0)
    _assert_same(output, whole)


@pytest.fixture(scope="module")
def jobs(crash_runs):
    return crash_runs.jobs(make_rows(JOBS))


@pytest.fixture(scope="module")
def whole(crash_runs, jobs):
    """What an uninterrupted run gives."""
    output = crash_runs.folder / "whole"
    crash_runs(jobs, output, *OPTIONS)
    assert len(images_of(output)) == JOBS
    return output


def _kill_at_random(run, output, chance, counts, journal="records"):
    """Let a process get some way into the run, or not even there, and kill it."""
    begun = _count_lines(output, journal)
    batches = chance.choice([None, None, 0, 0, 0, 1])
    deadline = time.monotonic() + (chance.random() if batches is None else 60)
    while time.monotonic() < deadline and run.poll() is None:
        done = _count_lines(output, journal)
        if batches is not None and done - begun > 4 * batches:
            time.sleep(chance.random() * 0.02)
            break
        time.sleep(0.004)
    run.send_signal(signal.SIGKILL)
    shown, _ = run.communicate()
    counts[run.returncode] = counts.get(run.returncode, 0) + 1
    assert run.returncode in (0, -signal.SIGKILL), shown
    assert "Traceback" not in shown, shown


def _count_lines(output, journal):
    return sum(len(read_lines(path)) for path in output.glob(f"{journal}*.jsonl"))


def test_kills_at_random_change_nothing(crash_runs, jobs, whole, tmp_path):
    chance, counts, output = random.Random(0), {}, tmp_path / "out"
    while sum(counts.values()) < KILLS:
        _kill_at_random(crash_runs.start(jobs, output, *OPTIONS), output, chance, counts)
        _check_what_is_there(output)
    crash_runs(jobs, output, *OPTIONS)
    _assert_same(output, whole)
    assert counts[-signal.SIGKILL] >= 3


def test_two_shards_that_are_killed_end_as_one_run(crash_runs, jobs, whole, tmp_path):
    chance, counts, output = random.Random(1), {}, tmp_path / "out"
    for _ in range(2):
        both = [crash_runs.start(jobs, output, *OPTIONS, "--shard", f"{i}/2") for i in (1, 2)]
        for run in both:
            _kill_at_random(run, output, chance, counts)
    assert counts[-signal.SIGKILL] >= 3
    shards = [crash_runs.start(jobs, output, *OPTIONS, "--shard", f"{i}/2") for i in (1, 2)]
    for run in shards:
        assert run.wait() == 0, run.stdout.read()
    parts = [records_of(output, f"records-{i}-of-2.jsonl") for i in (1, 2)]
    assert not parts[0].keys() & parts[1].keys()
    assert parts[0] | parts[1] == records_of(whole)
    crash_runs(jobs, output, *OPTIONS)  # puts the shards' records together
    _assert_same(output, whole)


def test_a_worker_that_cannot_write_its_last_batch_stops_the_run(crash_runs, tmp_path):
    """It waits for another batch then, and none comes."""
    jobs = crash_runs.jobs([{"prompt": "a"}] * 4, "few.jsonl")
    run = crash_runs.start(
        jobs, tmp_path / "out", *OPTIONS, "--workers", 2, file_size_limit=FAR_BELOW_AN_IMAGE
    )
    shown, _ = run.communicate(timeout=120)
    assert run.returncode == 1, shown
    assert "cannot be written" in shown


def test_a_disk_that_fills_up_stops_the_run_until_there_is_room(tiny_onnx_bundle, tmp_path):
    """With a limit on their size, files are written in part and then refused, as on a full disk."""
    chance, jobs = random.Random(2), make_rows(JOBS)
    whole, output = tmp_path / "whole", tmp_path / "out"
    for limit in [1000, *sorted(chance.randint(9000, 22_000) for _ in range(5))]:
        with pytest.raises(OutputError, match=r"cannot be written.*start the same command again"):
            render_apart(
                tiny_onnx_bundle.path, jobs, output=output, file_size_limit=limit, **SETTINGS
            )
        _check_what_is_there(output)
    for folder in (whole, output):
        deque(ldm_engine.render(tiny_onnx_bundle.path, jobs, output=folder, **SETTINGS), maxlen=0)
    _assert_same(output, whole)
