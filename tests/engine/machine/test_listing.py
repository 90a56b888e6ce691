from __future__ import annotations

import pytest

from ldm_engine.errors import InputError
from ldm_engine.machine.listing import list_files

NAMES = ["b/part-1.csv", "a.csv", "b/part-0.CSV", "_SUCCESS", ".a.csv.crc", "b/_tmp/x.csv", "n.md"]


@pytest.fixture(params=["folder", "memory"])
def place(request, tmp_path):
    """A folder and the same at a URL, and what writes a file there."""
    if request.param == "folder":

        def write(name):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")

        return str(tmp_path), write
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    return f"memory://{tmp_path}", lambda name: files.pipe_file(f"{tmp_path}/{name}", b"x")


def test_what_a_name_stands_for(place):
    root, write = place
    for name in NAMES:
        write(name)

    def listed(name, endings=(".csv",)):
        return [file[len(root) + 1 :] for file in list_files(f"{root}{name}", endings)]

    every = ["a.csv", "b/part-0.CSV", "b/part-1.csv"]
    assert listed("") == listed("/") == every
    assert listed("", [""]) == [*every, "n.md"]
    assert listed("/b/*.csv") == ["b/part-1.csv"]
    assert listed("/b/part-[0-9].*") == every[1:]
    assert listed("/**/part-?.csv") == ["b/part-1.csv"]
    assert listed("/a.csv") == ["a.csv"]
    assert listed("/nowhere.csv") == ["nowhere.csv"]
    with pytest.raises(InputError, match="matches no file"):
        listed("/x*.csv")
    with pytest.raises(InputError, match=r"holds no file of \.parquet"):
        listed("", [".parquet"])


def test_a_file_whose_name_is_a_pattern_is_that_file(place):
    root, write = place
    write("jobs[1].csv")
    write("jobs1.csv")
    assert list_files(f"{root}/jobs[1].csv", [".csv"]) == [f"{root}/jobs[1].csv"]


@pytest.mark.parametrize(
    ("name", "told"), [("seed=3/x.csv", "seed=3"), ("_delta_log/0.json", "a Delta table")]
)
def test_folders_that_are_more_than_their_files_are_refused(place, name, told):
    root, write = place
    write("x.csv")
    write(name)
    with pytest.raises(InputError, match=told):
        list_files(root, [".csv"])
    if "=" in name:
        with pytest.raises(InputError, match=told):
            list_files(f"{root}/*/*.csv", [".csv"])
