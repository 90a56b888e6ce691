"""The command as people run it: signals, what it shows, and mistakes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from forked import run_command
from ldm_engine.commands import console, display
from ldm_engine.errors import OutputError
from ldm_engine.rendering.execution import Counter
from ldm_engine.rendering.summary import Summary
from rendering_runs import files_of, images_of, read_lines, records_of

OPTIONS = ("--runtime", "onnxruntime", "--batch-size", 4, "--num-inference-steps", 40)
ROWS = [{"prompt": f"a {i}", "id": f"r{i}", "source": "x"} for i in range(60)]


@pytest.fixture
def long_run(crash_runs, tmp_path):
    """A run that has begun to render."""
    crash_runs.folder = tmp_path
    jobs = crash_runs.jobs(ROWS)

    def start(*options):
        process = crash_runs.start(jobs, tmp_path / "out", *OPTIONS, *options)
        deadline = time.monotonic() + 120
        while not read_lines(tmp_path / "out" / "records.jsonl") and time.monotonic() < deadline:
            time.sleep(0.01)
            assert process.poll() is None, process.stdout.read()
        return process

    return start


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_batch(long_run, tmp_path, number, code):
    process = long_run()
    process.send_signal(number)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == code, shown
    assert "Interrupted" in shown
    output = tmp_path / "out"
    assert 0 < len(records_of(output)) < len(ROWS)
    assert len(records_of(output)) == len(images_of(output))  # no image without its record
    assert not (output / ".tmp").exists()
    assert (output / "index.html").exists()


def test_a_second_one_stops_at_once(long_run, tmp_path):
    process = long_run()
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=20)
    assert process.returncode == 130, shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1], ids=["INT", "USR1"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_finishes_the_batches(long_run, tmp_path, workers, number):
    process = long_run("--workers", workers)
    process.send_signal(number)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, shown
    assert "Traceback" not in shown
    assert len(records_of(tmp_path / "out")) == len(images_of(tmp_path / "out")) > 0


def test_a_worker_that_dies_stops_the_run_clearly(long_run, crash_runs, tmp_path):
    process = long_run("--workers", "2", "--threads", "1")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[0]), signal.SIGKILL)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 1, shown
    assert "SIGKILL" in shown
    assert "Traceback" not in shown
    crash_runs(tmp_path / "jobs.jsonl", tmp_path / "out", *OPTIONS, "--threads", 1)
    assert len(records_of(tmp_path / "out")) == len(ROWS)


def test_the_second_process_is_refused(long_run, crash_runs, tmp_path):
    process = long_run()
    shown = crash_runs(tmp_path / "jobs.jsonl", tmp_path / "out", *OPTIONS, code=1)
    assert f"process {process.pid} on" in " ".join(shown.split())
    process.kill()
    process.communicate()


def test_a_signal_while_workers_open_renders_nothing(crash_runs, tmp_path):
    crash_runs.folder = tmp_path
    process = crash_runs.start(
        crash_runs.jobs(ROWS), tmp_path / "out", *OPTIONS, "--workers", 2, "--json-progress"
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 2:  # they load Python, and have no model yet
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 143, shown
    assert "SIGINT now stops at once" in shown
    assert not images_of(tmp_path / "out")


def test_a_termination_of_a_ray_run_finishes_its_batches(long_run, tmp_path):
    pytest.importorskip("ray")
    process = long_run("--executor", "ray", "--workers", 2, "--threads", 1)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 143, shown
    assert "Interrupted" in shown
    output = tmp_path / "out"
    assert 0 < len(records_of(output)) < len(ROWS)
    assert len(records_of(output)) == len(images_of(output))


def test_a_ray_run_that_waits_for_its_cluster_ends_on_a_signal(crash_runs, tmp_path):
    pytest.importorskip("ray")
    crash_runs.folder = tmp_path
    process = crash_runs.start(
        crash_runs.jobs(ROWS), tmp_path / "out", *OPTIONS, "--executor", "ray", "--workers", 1,
        "--threads", 1, environment={"RAY_ADDRESS": "127.0.0.1:9"},
    )  # fmt: skip
    shown = ""
    while "preparing" not in shown:
        shown += process.stdout.read(1)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 143, shown
    assert "Interrupted" in shown
    assert not images_of(tmp_path / "out")


def test_a_reader_of_the_progress_may_go_away(runs):
    command = runs.command(
        runs.jobs(ROWS[:9]), runs.folder / "out", "--json-progress", *OPTIONS[2:]
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()
        assert process.wait(60) == 0, told
    assert "reader of the progress has gone" in told
    assert len(records_of(runs.folder / "out")) == 9


@pytest.mark.parametrize("full", [["stdout"], ["stdout", "stderr"]])
def test_a_full_disk_under_the_progress_ends_no_run(runs, full):
    jobs = runs.jobs(ROWS[:5])
    command = runs.command(jobs, runs.folder / "out", "--json-progress", *OPTIONS[2:])
    with Path("/dev/full").open("w") as disk:
        streams = {"stderr": subprocess.PIPE, **dict.fromkeys(full, disk)}
        done = subprocess.run(command, text=True, check=False, **streams)
    assert done.returncode == 0, done.stderr
    if done.stderr is not None:
        assert "No space left on device; the run goes on" in done.stderr
        assert "complete without it" in done.stderr
        assert "Exception ignored" not in done.stderr
    assert len(records_of(runs.folder / "out")) == 5


def test_jobs_from_standard_input(runs):
    command = runs.command("-", runs.folder / "out", *OPTIONS[2:])
    for count in (3, 5):
        text = "".join(f"{json.dumps(row)}\n" for row in ROWS[:count])
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"{count} of {count} images" in done.stdout
    assert "2 of them by this run" in done.stdout


def test_json_progress(runs):
    jobs = runs.jobs([*ROWS[:6], {"prompt": 1}])
    shown = runs(
        jobs, runs.folder / "out", "--batch-size", 4, "--num-inference-steps", 1, "--json-progress"
    )
    events = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
    assert [e["event"] for e in events] == ["progress"] * 3 + ["summary"]
    assert (events[-1]["done"], events[-1]["failed"], events[-1]["total"]) == (6, 1, 6)
    assert events[-1]["changed"] == 0
    assert events[1]["images_per_second"] > 0


def test_log_lines_where_there_is_no_terminal(runs):
    jobs = runs.jobs(ROWS[:3])
    shown = runs(jobs, runs.folder / "out", "--batch-size", 2, "--num-inference-steps", 1)
    assert re.search(r"\d\d:\d\d:\d\d 3 of 3 images", shown)
    assert "3 of 3 images are in" in shown
    assert "index.html" in shown


def test_log_lines_go_on_while_nothing_is_finished(monkeypatch, capsys):
    monkeypatch.setattr(display, "LOG_EVERY_S", 0.01)
    with display.shown(as_json=False) as show:
        time.sleep(0.1)
        show(Counter(8, 2, 0, 0).progress())
        time.sleep(0.1)
    told = capsys.readouterr().err
    assert told.count("reading the jobs") > 1
    assert told.count("2 of 8 images, preparing the next") > 1


def test_control_characters_of_a_path_do_not_reach_the_terminal(capsys):
    progress = Counter(1, 1, 0, 0).progress()
    summary = Summary("a\x1b[2J", "failures.jsonl", progress, False)
    display.print_summary(summary, display.Reading(), False)
    assert "are in a\ufffd[2J" in capsys.readouterr().out


def test_a_part_without_images_is_no_failure(runs):
    jobs = runs.jobs([{"prompt": 1}, {"prompt": 2}])
    told = runs(jobs, runs.folder / "out", "--shard", "1/2")
    assert "0 of 0 images" in told
    assert "1 failure is listed in failures-1-of-2.jsonl" in told


def test_what_went_wrong_is_told_also_after_an_interrupt(monkeypatch, capsys):
    monkeypatch.setattr(console.INTERRUPTS, "received", [signal.SIGINT])

    @click.command()
    def fail():
        raise OutputError("The disk is full.")

    monkeypatch.setattr(sys, "argv", ["fail"])
    with pytest.raises(SystemExit) as ended:
        console.run(fail)
    assert ended.value.code == 130
    assert "The disk is full." in capsys.readouterr().err


def test_workers_do_not_look_for_modules_in_the_current_folder(runs, monkeypatch):
    (runs.folder / "tokenizers.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(runs.folder)
    run = runs.start(runs.jobs(ROWS[:4]), runs.folder / "out", *OPTIONS[2:], "--workers", 2)
    told, _ = run.communicate()
    assert "4 of 4 images" in told


def test_hostile_ids_stay_inside(runs):
    rows = [
        {"prompt": "a", "id": text}
        for text in (
            "../../x",
            "/abs",
            "\0",
            "n" * 10_000,
            "CON",
            "nul",
            "🐿",
            "..",
            "a/../b",
            "A",
            "a",
        )
    ]
    output = runs.folder / "deep" / "out"
    runs(runs.jobs(rows), output, "--num-inference-steps", 1, "--batch-size", 4)
    assert set(records_of(output)) == {row["id"] for row in rows}
    assert len(images_of(output)) == len(rows)
    assert {p.name for p in runs.folder.iterdir()} == {"deep", "jobs.jsonl"}
    assert {p.name for p in (runs.folder / "deep").iterdir()} == {"out"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["JOBS"], 2, "--output"),
        (["nowhere.jsonl", "-o", "out"], 1, "no job file"),
        (["JOBS", "-o", "out", "--batch-size", "many"], 2, "or auto"),
        (["JOBS", "-o", "out", "--batch-size", "0"], 2, "or auto"),
        (["JOBS", "-o", "out", "--eta", "5"], 2, "eta"),
        (["JOBS", "-o", "out", "--shard", "2/1"], 2, "i/n"),
        (["JOBS", "-o", "out", "--shard", "1/" + "9" * 5000], 2, "i/n"),
        (["JOBS", "-o", "out", "--precision", "int8"], 1, "int8"),
        (["JOBS", "-o", "out", "--workers", "-1"], 2, "workers"),
        (["JOBS", "-o", "out", "--memory-limit", "x"], 2, "6GiB"),
        (["JOBS", "-o", "out", "--memory-limit", "9" * 400], 2, "6GiB"),
        (["JOBS", "-o", "out", "--memory-limit", "9G", "--batch-size", "2"], 2, "one of them"),
        (["JOBS", "-o", "out", "--memory-limit", "9M"], 2, "Rendering one image of"),
        (["JOBS", "-o", "nothing://x/y"], 1, "scheme nothing; s3,"),
        (["nothing://x/y.jsonl", "-o", "out"], 1, "scheme nothing; s3,"),
        (["JOBS", "-o", "JOBS"], 1, "a folder"),
        (["/dev/null", "-o", "out"], 1, "no regular file"),
        (["JOBS", "-o", "out", "--ray-address", "auto"], 2, "`executor` ray"),
        (["JOBS", "-o", "out", "--quality", "80"], 2, "jpeg or webp"),
        (["JOBS", "-o", "out", "--images-per-tar", "8"], 2, "`layout` webdataset"),
        (["JOBS", "-o", "out", "--log-file", "nowhere/log"], 1, "log file"),
        (["bad.jsonl", "-o", "out"], 1, "None of the jobs"),
        (["bad.jsonl", "-o", "out", "--strict"], 1, "--strict stops"),
        (["JOBS", "-o", "memory://x", "--workers", "2"], 2, "memory://"),
    ],
)
def test_mistakes_end_in_one_paragraph(runs, arguments, code, message, monkeypatch):
    monkeypatch.chdir(runs.folder)
    jobs = runs.jobs(ROWS[:1])
    (runs.folder / "bad.jsonl").write_text("nonsense\n")
    words = [str(jobs) if word == "JOBS" else word for word in arguments]
    done = run_command("render", runs.bundle, *words)
    assert done.returncode == code, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_an_image_is_made_again_from_its_own_file(runs):
    jobs = runs.jobs([{"prompt": f"a {i}", "eta": 0.3, "guidance_scale": 2} for i in range(3)])
    output, again = runs.folder / "out", runs.folder / "again"
    runs(jobs, output, "--num-inference-steps", 3, "--batch-size", 4)
    for name, content in images_of(output).items():
        run_command(
            "generate", runs.bundle, "-o", again, "--from-image", output / name
        ).check_returncode()
        assert content in files_of(again).values()  # the whole file, recipe and all


def test_a_quiet_run_writes_into_its_log_file(runs):
    jobs, log = (
        runs.jobs([*ROWS[:3], {"prompt": "a \U0001f354", "id": "burger"}]),
        runs.folder / "log",
    )
    shown = runs(jobs, runs.folder / "out", *OPTIONS[2:4], "-s", 2, "--quiet", "--log-file", log)
    assert shown == ""
    lines = log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert "render" in lines[0]
    assert "4 of 4 images are in" in lines[-1]
    assert "1 prompt has words that the model has no token for" in lines[-1]
    shown = runs(jobs, runs.folder / "out", "--eta", 1, "--quiet", "--log-file", log, code=1)
    assert shown.startswith("Error: ")
    assert "Error: " in log.read_text()
    assert len(log.read_text().splitlines()) > len(lines)
