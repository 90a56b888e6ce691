"""Killed at any instant and started again, a run ends as if nothing had happened."""

from __future__ import annotations

import random
import signal
import time

import pytest

from rendering_runs import files_of, images_of, read_lines, records_of

JOBS = 200
KILLS = 40
#: ONNX Runtime starts fastest, and a process lives for a few batches only.
OPTIONS = ("--batch-size", 4, "--runtime", "onnxruntime")
DEADLINE_S = 900
FAR_BELOW_AN_IMAGE = 5000  #: bytes; far above the first file, run.json


@pytest.fixture(scope="module")
def jobs(crash_runs):
    """Three groups that share no batches, ids of all kinds, and two rows that fail."""
    rows = [
        {
            "id": f"Job/{i} 🐿" if i % 3 else f"job-{i}",
            "prompt": f"a {i % 7} thing",
            "guidance_scale": (1, 2, 3.5)[i % 3],
            "eta": (0, 0.5)[i % 2],
            "num_inference_steps": 20 + (i % 5 == 0),
            "note": i,
        }
        for i in range(JOBS)
    ]
    return crash_runs.jobs([*rows[:50], {"prompt": 7}, *rows[50:], rows[3]])


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


def test_forty_kills_change_nothing(crash_runs, jobs, whole, tmp_path):
    chance, counts = random.Random(0), {}
    end = time.monotonic() + DEADLINE_S
    while counts.get(-signal.SIGKILL, 0) < KILLS and time.monotonic() < end:
        # A fast machine is through before the 40th kill, and begins another run.
        output = tmp_path / f"out-{counts.get(0, 0)}"
        _kill_at_random(crash_runs.start(jobs, output, *OPTIONS), output, chance, counts)
        _check_what_is_there(output)
    for output in tmp_path.glob("out-*"):
        crash_runs(jobs, output, *OPTIONS)
        _assert_same(output, whole)
    assert counts[-signal.SIGKILL] >= KILLS


def _check_what_is_there(output):
    """At every instant an image is whole, and what has a record is there."""
    for record in read_lines(output / "records.jsonl"):
        assert (output / record["path"]).stat().st_size == record["bytes"]
    for content in images_of(output).values():
        assert content.endswith(b"IEND\xaeB`\x82")


def test_kills_change_no_archive(crash_runs, jobs, tmp_path):
    options = (*OPTIONS, "--layout", "webdataset", "--images-per-tar", 32)
    whole, output = tmp_path / "whole", tmp_path / "out"
    crash_runs(jobs, whole, *options)
    chance, counts = random.Random(3), {}
    for _ in range(8):
        _kill_at_random(crash_runs.start(jobs, output, *options), output, chance, counts, "staged")
    crash_runs(jobs, output, *options)
    assert len(list((output / "shards").iterdir())) == 7
    _assert_same(output, whole)


def test_two_shards_that_are_killed_end_as_one_run(crash_runs, jobs, whole, tmp_path):
    chance, counts, output = random.Random(1), {}, tmp_path / "out"
    for _ in range(4):
        both = [crash_runs.start(jobs, output, *OPTIONS, "--shard", f"{i}/2") for i in (1, 2)]
        for run in both:
            _kill_at_random(run, output, chance, counts)
    assert counts[-signal.SIGKILL] >= 6
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


def test_a_disk_that_fills_up_stops_the_run_until_there_is_room(crash_runs, jobs, whole, tmp_path):
    """With a limit on their size, files are written in part and then refused, as on a full disk."""
    chance, output = random.Random(2), tmp_path / "out"
    for limit in [1000, *(chance.randint(9000, 40_000) for _ in range(4)), 60_000]:
        shown = crash_runs(jobs, output, *OPTIONS, code=1, file_size_limit=limit)
        assert "cannot be written" in shown
        assert "start the same command again" in " ".join(shown.split())
        _check_what_is_there(output)
    crash_runs(jobs, output, *OPTIONS)
    _assert_same(output, whole)
