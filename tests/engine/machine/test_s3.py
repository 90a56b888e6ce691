"""A run whose jobs and output are in an S3 store, over its protocol."""

from __future__ import annotations

import os

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from ldm_engine.errors import OutputError
from ldm_engine.machine.lock import locked
from ldm_engine.rendering.jobs.sources import check_jobs, read_rows
from ldm_engine.rendering.places import open_storage
from rendering_runs import files_of, records_of
from s3_store import render_until, s3_store

OPTIONS = ("--batch-size", 2, "--num-inference-steps", 10, "--runtime", "onnxruntime")
SETTINGS = {
    "batch_size": 2, "num_inference_steps": 10, "runtime": "onnxruntime", "guidance_scale": 6.0,
}  # fmt: skip
#: Before the how-manyth request of a start that changes an object whose name begins like this.
KILLS = [
    *((".locks", 1), ("failures", 1), ("run.json", 1), ("images", 1), ("images", 4)),
    *(("records", 1), ("records", 3), ("gallery", 1), ("index", 1), (".locks", 2)),
]


@pytest.fixture(scope="module")
def bucket():
    with s3_store() as url:
        yield url


@pytest.fixture(scope="module")
def rows():
    return [{"id": f"Job/{i} *[{i % 3}]", "prompt": f"a {i} thing"} for i in range(24)] + [{}]


@pytest.fixture(scope="module")
def whole(crash_runs, rows):
    """What a run into a folder gives."""
    crash_runs(crash_runs.jobs(rows), crash_runs.folder / "whole", *OPTIONS)
    return crash_runs.folder / "whole"


def assert_same(url, whole, tmp_path):
    """All that a run left at a URL is what it leaves in a folder, and nothing else."""
    fsspec.filesystem("s3", skip_instance_cache=True).get(
        url, str(tmp_path / "got"), recursive=True
    )
    left = files_of(tmp_path / "got")
    assert left == files_of(whole)
    assert records_of(tmp_path / "got") == records_of(whole)
    assert not list((tmp_path / "got").rglob(".locks/*"))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet", "txt"])
def test_job_files_of_every_format_are_read(bucket, ending):
    table = pyarrow.table({"prompt": ["one", "two"]})
    parquet = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, parquet)
    content = {
        "jsonl": b'{"prompt": "one"}\n{"prompt": "two"}\n',
        "csv": b"prompt\none\ntwo\n",
        "parquet": parquet.getvalue().to_pybytes(),
        "txt": b"one\ntwo\n",
    }[ending]
    url = f"{bucket}/few.{ending}"
    fsspec.filesystem("s3", skip_instance_cache=True).pipe_file(url, content)
    fields = [row.fields for row in read_rows(url, check_jobs(url, None))]
    assert fields == [{"prompt": "one"}, {"prompt": "two"}]


def test_kills_change_nothing(crash_runs, bucket, rows, whole, tmp_path):
    jobs = f"{bucket}/jobs.jsonl"
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.pipe_file(jobs, crash_runs.jobs(rows).read_bytes())
    url = f"{bucket}/renders/killed"
    for name, number in KILLS:
        render_until(name, number, crash_runs.bundle, jobs, output=url, **SETTINGS)
    crash_runs(jobs, url, *OPTIONS)
    assert_same(url, whole, tmp_path)


def test_shards_end_as_one_run(crash_runs, bucket, rows, whole, tmp_path):
    url, jobs = f"{bucket}/renders/shards", crash_runs.jobs(rows)
    shards = [crash_runs.start(jobs, url, *OPTIONS, "--shard", f"{i}/2") for i in (1, 2)]
    for run in shards:
        shown, _ = run.communicate()
        assert run.returncode == 0, shown
    crash_runs(jobs, url, *OPTIONS)  # puts the shards' records together
    assert_same(url, whole, tmp_path)


def test_a_second_run_is_refused(crash_runs, bucket, rows):
    url, jobs = f"{bucket}/renders/twice", crash_runs.jobs(rows)
    with locked(open_storage(url, "run"), "run"):
        assert f"process {os.getpid()} " in crash_runs(jobs, url, *OPTIONS, code=1)
    crash_runs(jobs, url, *OPTIONS)


def test_a_bucket_is_never_made(bucket):
    """Its name may be a slip, and who writes into one need not be allowed to list or make any."""
    for url in ("s3://slip/renders", "s3://slip", "s3://"):
        with pytest.raises(OutputError, match=f"{url}.*bucket"):
            open_storage(url, "run").write("images/a.png", b"x")
    assert fsspec.filesystem("s3", skip_instance_cache=True).ls("") == [
        bucket.removeprefix("s3://")
    ]


def test_an_object_costs_one_request(bucket, monkeypatch):
    storage = open_storage(f"{bucket}/renders/counted", "run")
    methods = []
    call = storage._files._call_s3

    async def counted(method, *arguments, **options):
        methods.append(method)
        return await call(method, *arguments, **options)

    monkeypatch.setattr(storage._files, "_call_s3", counted)
    for number in range(3):
        storage.write(f"images/{number}.png", b"x")
    for number in range(3, -1, -1):
        storage.remove(f"images/{number}.png")
    assert methods == ["put_object"] * 3 + ["delete_object"] * 4
