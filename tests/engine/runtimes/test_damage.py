"""Files that are not whole, opened without hashing: an error, without a crash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from ldm_engine.bundle.formats import FORMAT_FILES

#: Opens and runs copies of a bundle. Arguments: runtime, bundles.
OPEN = """
import sys
from ldm_engine import LDMTextToImagePipeline
from ldm_engine.errors import LDMEngineError
for path in sys.argv[2:]:
    print(path.rpartition("/")[2], end=" ", flush=True)  # if this is the last line, it crashed
    try:
        pipe = LDMTextToImagePipeline.from_pretrained(
            path, runtime=sys.argv[1], check_hashes=False, threads=1
        )
        pipe("a", num_inference_steps=1, seed=0)
    except LDMEngineError as error:
        print("error:", " ".join(str(error).split()), flush=True)
    except Exception as error:
        print("raw:", type(error).__name__, " ".join(str(error).split()), flush=True)
    else:
        print("rendered", flush=True)
"""
FILES = {"onnxruntime": "onnx", "openvino": "openvino", "paddle": "paddle"}
CUTS = ["missing", "empty", "one-byte", "half", "a-page-short", "a-float-short"]


def cut(path, kind):
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
        return
    kept = {
        "empty": 0,
        "one-byte": 1,
        "half": len(content) // 2,
        "a-page-short": len(content) - 4096,
        "a-float-short": len(content) - 4,
    }[kind]
    path.write_bytes(content[:kept])


def open_all(runtime, paths, cache):
    done = subprocess.run(
        [sys.executable, "-c", OPEN, runtime, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LDM_ENGINE_CACHE": str(cache)},
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-300:], done.stderr[-1000:])
    return done.stdout.splitlines()


@pytest.mark.parametrize("program", ["time_encoder", "vae_decoder"])
@pytest.mark.parametrize("part", ["graph", "weights"])
@pytest.mark.parametrize("runtime", FILES)
def test_a_file_that_is_cut_short_is_named(
    tiny_bundle, tiny_onnx_bundle, tmp_path, runtime, part, program
):
    bundle = tiny_bundle if runtime == "paddle" else tiny_onnx_bundle
    damaged = FORMAT_FILES[FILES[runtime]][part == "weights"]
    paths = []
    for kind in CUTS:
        paths.append(shutil.copytree(bundle.path, tmp_path / kind))
        cut(paths[-1] / program / damaged, kind)
    lines = open_all(runtime, paths, "off")
    assert [line for line in lines if " error: " not in line] == []


def test_weights_that_are_cut_short_are_named_though_the_cache_holds_the_model(
    tiny_onnx_bundle, tmp_path
):
    cache, path = tmp_path / "cache", tmp_path / "whole"
    shutil.copytree(tiny_onnx_bundle.path, path)
    assert open_all("openvino", [path], cache) == ["whole rendered"]
    assert list(cache.rglob("*.blob"))
    paths = []
    for kind in CUTS:
        paths.append(shutil.copytree(path, tmp_path / kind))
        cut(paths[-1] / "vae_decoder" / FORMAT_FILES["openvino"][1], kind)
    lines = open_all("openvino", paths, cache)
    assert [line for line in lines if " error: " not in line] == []
