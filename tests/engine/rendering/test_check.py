"""A check that refuses prompts and pictures, in runs, calls and commands."""

from __future__ import annotations

import pytest

import ldm_engine
import refusals
from forked import run_command
from ldm_engine.errors import (
    ArgumentTypeError,
    InvalidArgumentError,
    LDMEngineError,
    RefusedError,
)
from ldm_engine.rendering.places import FingerprintError
from rendering_runs import images_of, read_lines

SETTINGS = {"num_inference_steps": 2, "batch_size": 3, "threads": 1, "runtime": "onnxruntime"}
JOBS = [{"id": name, "prompt": f"a {name}"} for name in ("fox", "dog", "cat", "owl", "hen")]


@pytest.fixture
def render(tiny_onnx_bundle, tmp_path):
    def run(output="out", jobs=JOBS, **options):
        where, settings = tmp_path / output, {**SETTINGS, **options}
        return list(ldm_engine.render(tiny_onnx_bundle.path, jobs, output=where, **settings))

    return run


def failures_of(output):
    return {line["id"]: line["error"] for line in read_lines(output / "failures.jsonl")}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_refused_is_a_failure_with_its_reason(render, tmp_path, workers):
    assert len(render("all")) == 5
    made = render(check=refusals.refuse, workers=workers)
    assert {record["id"] for record in made} == {"fox", "owl", "hen"}
    failures = failures_of(tmp_path / "out")
    assert failures == {
        "dog": "the check refusals:refuse refused the prompt: no dogs",
        "cat": "the check refusals:refuse refused the picture: a cat is seen",
    }
    kept = images_of(tmp_path / "out")
    assert kept.items() <= images_of(tmp_path / "all").items()  # the others come out as ever
    assert len(kept) == 3
    assert render(check=refusals.refuse, workers=workers) == []  # refused once, and for good
    assert failures_of(tmp_path / "out") == failures


def test_a_run_does_not_go_on_with_another_check(render):
    render(check=refusals.refuse, jobs=JOBS[:1])
    for check in (None, refusals.answer):
        with pytest.raises(FingerprintError, match="check: 'refusals:refuse' there"):
            render(check=check)


def test_nothing_goes_on_unchecked(render, tmp_path):
    with pytest.raises(LDMEngineError, match=r"refusals:fail failed: KeyError.*Nothing goes on"):
        render(check=refusals.fail)
    with pytest.raises(LDMEngineError, match=r"returned 'True'.*reason as text"):
        render("other", check=refusals.answer, workers=2)
    assert not images_of(tmp_path / "out")


def test_other_processes_must_be_able_to_import_it(render):
    with pytest.raises(InvalidArgumentError, match="imported by name"):
        render(check=lambda prompt, picture: None, workers=2)
    with pytest.raises(InvalidArgumentError, match=r"a function of \(prompt"):
        render(check="refusals:refuse")
    assert len(render(check=lambda prompt, picture: None, jobs=JOBS[:1])) == 1


@pytest.mark.parametrize("output_type", ["pil", "np"])
def test_a_call(tiny_pipe, output_type):
    steps = []
    options = {"num_inference_steps": 1, "output_type": output_type, "check": refusals.refuse}
    with pytest.raises(RefusedError, match=r"'a dog': the check .* refused the prompt: no dogs"):
        tiny_pipe(["a fox", "a dog"], callback_on_step_end=steps.append, **options)
    assert not steps  # before anything is rendered
    with pytest.raises(RefusedError, match="the picture: a cat is seen"):
        tiny_pipe(["a fox", "a cat"], **options)
    assert len(tiny_pipe(["a fox", "an owl"], **options).images) == 2
    with pytest.raises(ArgumentTypeError, match="`check` is 'x'"):
        tiny_pipe("a fox", check="x")


def test_a_check_paints_no_picture(tiny_pipe):
    def paint(prompt, picture):
        if picture is not None:
            picture.paste("red", (0, 0, *picture.size))

    options = {"num_inference_steps": 1, "seed": 5}
    painted = tiny_pipe("a fox", check=paint, **options).images[0]
    assert painted.tobytes() == tiny_pipe("a fox", **options).images[0].tobytes()


def test_commands(runs, tmp_path, monkeypatch):
    folder = tmp_path / "pictures"

    def generate(*words):
        found = run_command("generate", runs.bundle, "-o", folder, "-s", 1, *words)
        assert "Traceback" not in found.stderr
        return found.returncode, " ".join(found.stderr.split())

    check = ("--check", "refusals:refuse")
    code, said = generate("a fox", "a dog", *check)
    assert (code, folder.exists()) == (1, False)
    assert "no dogs" in said
    code, said = generate("a fox", "a cat", "--batch-size", 1, *check)
    assert (code, len(list(folder.iterdir()))) == (1, 1)
    assert "a cat is seen" in said
    (picture,) = folder.iterdir()
    again = run_command(
        "generate", runs.bundle, "-o", tmp_path / "again", "--from-image", picture, *check
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / picture.name).read_bytes() == picture.read_bytes()
    for name, says in {
        "refusals": "MODULE:FUNCTION is accepted", "nowhere:f": "cannot be imported",
        "refusals:none": "cannot be imported", "refusals:NO_FUNCTION": "a function is accepted",
    }.items():  # fmt: skip
        code, said = generate("a fox", "--check", name)
        assert code == 2
        assert says in said
    runs(runs.jobs(JOBS), tmp_path / "out", "-s", 1, "--batch-size", 2, "--workers", 2, *check)
    assert set(failures_of(tmp_path / "out")) == {"dog", "cat"}
