"""The page of examples/browser: its modules by the shared vectors, its pixels by Python's."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from conftest import DATA, ROOT
from ldm_engine import LDMTextToImagePipeline, open_bundle
from ldm_engine.commands.main import cli
from ldm_engine.sampling.origin import TRAINED, XMP_KEY, xmp_packet
from ldm_engine.sampling.recipes import read_recipe
from made_tables import copy_with_tables

PAGE = ROOT / "examples/browser"
TESTS = ROOT / "tests/examples/browser"
OLD = DATA / "bundle-v1"
SKIP = "LDM_ENGINE_SKIP_BROWSER"
BUDGET_BYTES = 25_500  # of what the page loads of ours, compressed as servers send it
#: onnxruntime-web has other kernels for convolutions than ONNX Runtime: rounding may tip a value.
TOLERANCE = 1

REQUESTS = [
    {
        "prompt": "a large blue circle on the right, white background",
        "guidance_scale": 2, "num_inference_steps": 10, "seed": 7,
    },
    {
        "prompt": "a small red star at the top and a large green square at the bottom",
        "negative_prompt": "a blue circle", "guidance_scale": 3.5, "num_inference_steps": 12,
        "solver": "dpmsolver++", "width": 128, "height": 64, "seed": 4294967295,
    },
    {
        "prompt": "Ein großer BLAUER Kreis, naïve café 红色",
        "guidance_scale": 2, "num_inference_steps": 8, "eta": 0.5, "seed": 11,
    },
    {
        "prompt": "a large green triangle in the center",
        "guidance_scale": 6, "num_inference_steps": "auto", "solver": "fitted", "seed": 3,
        "width": 64, "height": 64,
    },
]  # fmt: skip
#: What the modules are twins of.
TWINS = {
    "bundle.mjs": {"engine/ldm_engine/bundle/manifest.py"},
    "fitted.mjs": {f"engine/ldm_engine/sampling/{n}.py" for n in ("fitted", "solvers_file")},
    "ldm.mjs": {"engine/ldm_engine/sampling/loop.py"},
    "noise.mjs": {"engine/ldm_engine/sampling/noise.py"},
    "png.mjs": {"engine/ldm_engine/sampling/origin.py"},
    "schedule.mjs": {f"engine/ldm_engine/sampling/{n}.py" for n in ("schedule", "solvers")},
    "tokenizer.mjs": {"engine/ldm_engine/sampling/tokenizer.py"},
}
OLD_REQUEST = {
    "prompt": "a red circle", "guidance_scale": 2, "num_inference_steps": 3, "seed": 5,
}  # fmt: skip


def _require_node():
    """Fail, or skip where that is asked for, if a program or package is not installed."""
    if os.environ.get(SKIP) == "1":
        pytest.skip(f"{SKIP}=1")
    needed = [name for name in ("node", "chromium") if shutil.which(name) is None]
    if needed or not (PAGE / "node_modules").is_dir():
        pytest.fail(
            f"The tests of the page need {', '.join(needed) or 'its npm packages'}: "
            f"make browser-packages. To pass them over: {SKIP}=1.",
            pytrace=False,
        )


def _node(test, **environment):
    """Run a file of Node's tests."""
    _require_node()
    done = subprocess.run(
        ["node", "--test", "--test-reporter", "spec", TESTS / test],
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(done.stdout[-10_000:], pytrace=False)


def test_the_shared_vectors():
    _node("vectors.test.mjs")


def test_the_code_is_formatted():
    prettier = PAGE / "node_modules/.bin/prettier"
    _require_node()
    done = subprocess.run(
        [prettier, "--check", "--config", ".prettierrc.json", ".", TESTS],
        cwd=PAGE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def bundle(shapes_fp16_bundle, tmp_path_factory):
    """With fitted solvers."""
    return copy_with_tables(shapes_fp16_bundle, tmp_path_factory.mktemp("bundle") / "fitted")


@pytest.fixture(scope="module")
def rendered(bundle, tmp_path_factory):
    """A folder with the pictures that Node and Chromium made."""
    folder = tmp_path_factory.mktemp("pictures")
    requests = folder / "requests.json"
    requests.write_text(json.dumps({"requests": REQUESTS, "old": OLD_REQUEST}))
    _node(
        "page.test.mjs",
        LDM_BUNDLE=bundle.path,
        LDM_OLD_BUNDLE=OLD,
        LDM_REQUESTS=requests,
        LDM_OUTPUT=folder,
        LDM_CHROMIUM=shutil.which("chromium"),
    )
    return folder


@pytest.fixture(scope="module")
def expected(bundle):
    """Python's pictures by the names of the others'."""
    pipe = LDMTextToImagePipeline.from_pretrained(bundle.path, runtime="onnxruntime")
    images = [pipe(**request).images[0] for request in REQUESTS]
    names = {f"node-{i}.png": image for i, image in enumerate(images)}
    # The page's form has no eta.
    names |= {f"chromium-{i}.png": images[i] for i, r in enumerate(REQUESTS) if "eta" not in r}
    old = LDMTextToImagePipeline.from_pretrained(OLD, runtime="onnxruntime")
    return {**names, "old.png": old(**OLD_REQUEST).images[0]}


def test_pixels_are_pythons(rendered, expected):
    assert {path.name for path in rendered.glob("*.png")} == set(expected)
    for name, image in expected.items():
        found, wanted = (np.asarray(i).astype(int) for i in (Image.open(rendered / name), image))
        assert np.abs(found - wanted).max() <= TOLERANCE, name


def test_a_saved_picture_carries_its_recipe(rendered, bundle, tmp_path):
    recipe = read_recipe(rendered / "chromium-1.png")
    assert Image.open(rendered / "chromium-1.png").info[XMP_KEY] == xmp_packet(TRAINED)
    assert {name: recipe.settings[name] for name in REQUESTS[1]} == REQUESTS[1]
    assert recipe.bundle == bundle.digest
    assert read_recipe(rendered / "old.png").bundle == open_bundle(OLD).digest
    cli(
        ["generate", str(bundle.path), "--from-image", str(rendered / "node-2.png"),
         "--output", str(tmp_path)],
        standalone_mode=False,
    )  # fmt: skip
    (again,) = (np.asarray(Image.open(path)).astype(int) for path in tmp_path.iterdir())
    assert np.abs(again - np.asarray(Image.open(rendered / "node-2.png"))).max() <= TOLERANCE


@pytest.mark.parametrize("path", sorted(PAGE.glob("*.mjs")), ids=lambda path: path.name)
def test_twins_name_each_other(path):
    named = re.findall(r"engine/ldm_engine/[\w/]+\.py", path.read_text())
    assert set(named) == TWINS.get(path.name, set())
    for name in named:
        assert f"examples/browser/{path.name}" in (ROOT / name).read_text(), name


@pytest.fixture
def served(bundle):
    """The address of ``serve.py``."""
    command = [sys.executable, PAGE / "serve.py", bundle.path, "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        yield process.stdout.readline().strip()
        process.kill()  # a termination may be ignored, as it is where this process ignores it


def test_serve_serves_page_and_bundle_and_isolates_them(served, bundle):
    for path, file in {
        "": PAGE / "index.html",
        "worker.mjs": PAGE / "worker.mjs",
        "bundle/unet/model.onnx": bundle.path / "unet/model.onnx",
    }.items():
        with urlopen(served + path) as response:
            assert response.read() == file.read_bytes()
            assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    for path in ("bundle/../../README.md", "bundle/%2e%2e/%2e%2e/README.md", "bundle/none"):
        with pytest.raises(HTTPError, match="404"):
            urlopen(served + path)


def test_serve_refuses_what_is_no_bundle(tmp_path):
    done = subprocess.run(
        [sys.executable, PAGE / "serve.py", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "is no bundle: it has no bundle.json. Export one with" in done.stderr


def test_what_the_page_loads_is_small():
    loaded = [*PAGE.glob("*.mjs"), PAGE / "index.html"]
    own = [p for p in loaded if p.name not in ("characters.mjs", "generate.mjs")]
    assert len(own) == 12
    assert sum(len(gzip.compress(path.read_bytes())) for path in own) <= BUDGET_BYTES
