"""The bundle format's document as a program: its pixels are the engine's, and it is small."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import one_file
from conftest import DATA, ROOT
from ldm_engine import LDMTextToImagePipeline, NoiseSchedule
from ldm_engine.sampling.solvers import ddim_rows

SCRIPT = ROOT / "examples/one_file.py"
MAX_LINES = 150
#: The sums of a step are taken in another order: rounding may tip a value.
PIXEL_TOLERANCE = 1

REQUESTS = [
    {"prompt": "a large blue star on the right, black background", "guidance_scale": 2.0},
    {"prompt": "A small (red) CIRCLE, zyx!", "guidance_scale": 6.0, "num_inference_steps": 20,
     "eta": 0.7, "seed": 4294967290, "num_images": 2, "negative_prompt": "a blue circle"},
    {"prompt": "", "guidance_scale": 1.0, "num_inference_steps": 7},
    {"prompt": "a green square, " * 40, "guidance_scale": 2.0, "num_inference_steps": 7},
]  # fmt: skip


def _run(bundle, folder, prompt, **settings):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return subprocess.run(
        [sys.executable, SCRIPT, bundle, prompt, *options, f"--output={folder}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_it_is_small_and_imports_nothing_of_ours():
    tree = ast.parse(SCRIPT.read_text())
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert imported - sys.stdlib_module_names == {"numpy", "openvino"}
    assert len(SCRIPT.read_text().splitlines()) <= MAX_LINES


@pytest.fixture(scope="module")
def pipe(shapes_bundle):
    with LDMTextToImagePipeline.from_pretrained(shapes_bundle.path, runtime="openvino") as pipe:
        yield pipe


@pytest.mark.parametrize("settings", REQUESTS, ids=range(len(REQUESTS)))
@pytest.mark.filterwarnings("ignore::ldm_engine.PromptTruncatedWarning")
def test_its_pixels_are_the_engines(settings, pipe, shapes_bundle, tmp_path):
    done = _run(shapes_bundle.path, tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    settings = {"seed": 0, "num_images": 1, **settings}
    prompts = [settings.pop("prompt")] * settings.pop("num_images")
    output = pipe(prompts, **settings)
    assert {p.name for p in tmp_path.iterdir()} == {f"{seed}.png" for seed in output.seeds}
    for seed, image in zip(output.seeds, output.images, strict=True):
        found = np.asarray(Image.open(tmp_path / f"{seed}.png")).astype(int)
        assert np.abs(found - np.asarray(image)).max() <= PIXEL_TOLERANCE


def test_other_text_and_damaged_files_are_refused(shapes_bundle, tmp_path):
    refused = _run(shapes_bundle.path, tmp_path / "a", "ein großer Kreis")
    assert refused.returncode == 1
    assert "'ß'" in refused.stderr
    damaged = tmp_path / "bundle"
    shutil.copytree(shapes_bundle.path, damaged)
    with (damaged / "unet/openvino_model.bin").open("r+b") as file:
        file.write(b"damage")
    refused = _run(damaged, tmp_path / "a", "a circle")
    assert refused.returncode == 1
    assert "is damaged" in refused.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", ["uncased", "cased"])
def test_ids_are_the_shared_vectors(kind):
    lines = (DATA / "wordpiece_vocab.txt").read_text().split("\n")
    vocabulary = {token: i for i, token in enumerate(lines) if token}
    vectors = json.loads((DATA / "tokenizer.json").read_text())
    texts = [t for t in vectors["texts"] if not one_file.REFUSED.search(t["text"])]
    assert len(texts) >= 10
    for text in texts:
        found = one_file.tokenize(text["text"], vocabulary, kind == "uncased")
        assert found[: vectors["token_length"] - 2] == text[kind][1:-1], text


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
@pytest.mark.parametrize("changes", [{}, {"steps_offset": 1, "set_alpha_to_one": False}])
@pytest.mark.parametrize("steps", [1, 7, 50, 999, 1000])
def test_rows_are_the_engines(spacing, betas, changes, steps):
    config = {"beta_schedule": betas, "timestep_spacing": spacing, "clip_sample": False, **changes}
    timesteps, rows = one_file.ddim(config, steps, 0.5)
    wanted = ddim_rows(NoiseSchedule.from_config(config), steps, 0.5)
    assert timesteps.tolist() == [row.timestep for row in wanted]
    assert rows == [(row.a, *row.b, row.s) for row in wanted]
