"""Peers in turn, on the shipped model: what they compute agrees, and what is written says so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import onnxruntime
import pytest

import limits
import peers
import setting
from conftest import ROOT, SHAPES
from ldm_engine import NoiseSchedule, open_bundle
from ldm_engine.errors import InvalidArgumentError, ResultsError
from ldm_engine.machine.cpu import supports_bf16
from ldm_engine.sampling.fitted import Figures, Origin, Table, Tables
from ldm_engine.sampling.solvers import dpmsolver_rows
from ldm_engine.sampling.solvers_file import load_tables, save_tables
from peer_process import PeerError, PeerProcess
from peers import PEERS, Setup, Sources, missing
from peers.environments import Environment
from records import Records
from report import BEGIN, END, readme_block, report, update_readme, write
from results import Results, precision_of
from suite import Suite
from workload import STAGES, Plan, Target, Task, Timing

#: fp32 to fp32, a UNet step and a picture of four steps. Seen: 7e-7 and 2e-6.
TOLERANCE = 1e-5
NAMES = [
    "ours-openvino-fp32",
    *(["ours-openvino-bf16", "straight-openvino-bf16"] if supports_bf16() else []),
    "ours-paddle-fp32",
    "diffusers-eager-fp32",
    "straight-openvino-fp32",
    "straight-onnxruntime-fp32",
    "paddle-dygraph-fp32",
    *(["ppdiffusers-fp32"] if missing("ppdiffusers-fp32") is None else []),
]
OURS, OTHERS = "ours-openvino-fp32", ("diffusers-eager-fp32", "straight-openvino-fp32")
FITTED, DPMSOLVER = Task("image", 1, 5, "fitted"), Task("image", 1, 8, "dpmsolver++")
STAGES_AND_IMAGES = (*map(Task, STAGES), Task("image", 1, 4), Task("image", 2, 4))
PLAN = Plan(
    "shapes",
    "a short run",
    image_size=64,
    groups=(
        (
            *(Timing(task, 2, 0.0) for task in STAGES_AND_IMAGES),
            Timing(Task("image", 1, 4), 2, 0.0, (OURS,), OURS, FITTED),
            Timing(DPMSOLVER, 2, 0.0, (*OTHERS, "ppdiffusers-fp32"), OURS, FITTED),
        ),
    ),
    start_rounds=1,
    start_steps=2,
    targets=(
        Target("diffusers-eager-fp32", Task("image", 1, 4), 1000.0),
        Target("diffusers-eager-fp32", DPMSOLVER, 0.001, OURS, FITTED),
    ),
)


@pytest.fixture(scope="session", autouse=True)
def _short_limits():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "MATRIX_SIZES", (256,))
        patch.setattr(limits, "CONVOLUTIONS", ((32, 16),))
        patch.setattr(limits, "SECONDS", 0.05)
        patch.setattr(limits, "READ_BYTES", 64 << 20)
        yield


def with_table(bundle, folder, steps=FITTED.steps):
    """The same bundle with a table; DPM-Solver++'s weights, for it matters whether it is used."""
    shutil.copytree(bundle.path, folder, copy_function=os.link)
    schedule = NoiseSchedule.from_config(bundle.scheduler_config)
    timesteps = tuple(schedule.log_snr_timesteps(steps))
    weights = tuple((row.a, *row.b) for row in dpmsolver_rows(schedule, timesteps))
    figures = Figures(count=8, median=40.0, tenth_percentile=30.0, least=20.0)
    origin = Origin("openvino", "fp32", 8, "0" * 64, "0.1.0")
    table = Table(6.0, timesteps, weights, figures, figures, figures, 60.0, origin)
    copy = open_bundle(folder)
    save_tables(copy, Tables((table,)), schedule)
    return copy


@pytest.fixture(scope="session")
def fitted_bundle(shapes_bundle, made_once):
    return open_bundle(
        made_once("bundles/shapes-fitted", lambda folder: with_table(shapes_bundle, folder))
    )


def is_timing(line):
    return json.loads(line)["kind"] == "timing"


def make_suite(bundle, folder, plan=PLAN, threads=2):
    sources = Sources(bundle.path, SHAPES, folder / "conversions")
    (folder / "results").mkdir(parents=True, exist_ok=True)
    return Suite(sources, plan, folder / "results", threads)


@pytest.fixture(scope="session")
def run_folder(fitted_bundle, made_once):
    """Where a finished run left its samples and conversions."""
    return made_once("suite", lambda folder: make_suite(fitted_bundle, folder).run(NAMES))


@pytest.fixture(scope="session")
def results(run_folder):
    return Results(Records(run_folder / "results" / "samples.jsonl"))


@pytest.fixture
def copied(run_folder, tmp_path):
    """A copy of the finished run, and its lines."""
    shutil.copytree(run_folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "results" / "samples.jsonl"
    return path, path.read_text().splitlines(keepends=True)


def test_every_peer_computes_the_same(results):
    assert set(results.peers) == set(NAMES)
    for timed in results.timed:
        assert len(timed.peer_s) == len(timed.baseline_s) == 2
        if PEERS[timed.peer].precision == "fp32":
            assert timed.peer_error is None or timed.peer_error["relative_l2"] < TOLERANCE, timed
        assert (timed.peer_error is None) == (timed.task.name == "text_encoder")
    assert not results.absent
    assert not results.failures


@pytest.mark.skipif(not supports_bf16(), reason="this CPU has no bf16")
def test_another_picture_is_marked(results):
    # Its timesteps' frequencies are in bf16 too, which is off by whole units.
    wrong = [peer for peer in results.peers if not results.is_faithful(peer)]
    assert wrong == ["straight-openvino-bf16"]
    rows = [line for line in report(results).splitlines() if "straight to OpenVINO" in line]
    assert all("≠" in row for row in rows if "| bf16 |" in row)
    assert not any("≠" in row for row in rows if "| fp32 | fp32 |" in row)


def test_memory_disk_and_start_stand_beside_the_times(results):
    for peer in NAMES:
        start = results.starts[peer]
        assert start.seconds > start.load_s > 0
        assert start.peak_resident_bytes >= start.peak_anonymous_bytes > 10e6
        assert results.ready[peer]["bytes_on_disk"] > 15e6  # 9.6 M parameters, some in fp16


def test_shares_follow_from_work_and_limits(results):
    assert {"fp32", "memory"} <= set(results.limits)
    timed = results.find("diffusers-eager-fp32", Task("unet_step"))
    work = results.work["unet_step"]
    computing = work["operations"] / results.limits["fp32"]
    least = max(computing, work["parameters"] * 4 / results.limits["memory"])
    assert results.share_of_limit(timed) == pytest.approx(least / timed.summary.median)
    stages = {n: results.least_seconds("diffusers-eager-fp32", Task(n)) for n in STAGES}
    image = results.least_seconds("diffusers-eager-fp32", Task("image", 1, 4))
    summed = 2 * stages["text_encoder"] + 4 * stages["unet_step"] + stages["vae_decoder"]
    assert image == pytest.approx(summed)
    assert precision_of("ours-openvino-int8", "unet_step") == "int8"
    assert precision_of("ours-openvino-int8", "vae_decoder") == "bf16"


def test_a_finished_run_is_not_measured_again(run_folder, fitted_bundle):
    path = run_folder / "results" / "samples.jsonl"
    before = path.read_bytes()
    make_suite(fitted_bundle, run_folder).run(NAMES)
    assert path.read_bytes() == before


def test_an_interrupted_run_does_only_what_is_missing(copied, fitted_bundle, tmp_path):
    path, lines = copied
    removed = next(i for i, line in enumerate(lines) if is_timing(line) and '"image"' in line)
    path.write_text("".join(lines[:removed] + lines[removed + 1 :]) + '{"kind": "timi')
    make_suite(fitted_bundle, tmp_path).run(NAMES)
    again = path.read_text().splitlines(keepends=True)
    assert again[:-1] == lines[:removed] + lines[removed + 1 :]
    for key in ("kind", "task", "peer", "baseline"):
        assert json.loads(again[-1])[key] == json.loads(lines[removed])[key]


def test_a_run_begun_elsewhere_is_not_mixed_with_this_one(copied, fitted_bundle, tmp_path):
    path, lines = copied
    path.write_text("".join(lines).replace('"threads": 2', '"threads": 3'))
    with pytest.raises(ResultsError, match="begun with another machine, threads"):
        make_suite(fitted_bundle, tmp_path).run(NAMES)


@pytest.fixture
def source_tree(tmp_path, monkeypatch):
    """A copy of the sources that a run's fingerprint looks at, to be edited."""
    folders = {folder: tmp_path / "tree" / folder.name for folder in setting.MEASURED_PATH}
    for folder, copy in folders.items():
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__", "results"))
    paths = {folders[folder]: patterns for folder, patterns in setting.MEASURED_PATH.items()}
    monkeypatch.setattr(setting, "MEASURED_PATH", paths)
    return tmp_path / "tree"


def test_a_run_belongs_to_its_fitted_solver(copied, fitted_bundle, shapes_bundle, tmp_path):
    path = fitted_bundle.path
    other = with_table(shapes_bundle, tmp_path / "other")
    text = (path / "solvers.json").read_text()
    assert (other.path / "solvers.json").read_text() == text
    schedule = NoiseSchedule.from_config(other.scheduler_config)
    table = load_tables(other, schedule).tables[0]
    weights = ((table.weights[0][0] * 1.01, *table.weights[0][1:]), *table.weights[1:])
    save_tables(other, Tables((replace(table, weights=weights),)), schedule)
    with pytest.raises(ResultsError, match="begun with another solver_tables"):
        make_suite(other, tmp_path).run(NAMES)
    with pytest.raises(InvalidArgumentError, match="ldm-engine fit BUNDLE --guidance 6"):
        make_suite(shapes_bundle, tmp_path).run(NAMES)


def edit(path):
    path.write_text(path.read_text() + "\n# changed\n")


def test_a_change_outside_the_measured_path_leaves_a_run_valid(
    copied, fitted_bundle, tmp_path, source_tree
):
    path, lines = copied
    for folder in ("ldm_engine", "ldm_export", "benchmarks"):
        measured = ("bundle", "runtimes", "sampling", "models", "peers")
        files = [f for f in (source_tree / folder).rglob("*.py") if f.parts[-2] not in measured]
        for file in files:
            if "gpu" not in file.parts and file.name not in ("worker.py", "workload.py"):
                edit(file)
    edit(source_tree / "ldm_engine" / "benchmarking" / "worker.py")
    make_suite(fitted_bundle, tmp_path).run(NAMES)
    assert path.read_text() == "".join(lines)


@pytest.mark.parametrize(
    "name",
    [
        "ldm_engine/sampling/loop.py",
        "ldm_engine/runtimes/openvino.py",
        "ldm_engine/runtimes/gpu/onnxruntime.py",
        "ldm_engine/bundle/bundle.py",
        "ldm_export/models/unet.py",
        "benchmarks/peers/diffusers.py",
        "benchmarks/workload.py",
        "benchmarks/worker.py",
    ],
)
def test_a_change_on_the_measured_path_is_refused(
    copied, fitted_bundle, tmp_path, source_tree, name
):
    edit(source_tree / name)
    with pytest.raises(ResultsError, match="begun with another code"):
        make_suite(fitted_bundle, tmp_path).run(NAMES)


def test_who_is_not_installed_is_named(copied, fitted_bundle, tmp_path, monkeypatch):
    path, _ = copied
    entry = peers.Entry("none:None", "", "fp32", "nobody", ("no-such-package",), "")
    monkeypatch.setitem(PEERS, "nobody", entry)
    make_suite(fitted_bundle, tmp_path).run([*NAMES, "nobody"])
    results = Results(Records(path))
    assert results.absent == {"nobody": "not installed: no-such-package"}
    for text in (report(results), readme_block(results)):
        assert "`nobody` is missing: not installed: no-such-package" in text


def test_an_environment_of_its_own_is_looked_into(tmp_path, monkeypatch):
    environment = Environment(tmp_path / "env", "make it")
    entry = replace(PEERS["paddle-dygraph-fp32"], needs=("there",), environment=environment)
    monkeypatch.setitem(PEERS, "elsewhere", entry)
    assert missing("elsewhere") == "its environment is not there; make it with `make it`"
    venv.create(tmp_path / "env", symlinks=True)
    assert missing("elsewhere") == "not installed: there; run `make it`"
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    packages.joinpath("there-1.0.dist-info").mkdir()
    packages.joinpath("there-1.0.dist-info", "METADATA").write_text("Name: there\nVersion: 1.0\n")
    assert missing("elsewhere") is None
    assert environment.versions(["there", "not-there"]) == {"there": "1.0", "not-there": None}


def test_a_peer_is_run_by_the_python_of_its_environment(shapes_bundle, tmp_path, monkeypatch):
    venv.create(tmp_path / "env", symlinks=True)
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    installed = {str(Path(module.__file__).parents[1]) for module in (np, onnxruntime, click)}
    packages.joinpath("borrowed.pth").write_text("\n".join(installed))
    name, environment = "ours-onnxruntime-fp32", Environment(tmp_path / "env", "make it")
    monkeypatch.setitem(PEERS, name, replace(PEERS[name], environment=environment))
    sources = Sources(shapes_bundle.path, SHAPES, tmp_path)
    with PeerProcess(name, sources, Setup("onnxruntime", "fp32", "cpu", 2), 8) as process:
        process.open()
        process.prepare(Task("vae_decoder"), calls=1)
        assert process.result(tmp_path).shape == (1, 64, 64, 3)
        command = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
    assert command[0] == str(tmp_path / "env" / "bin" / "python")


def test_who_fails_is_named_and_the_others_go_on(copied, fitted_bundle, tmp_path):
    path, lines = copied
    kept = [line for line in lines if json.loads(line).get("peer") != "straight-openvino-fp32"]
    missing = next(i for i, line in enumerate(kept) if is_timing(line) and "dygraph" in line)
    path.write_text("".join(kept[:missing] + kept[missing + 1 :]))
    (graph,) = (tmp_path / "conversions").glob("straight-openvino-*/unet.xml")
    graph.write_text("<nothing/>")
    for marker in (tmp_path / "conversions").glob("references-*/straight-openvino-fp32.ready"):
        marker.unlink()
    make_suite(fitted_bundle, tmp_path).run(NAMES)
    results = Results(Records(path))
    ((name, task, _),) = results.failures
    assert (name, task) == ("straight-openvino-fp32", "getting ready")
    assert "`straight-openvino-fp32` failed at getting ready" in readme_block(results)
    assert len(Records(path).all("timing")) == len(list(filter(is_timing, kept)))


def test_a_result_of_another_shape_is_no_result(copied, fitted_bundle, tmp_path):
    path, lines = copied
    kept = [line for line in lines if not (is_timing(line) and '"vae_decoder"' in line)]
    path.write_text("".join(kept))
    for file in (tmp_path / "conversions").glob("references-*/vae_decoder-*.npy"):
        np.save(file, np.zeros((1, 1, 1, 3), np.float32))
    with pytest.raises(PeerError, match="has shape"):
        make_suite(fitted_bundle, tmp_path).run(NAMES)


def test_a_killed_peer_is_named(fitted_bundle, tmp_path):
    tmp_path.joinpath("conversions").mkdir()
    sources = Sources(fitted_bundle.path, SHAPES, tmp_path / "conversions")
    setup = Setup("onnxruntime", "fp32", "cpu", 2)
    with PeerProcess("ours-onnxruntime-fp32", sources, setup, 8) as process:
        assert process.open() > 0
        process.prepare(Task("vae_decoder"), calls=1)
        assert len(process.turn(0.0)) == 1
        assert process.result(tmp_path).shape == (1, 64, 64, 3)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(PeerError, match="SIGKILL") as caught:
            process.turn(0.0)
    assert caught.value.peer == "ours-onnxruntime-fp32"


def test_the_report_follows_from_the_samples(results):
    text = report(results)
    timed = results.find("straight-openvino-fp32", Task("unet_step"))
    turns = zip(timed.peer_s, timed.baseline_s, strict=True)
    assert f"| {np.median([np.median(a) / np.median(b) for a, b in turns]):.3f} |" in text
    for part in ("## One image", "## Stages", "## The loop", "batch 2", "limits", "**short**"):
        assert part in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| ")}
    assert len(widths) <= 5  # one for each kind of table


def test_the_fewest_calls_of_each_stand_beside_each_other(results):
    text = report(results)
    section = text.partition("## At the fewest calls")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]
    done = [(row[2], int(row[3])) for row in rows]
    others = len(set(NAMES) & {*OTHERS, "ppdiffusers-fp32"})
    assert done == [("fitted", 5), ("ddim", 4), *[("dpmsolver++", 8)] * others]
    (timed,) = (t for t in results.fewest() if t.peer == OTHERS[0])
    turns = zip(timed.peer_s, timed.baseline_s, strict=True)
    ratio = np.median([np.median(a) / np.median(b) for a, b in turns])
    assert rows[2][6] == f"{ratio:.3f}"
    assert f"| fp32, {FITTED} | 0.00 | {ratio:.3f} | reached |" in text
    # What is done by one solver only is no part of the tables of the others.
    assert results.find(OTHERS[0], Task("image", 1, 4)).baseline_task is None
    assert results.find(OTHERS[0], DPMSOLVER) is None


def test_a_report_has_its_plots_and_is_the_same_each_time(run_folder):
    folder = run_folder / "results"
    write(folder)
    names = (
        "report.md",
        "images.svg",
        "ratios.svg",
        "latency.svg",
        "throughput.svg",
        "roofline.svg",
    )
    first = {name: (folder / name).read_bytes() for name in names}
    write(folder)
    assert first == {name: (folder / name).read_bytes() for name in names}


def test_a_run_that_has_just_begun_has_a_report(copied, tmp_path):
    path, lines = copied
    path.write_text(lines[0])
    write(path.parent)
    assert "## The loop\n\nNot measured." in path.with_name("report.md").read_text()


def test_the_table_of_a_document_is_replaced(results, tmp_path):
    document = tmp_path / "README.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    update_readme(document, results)
    update_readme(document, results)
    assert document.read_text() == f"before\n{readme_block(results)}\nafter\n"
    document.write_text("nothing")
    with pytest.raises(ResultsError, match="lacks the lines"):
        update_readme(document, results)


def test_the_steady_loop_leaves_nothing_behind(results):
    account = results.accounting
    assert account["bytes_kept"] < 1000  # over 39 steps: nothing of a step's own size
    assert account["blocks_kept"] < account["counted_steps"]
    assert account["largest_peak_bytes"] < 16_384


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shapes", "no-such-bundle", "x"], "no bundle"),
        (["shapes", "BUNDLE", "x", "--threads", "0"], "`threads` is 0"),
        (["large", "BUNDLE", str(SHAPES)], "is for images of 256 pixels"),
    ],
)
def test_bad_arguments_are_one_line(fitted_bundle, tmp_path, arguments, message):
    words = [str(fitted_bundle.path) if word == "BUNDLE" else word for word in arguments]
    words += ["--output", str(tmp_path / "out"), "--conversions", str(tmp_path / "conversions")]
    command = [sys.executable, str(ROOT / "benchmarks" / "suite.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


PUBLISHED = sorted((ROOT / "benchmarks" / "results").glob("*/samples.jsonl"))


@pytest.mark.parametrize("samples", PUBLISHED, ids=lambda path: path.parent.name)
def test_published_reports_are_those_of_their_samples(samples):
    published = Results(Records(samples))
    assert report(published) == samples.with_name("report.md").read_text()
    for timed in published.timed:
        assert published.share_of_limit(timed) < 1, timed
    if published.plan["model"] == "large":
        assert readme_block(published) in (ROOT / "README.md").read_text()
