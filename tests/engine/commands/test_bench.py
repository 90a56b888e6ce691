"""``ldm-engine bench`` on a tiny bundle, as users run it."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forked import run_command
from ldm_engine.commands import main as cli
from ldm_engine.errors import BenchmarkError, InvalidArgumentError, LDMEngineError, OutputError
from processes import ends

COMMAND = Path(sys.executable).parent / "ldm-engine"
QUICK = ["--precision", "fp32", "--num_inference_steps", "2", "--min-seconds", "0"]


def bench(*arguments):
    cli.cli.main(["bench", *map(str, arguments), *QUICK], standalone_mode=False)


@pytest.fixture(scope="module")
def measured(tiny_onnx_bundle, tmp_path_factory):
    """What a run in two runtimes shows and writes."""
    target = tmp_path_factory.mktemp("bench") / "new folder" / "results.json"
    done = subprocess.run(
        [COMMAND, "bench", tiny_onnx_bundle.path, "--batch-size", "2,1", "--json", target, *QUICK],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done, target


def edited(target, tmp_path, scale, only=("end_to_end", "unet")):
    """A copy of results in which some stages took `scale` times as long."""
    content = json.loads(target.read_text())
    for measurement in content["measurements"]:
        for stage in only:
            samples = measurement["samples_s"][stage]
            measurement["samples_s"][stage] = [s * scale for s in samples]
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(content))
    return path


def test_every_configuration_is_measured_and_printed(measured, tiny_onnx_bundle):
    done, target = measured
    content = json.loads(target.read_text())
    assert content["is_complete"]
    assert content["failures"] == []
    assert content["bundle"]["digest"] == tiny_onnx_bundle.digest
    cases = [(m["runtime"], m["batch_size"]) for m in content["measurements"]]
    runtimes = ("openvino", "onnxruntime", "onnxruntime-mapped")
    assert cases == [(runtime, size) for runtime in runtimes for size in (1, 2)]
    for m in content["measurements"]:
        samples = m["samples_s"]
        calls = samples["end_to_end"]
        counts = {stage: len(s) / len(calls) for stage, s in samples.items()}
        assert counts == {
            "end_to_end": 1, "text_encoder": m["batch_size"], "time_encoder": 1, "unet": 2,
            "vae_decoder": m["batch_size"], "host": 1,
        }  # fmt: skip
        assert len(calls) >= 5
        assert 0 < m["load_s"] < m["start_to_first_step_s"] < m["start_to_first_image_s"]
        assert 0 < m["first_load_s"] < m["first_start_to_first_step_s"]
        assert 0 < m["peak_anonymous_bytes"] <= m["peak_resident_bytes"]
    for words in ("single-stream", "offline", "start and memory", "vae_decoder", "images/s"):
        assert words in done.stdout
    assert "Not measured: The runtime paddle" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_tables_can_be_recomputed_from_the_file(measured):
    done, target = measured
    first = json.loads(target.read_text())["measurements"][0]
    shown = next(line for line in done.stdout.splitlines() if "end_to_end" in line).split()
    values = sorted(s * 1e3 for s in first["samples_s"]["end_to_end"])
    assert float(shown[-4]) == pytest.approx(statistics.median(values), rel=1e-3)
    assert float(shown[-5]) == pytest.approx(values[0], rel=1e-3)


def test_json_on_stdout_stands_alone(tiny_onnx_bundle, measured, tmp_path, capfd):
    """Beside a comparison, which then is an error on the other stream."""
    old = edited(measured[1], tmp_path, 0.01)
    arguments = ("--runtime", "onnxruntime", "--batch-size", 1, "--json", "-", "--compare", old)
    with pytest.raises(BenchmarkError) as caught:
        bench(tiny_onnx_bundle.path, *arguments)
    shown = capfd.readouterr()
    assert len(json.loads(shown.out)["measurements"]) == 1
    assert "beyond tolerance" in shown.err
    for stage in ("end_to_end", "unet"):
        assert f"onnxruntime fp32, single-stream, batch 1, {stage} takes" in str(caught.value)
    assert "host" not in str(caught.value)
    assert "openvino fp32" in shown.err  # noted: it was not measured this time


@pytest.mark.parametrize(
    ("scale", "stage", "verdict"), [(100, "end_to_end", "faster"), (0.001, "host", "slower")]
)
def test_what_does_not_slow_the_user_down_passes(
    tiny_onnx_bundle, measured, tmp_path, capfd, scale, stage, verdict
):
    """With a tolerance that leaves a busy machine's own changes alone."""
    old = edited(measured[1], tmp_path, scale, [stage])
    arguments = ("--scenario", "single-stream", "--tolerance", 1000, "--compare", old)
    bench(tiny_onnx_bundle.path, "--runtime", "onnxruntime", *arguments)
    shown = capfd.readouterr().out
    assert "offline" not in shown
    (row,) = (r for r in shown.split("compared")[1].splitlines() if f" {stage} " in r)
    assert row.split()[-1] == verdict


def started(tiny_onnx_bundle, target, *arguments):
    """A run of two cases, with the ids of its workers as they come."""
    words = [COMMAND, "bench", tiny_onnx_bundle.path, "--runtime", "onnxruntime", *QUICK]
    process = subprocess.Popen(
        [*words, "--batch-size", "1,2", "--json", target, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def workers():
        seen = set()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for pid in set(map(int, children.read_text().split())) - seen:
                seen.add(pid)
                yield pid
            time.sleep(0.01)

    return process, workers()


def test_a_killed_worker_fails_its_case_alone(tiny_onnx_bundle, tmp_path):
    process, workers = started(tiny_onnx_bundle, tmp_path / "results.json")
    os.kill(next(workers), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "onnxruntime fp32, batch 1: its process was killed by SIGKILL" in errors
    assert "onnxruntime fp32, batch 1 could not be measured" in errors
    content = json.loads((tmp_path / "results.json").read_text())
    assert [m["batch_size"] for m in content["measurements"]] == [2]
    assert [f["batch_size"] for f in content["failures"]] == [1]


def test_an_interrupt_keeps_what_was_measured(tiny_onnx_bundle, tmp_path):
    process, workers = started(tiny_onnx_bundle, tmp_path / "results.json")
    _, _, third = next(workers), next(workers), next(workers)
    process.send_signal(signal.SIGINT)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Interrupted." in errors
    assert "Traceback" not in errors
    assert "single-stream" in shown
    content = json.loads((tmp_path / "results.json").read_text())
    assert not content["is_complete"]
    assert [m["batch_size"] for m in content["measurements"]] == [1]
    assert ends(third)  # if it had only just begun: by itself, as nobody calls it


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["--batch-size", "0"], InvalidArgumentError, "'0'"),
        (["--batch-size", "1,two"], InvalidArgumentError, "'two'"),
        (["--batch-size", ""], InvalidArgumentError, "1 to 1024"),
        (["--batch-size", "9999"], InvalidArgumentError, "1 to 1024"),
        (["--scenario", "server"], InvalidArgumentError, "single-stream and offline"),
        (["--scenario", "single-stream", "--batch-size", "2"], InvalidArgumentError, "offline"),
        (["--runtime", "nothing"], InvalidArgumentError, "nothing"),
        (["--height", "65"], InvalidArgumentError, "multiples of 64"),
        (["--eta", "2"], InvalidArgumentError, "eta"),
        (["--threads", "0"], InvalidArgumentError, "1024"),
        (["--runtime", "paddle"], LDMEngineError, "--formats"),
        (["--json", "."], OutputError, "not a file"),
        (["--json", "/dev/null"], OutputError, "not a file"),
        (["--json", "/nowhere/../dev/null"], OutputError, "not a file"),
        (["--json", "/dev/null/x.json"], OutputError, "/dev/null"),
        (["--compare", "nothing.json"], LDMEngineError, "nothing.json cannot be read"),
    ],
)
def test_mistakes_are_refused_before_anything_is_measured(
    tiny_onnx_bundle, tmp_path, monkeypatch, capfd, arguments, kind, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        bench(tiny_onnx_bundle.path, *arguments)
    assert capfd.readouterr().out == ""
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("value", ["inf", "nan", "-1", "soon"])
@pytest.mark.parametrize("option", ["--min-seconds", "--tolerance"])
def test_numbers_are_finite(tiny_onnx_bundle, option, value):
    done = run_command("bench", tiny_onnx_bundle.path, f"{option}={value}")
    assert done.returncode == 2
    assert option in done.stderr


def test_other_work_is_refused_before_anything_is_measured(tiny_onnx_bundle, measured, capfd):
    with pytest.raises(LDMEngineError, match="--guidance-scale: there on"):
        bench(tiny_onnx_bundle.path, "--compare", measured[1], "--guidance-scale", 1)
    assert capfd.readouterr().out == ""
