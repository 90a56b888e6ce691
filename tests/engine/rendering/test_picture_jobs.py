"""Jobs that start from pictures: where these are, what is recorded, what happens without them."""

from __future__ import annotations

import hashlib
import json
import shutil

import fsspec
import numpy as np
import pytest
from PIL import Image

import ldm_engine
from ldm_engine.errors import InvalidArgumentError, LDMEngineError
from ldm_engine.sampling.recipes import read_recipe
from ldm_engine.sampling.settings import PICTURE_SETTINGS
from ldm_engine.sampling.settings import SETTINGS as SETTINGS_LIST
from rendering_runs import images_of, read_lines, records_of

SETTINGS = {
    "num_inference_steps": 4, "guidance_scale": 2.0, "batch_size": 2, "threads": 1,
    "runtime": "onnxruntime",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A folder with a job file and pictures beside it."""
    made = tmp_path / "jobs"
    (made / "in").mkdir(parents=True)
    random = np.random.RandomState(0)
    for name in ("a", "b"):
        pixels = random.randint(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(made / "in" / f"{name}.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    Image.fromarray(mask).save(made / "in" / "mask.png")
    return made


def write(folder, rows):
    path = folder / "jobs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def render(tiny_onnx_bundle, tmp_path):
    def run(jobs, output="out", **options):
        settings = {**SETTINGS, **options}
        return list(
            ldm_engine.render(tiny_onnx_bundle.path, jobs, output=tmp_path / output, **settings)
        )

    return run


ROWS = [
    {"id": "text", "prompt": "a"},
    {"id": "a", "prompt": "a", "image": "in/a.png"},
    {"id": "b", "prompt": "b", "image": "in/b.png", "strength": 0.5},
    {"id": "painted", "prompt": "c", "image": "in/a.png", "mask": "in/mask.png"},
    {"id": "several", "prompt": "d", "image": "in/b.png", "num_images": 3},
]


def failures_of(output):
    return {f["id"]: f["error"] for f in read_lines(output / "failures.jsonl")}


def test_paths_begin_at_the_job_file(render, folder, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert len(render(write(folder, ROWS))) == 7
    records = records_of(tmp_path / "out")
    assert {i: r.get("image") for i, r in records.items()} == {
        "text": None, "a": str(folder / "in/a.png"), "b": str(folder / "in/b.png"),
        "painted": str(folder / "in/a.png"),
        **dict.fromkeys(("several", "several-2", "several-3"), str(folder / "in/b.png")),
    }  # fmt: skip
    digest = hashlib.sha256((folder / "in/a.png").read_bytes()).hexdigest()
    assert records["a"]["image_sha256"] == digest
    assert (records["a"]["strength"], records["painted"]["strength"]) == (0.8, 1.0)
    recipe = read_recipe(tmp_path / "out" / records["painted"]["path"])
    assert recipe.settings["image_sha256"] == digest
    assert recipe.settings["mask_sha256"] == records["painted"]["mask_sha256"]
    assert "image" not in json.loads(recipe.as_json())


def test_the_pictures_are_those_of_a_call(render, folder, tiny_onnx_bundle, tmp_path):
    render(write(folder, ROWS))
    pipe = ldm_engine.LDMTextToImagePipeline.from_pretrained(
        tiny_onnx_bundle.path, runtime="onnxruntime", threads=1
    )
    record = records_of(tmp_path / "out")["painted"]
    (alone,) = pipe(
        "c", image=folder / "in/a.png", mask_image=folder / "in/mask.png", seed=record["seed"],
        num_inference_steps=4, guidance_scale=2.0,
    ).images  # fmt: skip
    with (
        Image.open(tmp_path / "out" / record["path"]) as image,
        Image.open(folder / "in/a.png") as given,
    ):
        pixels = np.asarray(image, int)
        np.testing.assert_array_equal(pixels[32:], np.asarray(given)[32:])
        assert np.abs(pixels - np.asarray(alone, int)).max() <= 1


def test_records_are_jobs(render, folder, tmp_path):
    render(write(folder, ROWS))
    rows = read_lines(tmp_path / "out" / "records.jsonl")
    names = ("id", "prompt", "seed", "image", "mask", "strength", "image_sha256", "mask_sha256")
    again = [{n: row[n] for n in names if row.get(n) is not None} for row in rows]
    render(again, "again")
    assert images_of(tmp_path / "again") == images_of(tmp_path / "out")
    Image.new("RGB", (64, 64)).save(folder / "in/a.png")
    with pytest.raises(LDMEngineError):
        render(again, "third", strict=True)
    render(again, "third")
    assert set(failures_of(tmp_path / "third")) == {"a", "painted"}
    assert "the pixels would differ" in failures_of(tmp_path / "third")["a"]


def test_a_run_goes_on_and_notices_another_picture(render, folder, tmp_path):
    jobs = write(folder, ROWS)
    render(jobs)
    whole = images_of(tmp_path / "out")
    for record in list(records_of(tmp_path / "out").values())[1::2]:
        (tmp_path / "out" / record["path"]).unlink()
    assert len(render(jobs)) == 3
    assert images_of(tmp_path / "out") == whole
    shutil.copy(folder / "in/b.png", folder / "in/a.png")
    assert render(jobs) == []
    assert set(failures_of(tmp_path / "out")) == {"a", "painted"}
    assert "another prompt, seed, picture or setting" in failures_of(tmp_path / "out")["a"]
    assert images_of(tmp_path / "out") == whole


def test_every_change_of_what_a_picture_becomes_is_noticed(render, folder, tmp_path):
    Image.new("L", (64, 64), 255).save(folder / "in/other.png")
    job = {"id": "x", "prompt": "a", "image": "in/a.png", "mask": "in/mask.png", "strength": 1.0}
    other = {"image": "in/b.png", "mask": "in/other.png", "strength": 0.5}
    assert {*other, "image_sha256", "mask_sha256"} == {
        s.field for s in SETTINGS_LIST if s.name in PICTURE_SETTINGS
    }
    assert len(render(write(folder, [job]))) == 1
    before = images_of(tmp_path / "out")
    for name, value in (*other.items(), *dict.fromkeys(other).items()):
        assert render(write(folder, [{**job, name: value}])) == [], name
        if (name, value) != ("strength", None):  # which is 1 beside a mask
            assert set(failures_of(tmp_path / "out")) == {"x"}, name
    assert images_of(tmp_path / "out") == before


def test_a_picture_that_is_gone_or_hostile_is_that_rows_failure(render, folder, tmp_path):
    (folder / "in/text.png").write_text("no picture")
    (folder / "in/cut.png").write_bytes((folder / "in/a.png").read_bytes()[:3000])
    Image.new("RGB", (64, 32)).save(folder / "in/small.png")
    Image.new("L", (64, 64)).save(folder / "in/black.png")
    rows = [
        *ROWS,
        {"id": "gone", "prompt": "a", "image": "in/gone.png"},
        {"id": "no picture", "prompt": "a", "image": "in/text.png"},
        {"id": "cut", "prompt": "a", "image": "in/cut.png"},
        {"id": "black", "prompt": "a", "image": "in/a.png", "mask": "in/black.png"},
        {"id": "other size", "prompt": "a", "image": "in/a.png", "mask": "in/small.png"},
        {"id": "mask alone", "prompt": "a", "mask": "in/mask.png"},
        {"id": "weak", "prompt": "a", "image": "in/a.png", "strength": 0.1},
        {"id": "strong", "prompt": "a", "image": "in/a.png", "strength": 1.5},
        {"id": "bytes", "prompt": "a", "image": {"bytes": "x"}},
        {"id": "url", "prompt": "a", "image": "nosuch://a.png"},
        {"id": "another name", "prompt": "a", "init_image": "in/a.png"},
        {"id": "twice", "prompt": "a", "image": "in/a.png"},
    ]
    assert len(render(write(folder, rows))) == 8
    found = failures_of(tmp_path / "out")
    for name, says in {
        "gone": "does not exist", "no picture": "no picture that can be read",
        "cut": "cut off or damaged", "black": "nothing white", "other size": "of the same size",
        "mask alone": "without an `image`", "weak": "less than one", "strong": "up to 1",
        "bytes": "text is accepted", "url": "cannot be opened or read",
        "another name": "`image` is the name here",
    }.items():  # fmt: skip
        assert says in found.pop(name)
    assert found == {}


def test_what_is_common_is_for_rows_with_a_picture(render, folder, tmp_path):
    jobs = write(folder, [ROWS[0], ROWS[1], ROWS[2]])
    render(jobs, strength=0.25)
    records = records_of(tmp_path / "out")
    assert [records[i].get("strength") for i in ("text", "a", "b")] == [None, 0.25, 0.5]
    render([{"id": "x", "prompt": "a"}], "one", image=folder / "in/a.png")
    assert records_of(tmp_path / "one")["x"]["image"] == str(folder / "in/a.png")
    for option in ({"strength": 2}, {"image": "no/such.png"}, {"image": 3}):
        with pytest.raises(LDMEngineError):
            render(jobs, "never", **option)
    with pytest.raises(InvalidArgumentError, match="up to 1"):
        render(jobs, "never", strength=2)


def test_pictures_beside_jobs_at_a_url(render, folder, tmp_path):
    files = fsspec.filesystem("memory")
    for name in ("a.png", "b.png", "mask.png"):
        files.pipe_file(f"/picture-jobs/in/{name}", (folder / "in" / name).read_bytes())
    files.pipe_file("/picture-jobs/jobs.jsonl", write(folder, ROWS).read_bytes())
    render("memory://picture-jobs/jobs.jsonl", "remote")
    render(write(folder, ROWS), "local")
    assert images_of(tmp_path / "remote") == images_of(tmp_path / "local")
    assert records_of(tmp_path / "remote")["a"]["image"] == "memory://picture-jobs/in/a.png"


def test_workers_and_archives_take_pictures(render, folder, tmp_path):
    jobs = write(folder, ROWS)
    render(jobs)
    render(jobs, "two", workers=2)
    assert images_of(tmp_path / "two") == images_of(tmp_path / "out")
    assert len(render(jobs, "tars", layout="webdataset")) == 7


def test_transparent_parts_are_told_in_the_record(render, folder, tmp_path):
    Image.new("RGBA", (64, 64), (9, 9, 9, 0)).save(folder / "in/a.png")
    render(write(folder, ROWS[:2]))
    records = records_of(tmp_path / "out")
    assert "laid on white" in records["a"]["notice"]
    assert "notice" not in records["text"]


def test_a_picture_that_changes_while_a_run_goes_on_is_a_failure(
    render, folder, tiny_onnx_bundle, tmp_path
):
    jobs = write(folder, ROWS)
    given = ldm_engine.render(
        tiny_onnx_bundle.path, jobs, output=tmp_path / "out", **{**SETTINGS, "batch_size": 1}
    )
    next(given)  # the text's
    (folder / "in/b.png").unlink()
    assert len(list(given)) + 1 == 3
    assert set(failures_of(tmp_path / "out")) == {"b", "several", "several-2", "several-3"}
    assert "does not exist" in failures_of(tmp_path / "out")["b"]
