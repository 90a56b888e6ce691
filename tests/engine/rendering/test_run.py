from __future__ import annotations

import json
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import ldm_engine
from ldm_engine.errors import ArgumentTypeError, InvalidArgumentError, LDMEngineError
from ldm_engine.machine.cpu import supports_bf16
from ldm_engine.machine.gpu import GPU
from ldm_engine.rendering import execution, places, plan
from ldm_engine.rendering.jobs.identities import identify
from ldm_engine.rendering.jobs.rows import Task
from ldm_engine.rendering.jobs.sources import JobsError
from ldm_engine.rendering.options import RunOptions
from ldm_engine.rendering.places import FingerprintError
from ldm_engine.rendering.plan import Costs
from ldm_engine.rendering.ray import _awaited
from ldm_engine.rendering.renderer import Renderer
from ldm_engine.runtimes.base import RuntimeOptions
from ldm_engine.runtimes.choice import RUNTIMES
from ldm_engine.sampling import settings
from ldm_engine.sampling.recipes import read_recipe
from rendering_runs import files_of, images_of, read_lines, records_of

SETTINGS = {
    "num_inference_steps": 2, "guidance_scale": 2.0, "batch_size": 4, "threads": 1,
    "runtime": "onnxruntime",
}  # fmt: skip
JOBS = [
    {"prompt": f"a {i} thing", "id": f"j{i}", "eta": (0, 0.5)[i % 2], "guidance_scale": 1 + i % 3}
    for i in range(22)
]


@pytest.fixture
def render(tiny_onnx_bundle, tmp_path):
    def run(jobs=JOBS, output="out", **options):
        where = output if "://" in str(output) else tmp_path / output
        settings = {**SETTINGS, **options}
        return list(ldm_engine.render(tiny_onnx_bundle.path, jobs, output=where, **settings))

    return run


@pytest.fixture(scope="module")
def whole(tiny_onnx_bundle, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "out"
    list(ldm_engine.render(tiny_onnx_bundle.path, JOBS, output=output, **SETTINGS))
    return output


def test_images_and_records(whole, tiny_onnx_bundle):
    records = records_of(whole)
    assert set(records) == {job["id"] for job in JOBS}
    pipe = ldm_engine.LDMTextToImagePipeline.from_pretrained(
        tiny_onnx_bundle.path, runtime="onnxruntime", threads=1
    )
    for job in JOBS[:6]:
        record = records[job["id"]]
        assert (record["prompt"], record["eta"]) == (job["prompt"], job["eta"])
        recipe = read_recipe(whole / record["path"])
        assert recipe.settings["seed"] == record["seed"]
        assert recipe.settings["guidance_scale"] == job["guidance_scale"]
        assert recipe.bundle == tiny_onnx_bundle.digest
        (alone,) = pipe(
            job["prompt"], seed=record["seed"], num_inference_steps=2, eta=job["eta"],
            guidance_scale=job["guidance_scale"],
        ).images  # fmt: skip
        with Image.open(whole / record["path"]) as image:
            difference = np.abs(np.asarray(image, int) - np.asarray(alone, int))
        assert difference.max() <= 1
    assert not (whole / "failures.jsonl").exists()


def test_the_generator_gives_each_record_once_and_only_new_ones(render, tmp_path):
    first = render(JOBS[:10])
    assert {r["id"] for r in first} == {j["id"] for j in JOBS[:10]}
    second = render(JOBS)
    assert {r["id"] for r in second} == {j["id"] for j in JOBS[10:]}
    assert render(JOBS) == []
    assert len(records_of(tmp_path / "out")) == len(JOBS)


def test_a_generator_that_is_left_keeps_what_it_gave(render, tiny_onnx_bundle, tmp_path, whole):
    given = ldm_engine.render(tiny_onnx_bundle.path, JOBS, output=tmp_path / "out", **SETTINGS)
    some = [next(given) for _ in range(5)]
    given.close()
    assert {r["id"] for r in some} <= set(records_of(tmp_path / "out"))
    render()
    assert images_of(tmp_path / "out") == images_of(whole)


def test_a_vanished_or_cut_image_is_made_again(render, tmp_path, whole):
    render()
    output = tmp_path / "out"
    paths = [output / r["path"] for r in records_of(output).values()]
    paths[3].unlink()
    paths[7].write_bytes(paths[7].read_bytes()[:-10])
    assert len(render()) == 2
    assert images_of(output) == images_of(whole)
    assert records_of(output) == records_of(whole)


@pytest.mark.parametrize(
    "options",
    [{"workers": 2}, {"output": "file"}, {"output": "memory"}],
    ids=["workers", "file", "memory"],
)
def test_other_ways_give_the_same_files(render, tmp_path, whole, options):
    place = options.pop("output", None)
    if place is None:
        render(**options)
        assert files_of(tmp_path / "out") == files_of(whole)
        assert records_of(tmp_path / "out") == records_of(whole)
        return
    fsspec = pytest.importorskip("fsspec")
    url = f"{place}://{tmp_path}/there"
    assert len(render(JOBS[:9], url)) == 9
    assert len(render(JOBS, url)) == len(JOBS) - 9
    files = fsspec.filesystem(place)
    root = f"{tmp_path}/there"
    for name, content in images_of(whole).items():
        assert files.cat_file(f"{root}/{name}") == content
    lines = files.cat_file(f"{root}/records.jsonl").splitlines()
    assert {json.loads(line)["id"] for line in lines} == {job["id"] for job in JOBS}
    assert b"addImages" in files.cat_file(f"{root}/gallery/000.js")


def test_ray_gives_the_same_files(render, tmp_path, whole):
    pytest.importorskip("ray")
    with pytest.raises(InvalidArgumentError, match=r"22 actors of 1 threads .* room for \d"):
        render(executor="ray", workers=1024, threads=1)  # Ray would wait without end
    render(executor="ray", workers=2)
    assert files_of(tmp_path / "out") == files_of(whole)
    assert records_of(tmp_path / "out") == records_of(whole)


def test_what_the_reader_of_a_thread_sees():
    assert list(_awaited(lambda: range(3), lambda: False, 0.1)) == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        list(_awaited(lambda: (1 // n for n in (1, 0)), lambda: False, 0.1))
    over = threading.Event()
    assert list(_awaited(lambda: (over.wait(n) for n in (0, 60)), lambda: True, 0.1)) == [False]
    over.set()


def test_places_stay_where_they_were_when_the_run_was_made(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "jobs.txt").write_text("a cat\n")
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    records = ldm_engine.render("bundle", "jobs.txt", output="out", num_inference_steps=1)
    pipe = ldm_engine.LDMTextToImagePipeline.from_pretrained("bundle", memory="sequential")
    monkeypatch.chdir("elsewhere")
    assert len(list(records)) == len(images_of(tmp_path / "out")) == 1
    assert len(pipe("a cat", num_inference_steps=1).images) == 1


def test_jobs_from_a_url(render):
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://jobs/a.txt", "w") as file:
        file.write("one\ntwo\n")
    assert [r["prompt"] for r in render("memory://jobs/a.txt")] == ["one", "two"]
    with pytest.raises(JobsError, match="cannot be opened"):
        render("memory://jobs/b.txt", "other")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_inference_steps": 3}, "default_num_inference_steps: 2 there, 3 now"),
        ({"precision": "bf16", "runtime": "openvino"}, "precision"),
        ({"batch_size": 5}, "batch_size: 4 there, 5 now"),
        ({"image_format": "webp"}, "image_format"),
        ({"layout": "webdataset"}, "layout"),
        ({"threads": 2}, "threads"),
    ],
)
def test_a_run_with_other_settings_is_refused(render, change, told):
    if change.get("precision") == "bf16" and not supports_bf16():
        pytest.skip("this CPU has no bf16")
    render(JOBS[:1])
    with pytest.raises(FingerprintError, match="--force") as refused:
        render(JOBS[:1], **change)
    assert told in str(refused.value)


def test_a_run_may_move_to_another_gpu_of_the_same_kind(monkeypatch):
    gpus = [GPU(i, name, (8, 6), 1 << 30) for i, name in enumerate(["A10", "A10", "H200"])]
    monkeypatch.setattr(places, "find_gpu", gpus.__getitem__)
    assert places._describe_device("cpu") == "cpu"  # as in runs of before
    assert places._describe_device("gpu") == places._describe_device("gpu:1") == "gpu: A10"
    assert places._describe_device("gpu:2") == "gpu: H200"


def test_a_change_of_any_field_of_a_job_that_is_done_is_noticed(render, tmp_path):
    """Each setting in turn; one that is added to the list must be added here."""
    job = {
        "id": "x", "prompt": "a", "negative_prompt": "b", "seed": 1, "num_inference_steps": 2,
        "guidance_scale": 2.0, "eta": 0.0, "height": 64, "width": 64,
    }  # fmt: skip
    other = {
        "prompt": "c", "negative_prompt": "", "seed": 2, "num_inference_steps": 3,
        "guidance_scale": 1.0, "eta": 0.5, "solver": "dpmsolver++", "timesteps": [900, 100],
        "height": 128, "width": 128,
    }  # fmt: skip
    fields = [setting.name for setting in settings.SETTINGS]
    # Tables of a solver and pictures have tests of their own: test_fit.py, test_picture_jobs.py.
    elsewhere = {"solver_table", *settings.PICTURE_SETTINGS}
    assert [name for name in fields if name not in elsewhere] == list(other)
    assert len(render([job])) == 1
    before = images_of(tmp_path / "out")
    for name, value in other.items():
        assert render([{**job, name: value}]) == []
        (failure,) = read_lines(tmp_path / "out" / "failures.jsonl")
        assert "rendered before with another" in failure["error"], name
    assert render([job]) == []
    assert images_of(tmp_path / "out") == before


def test_force_starts_beside_and_goes_on_there(render, tmp_path):
    render(JOBS[:2])
    before = files_of(tmp_path / "out")
    assert len(render(JOBS[:2], num_inference_steps=3, force=True)) == 2
    assert len(render(JOBS[:3], num_inference_steps=3, force=True)) == 1
    assert len(records_of(tmp_path / "out-2")) == 3
    assert files_of(tmp_path / "out") == before


def test_the_gallery_shows_what_shards_and_earlier_runs_left(render, tmp_path):
    for shard in ("1/2", "2/2"):
        render(shard=shard)
    for script in (tmp_path / "out/gallery").iterdir():
        script.unlink()
    (tmp_path / "out/index.html").write_text("")
    assert render() == []
    script, run = sorted((tmp_path / "out/gallery").iterdir())
    assert run.name == "run.js"
    assert all(f'"{job["id"]}"' in script.read_text() for job in JOBS)
    assert (tmp_path / "out/index.html").read_text()


def test_the_batch_size_is_measured_with_the_largest_images(render, tmp_path, monkeypatch):
    measured = []

    def measure(pipe, group, limit):
        measured.append((group.pixels, group.images, limit))
        return 2, Costs(0.0, 0.0), {"2": 0.0}

    monkeypatch.setattr(execution, "choose_batch_size", measure)
    large = {"prompt": "a large thing", "height": 128, "width": 192}
    render([*JOBS, large], batch_size=None, memory_limit="2GiB", workers=2)
    assert measured == [(128 * 192, 1, 1 << 30)]


def test_what_may_be_left_open_is_taken_from_the_run(render):
    render(JOBS[:5])
    assert len(render(JOBS[:6], batch_size=None, threads=None)) == 1


def test_more_images_of_each_row_may_be_asked_for_later(render, tmp_path):
    render(JOBS[:2])
    before = images_of(tmp_path / "out")
    assert {r["id"] for r in render(JOBS[:2], num_images=2)} == {"j0-2", "j1-2"}
    assert before.items() <= images_of(tmp_path / "out").items()


def test_bad_rows_are_told_and_the_others_go_on(render, tmp_path):
    jobs = [*JOBS[:3], {"prompt": 1}, {"id": "j0", "prompt": "again"}, {"prompt": "x", "eta": 9}]
    for _ in range(2):  # a second start tells nothing twice
        render(jobs)
        failures = read_lines(tmp_path / "out" / "failures.jsonl")
        assert [f["row"] for f in failures] == [4, 5, 6]
    render([*JOBS[:3], {"prompt": "mended"}])
    assert not (tmp_path / "out" / "failures.jsonl").exists()
    assert len(records_of(tmp_path / "out")) == 4


def test_strict_stops_before_rendering(render, tmp_path):
    with pytest.raises(JobsError, match="row 4: `prompt` is 1"):
        render([*JOBS[:3], {"prompt": 1}], strict=True)
    assert not (tmp_path / "out" / "images").exists()
    assert len(render(JOBS[:3], strict=True)) == 3


def test_an_id_with_other_settings_is_not_rendered_over(render, tmp_path):
    render(JOBS[:3])
    before = images_of(tmp_path / "out")
    assert render([{**JOBS[0], "prompt": "other"}, *JOBS[1:3]]) == []
    (failure,) = read_lines(tmp_path / "out" / "failures.jsonl")
    assert "another prompt" in failure["error"]
    assert images_of(tmp_path / "out") == before


def test_unusable_images_are_failures_and_not_tried_again(render, tmp_path, monkeypatch):
    """What no prompt can be made to give: the latents are spoilt after the loop."""
    denoise = Renderer._denoise

    def spoilt(self, batch, request):
        latents, truncated = denoise(self, batch, request)
        for row, task in enumerate(batch.tasks):
            if task.identity.id in ("j1", "j8"):
                latents[row, 0, 0, 0] = np.nan if task.identity.id == "j1" else np.inf
        return latents, truncated

    monkeypatch.setattr(Renderer, "_denoise", spoilt)
    assert len(render()) == len(JOBS) - 2
    failures = read_lines(tmp_path / "out" / "failures.jsonl")
    assert {f["id"] for f in failures} == {"j1", "j8"}
    assert "NaN or infinity" in failures[0]["error"]
    assert render() == []
    (tmp_path / "out" / "failures.jsonl").unlink()  # to try again
    monkeypatch.undo()
    assert {r["id"] for r in render()} == {"j1", "j8"}


def test_a_flat_image_is_a_failure(render, tmp_path, monkeypatch):
    monkeypatch.setattr("ldm_engine.rendering.renderer.is_flat", lambda pixels: True)
    assert render(JOBS[:1]) == []
    (failure,) = read_lines(tmp_path / "out" / "failures.jsonl")
    assert "single colour" in failure["error"]


@pytest.mark.skipif(not supports_bf16(), reason="this CPU has no bf16")
def test_a_bad_image_is_rendered_again_in_fp32(render, tmp_path, monkeypatch, tiny_onnx_bundle):
    denoise = Renderer._denoise

    def spoilt(self, batch, request):
        latents, truncated = denoise(self, batch, request)
        latents[0] = np.nan
        return latents, truncated

    monkeypatch.setattr(Renderer, "_denoise", spoilt)
    records = {r["id"]: r for r in render(JOBS[:3], precision="bf16", runtime="openvino")}
    precisions = {name: record["precision"] for name, record in records.items()}
    assert precisions == {"j0": "fp32", "j1": "fp32", "j2": "bf16"}  # j0 has a batch of its own
    in_fp32 = records["j1"]
    recipe = read_recipe(tmp_path / "out" / in_fp32["path"])
    assert (recipe.precision, recipe.batch_size) == ("fp32", 1)
    pipe = ldm_engine.LDMTextToImagePipeline.from_pretrained(
        tiny_onnx_bundle.path, runtime="openvino", threads=1
    )
    (alone,) = pipe(**recipe.settings).images
    with Image.open(tmp_path / "out" / in_fp32["path"]) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(alone))


def test_archives_hold_images_and_facts(render, tmp_path, whole):
    import tarfile

    render(layout="webdataset", images_per_tar=8)
    records = records_of(tmp_path / "out")
    assert {r["path"] for r in records.values()} == {f"shards/{i:06}.tar" for i in range(3)}
    originals = records_of(whole)
    for number in range(3):
        with tarfile.open(tmp_path / "out" / "shards" / f"{number:06}.tar") as archive:
            names = archive.getnames()
            assert len(names) == 3 * sum(
                r["path"].endswith(f"{number}.tar") for r in records.values()
            )
            for name in names:
                if name.endswith(".json"):
                    facts = json.loads(archive.extractfile(name).read())
                    image = archive.extractfile(records[facts["id"]]["member"]).read()
                    assert image == (whole / originals[facts["id"]]["path"]).read_bytes()
                    caption = archive.extractfile(name.replace(".json", ".txt")).read().decode()
                    assert caption == facts["prompt"]
    assert not (tmp_path / "out" / "staged").exists()
    assert render(layout="webdataset", images_per_tar=8) == []


def test_archives_at_a_url_are_the_same(render, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    options = {"layout": "webdataset", "images_per_tar": 8}
    render(JOBS, **options)
    url = f"memory://{tmp_path}/there"
    assert len(render(JOBS[:15], url, **options)) + len(render(JOBS, url, **options)) == len(JOBS)
    files = fsspec.filesystem("memory")
    held = [path.rsplit("/", 1)[1] for path in files.ls(f"{tmp_path}/there/shards", detail=False)]
    assert len(held) == 3  # 8, 7, and then 7 more
    assert (
        files.cat_file(f"{tmp_path}/there/shards/000000.tar")
        == (tmp_path / "out" / "shards" / "000000.tar").read_bytes()
    )
    assert not files.exists(f"{tmp_path}/there/staged")


def test_records_go_into_parquet_whole(render, tmp_path):
    """As data set tools do it, who take the columns from the first rows."""
    pyarrow_json = pytest.importorskip("pyarrow.json")
    from pyarrow import parquet

    def table(name):
        found = pyarrow_json.read_json(tmp_path / name / "records.jsonl")
        parquet.write_table(found, tmp_path / "a.parquet")
        return parquet.read_table(tmp_path / "a.parquet")

    render(["a", "b"], "plain")
    assert "extra" not in table("plain").column_names
    rows = [{"id": f"r{i}", "prompt": "a", **({"note": "x"} if i == 3 else {})} for i in range(4)]
    render(rows, "noted")
    first, *_ = read_lines(tmp_path / "noted/records.jsonl")
    assert first["extra"] == {"note": None}
    notes = {r["id"]: r["extra"] for r in table("noted").to_pylist()}
    assert notes == {f"r{i}": {"note": "x" if i == 3 else None} for i in range(4)}


def test_an_edited_image_is_left_and_told(render, tmp_path):
    jobs = JOBS[:3]
    records = {r["id"]: r for r in render(jobs)}
    path = tmp_path / "out" / records["j1"]["path"]
    before = path.read_bytes()
    with Image.open(path) as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)
    edited = path.read_bytes()
    with pytest.warns(UserWarning, match="1 image was changed"):
        assert render(jobs) == []
    assert path.read_bytes() == edited
    with pytest.warns(UserWarning, match="made again"):
        (record,) = render(jobs, replace_changed=True)
    assert record["id"] == "j1"
    assert path.read_bytes() == before


def test_strict_stops_at_a_field_that_comes_late(render, tmp_path):
    rows = [{"prompt": "a", "shelf": 1}, {"prompt": "b", "shlef": 2}]
    with pytest.raises(JobsError, match="`shlef`"):
        render(rows, strict=True)
    with pytest.warns(UserWarning, match="not read: shelf"):
        assert len(render(rows[:1], strict=True)) == 1


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_other_formats_carry_their_recipe(render, tmp_path, image_format):
    jobs = [{"prompt": "é 🐿 \1 \n" + "x " * 2490, "negative_prompt": "\1" * 5000}]
    (record,) = render(jobs, image_format=image_format, quality=80)
    recipe = read_recipe(tmp_path / "out" / record["path"])
    assert recipe.settings["prompt"] == jobs[0]["prompt"]
    assert record["prompt_truncated"]
    with Image.open(tmp_path / "out" / record["path"]) as image:
        assert image.format == image_format.upper()


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0}, {"batch_size": "4"}, {"image_format": "gif"}, {"quality": 0},
        {"workers": 0}, {"layout": "x"}, {"executor": "slurm"}, {"shard": "3/2"}, {"eta": 2},
        {"memory_limit": "lots", "batch_size": None}, {"precision": "fp64"}, {"height": 3},
        {"ray_address": "auto"}, {"jobs_format": "xml"}, {"images_per_tar": 0},
        {"quality": 80}, {"images_per_tar": 8}, {"replace_changed": True, "layout": "webdataset"},
        {"seed": -1}, {"seed": 1 << 32},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_are_not_accepted_are_told_before_anything_is_written(
    render, tmp_path, options
):
    (tmp_path / "jobs.txt").write_text("a\n")
    with pytest.raises(InvalidArgumentError, match="accepted"):
        render(tmp_path / "jobs.txt", **options)
    assert not (tmp_path / "out").exists()


def test_a_batch_size_is_measured(render, tmp_path):
    render(JOBS[:9], batch_size=None, memory_limit="20GiB")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["fingerprint"]["batch_size"] in (1, 2, 4, 8, 16)
    assert {"1", "2"} <= set(run["measured"])
    with pytest.raises(InvalidArgumentError, match="Rendering one image of 64x64 took"):
        render(JOBS[:9], "small", batch_size=None, memory_limit="1MiB")
    assert not (tmp_path / "small" / "run.json").exists()


def test_a_disturbed_measurement_is_not_taken_for_speed(monkeypatch):
    """The short batches were held up: four steps seem to take as long as one."""
    monkeypatch.setattr(plan, "_seconds", lambda pipe, task, rows, steps: 0.4)
    opened = SimpleNamespace(choice=SimpleNamespace(runtime=RUNTIMES["paddle"]))
    pipe = SimpleNamespace(opened=opened, options=RuntimeOptions())
    costs = plan.measure_costs(pipe, Task(identify("a"), 1, {}), 2)
    assert costs.image_step_s == pytest.approx(0.4 / 4 / 2 / 2)


def test_all_wrong_options_are_named_where_they_are_made():
    with pytest.raises(InvalidArgumentError) as caught:
        RunOptions(shard="9/3", precision="banana", threads=-4, device="moon", memory_limit="soon")
    names = ("shard", "precision", "threads", "device", "memory_limit", "output")
    assert all(f"`{name}` is " in str(caught.value) for name in names)
    with pytest.raises(InvalidArgumentError) as caught:
        RunOptions(output="x", jobs_format="xml", strict="no", workers="2", batch_size="x")
    assert all(
        f"`{name}` is " in str(caught.value)
        for name in ("jobs_format", "strict", "workers", "batch_size")
    )


def test_an_unknown_option_is_named_by_the_call_itself(tiny_onnx_bundle, tmp_path):
    with pytest.raises(ArgumentTypeError, match="batchsize is no option of render; batch_size, "):
        ldm_engine.render(tiny_onnx_bundle.path, JOBS, output=tmp_path / "out", batchsize=4)


def test_a_replaced_bundle_is_another_run(tiny_onnx_bundle, tiny_bundle, tmp_path):
    settings = {**SETTINGS, "runtime": "auto"}
    bundle = shutil.copytree(tiny_onnx_bundle.path, tmp_path / "bundle")
    list(ldm_engine.render(bundle, ["a"], output=tmp_path / "out", **settings))
    shutil.rmtree(bundle)
    shutil.copytree(tiny_bundle.path, bundle)
    with pytest.raises(FingerprintError, match="bundle: "):
        list(ldm_engine.render(bundle, ["a"], output=tmp_path / "out", **settings))


def test_an_empty_file_is_refused(render, tmp_path):
    (tmp_path / "jobs.txt").write_text("\n\n")
    with pytest.raises(JobsError, match="no rows"):
        render(tmp_path / "jobs.txt")


def test_damaged_journals_are_told_by_line(render, tmp_path):
    render(JOBS[:2])
    records = tmp_path / "out" / "records.jsonl"
    good = records.read_bytes()
    for line in (
        b"nonsense\n",
        b"[]\n",
        b'{"id": 1}\n',
        b'{"id": "a", "path": 3, "settings": ""}\n',
        b'{"id": "a", "path": "x", "settings": "00000000000000"}\n',
        b'{"id": "\\ud800", "path": "x", "settings": "00000000000000", "bytes": 1}\n',
    ):
        records.write_bytes(good + line)
        with pytest.raises(LDMEngineError, match="Line 3 of"):
            render(JOBS[:2])
    (tmp_path / "out" / "run.json").write_text("{}")
    with pytest.raises(FingerprintError, match="not a run of this version"):
        render(JOBS[:2])


def test_a_seed_of_the_run_is_added_to_those_from_ids(render, tmp_path):
    jobs = [{"prompt": "a", "id": "own"}, {"prompt": "a", "id": "given", "seed": 3}]
    offset = 2**32 - identify("own").seed + 4
    found = {r["id"]: r["seed"] for r in render(jobs, seed=offset % 2**32)}
    assert found == {"own": 4, "given": 3}
    assert render(jobs, seed=offset % 2**32) == []
    with pytest.raises(FingerprintError, match="default_seed"):
        render(jobs, seed=9)
    with pytest.raises(FingerprintError, match="default_seed"):
        render(jobs)


def test_a_negative_prompt_that_no_row_has_a_use_for_is_reported(render):
    with pytest.warns(UserWarning, match="`negative_prompt` is given for all jobs"):
        render([{"prompt": "a", "guidance_scale": 1}], negative_prompt="b")


def test_a_run_is_marked_or_not_as_it_was_begun(render, tmp_path):
    jobs = JOBS[:2]
    render(jobs, "marked")
    render(jobs, mark=False)
    assert "mark" not in json.loads((tmp_path / "out" / "run.json").read_text())["fingerprint"]
    assert render(jobs, mark=False) == []  # as one that an earlier version began
    with pytest.raises(FingerprintError, match="mark: False there, True now"):
        render(JOBS[:4])
    with pytest.raises(FingerprintError, match="mark: True there, False now"):
        render(jobs, "marked", mark=False)
    for name, count in (("marked", 2), ("out", 0)):
        files = images_of(tmp_path / name).values()
        assert sum(b"DigitalSourceType" in content for content in files) == count
