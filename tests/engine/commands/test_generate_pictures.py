"""``generate`` from pictures, with masks and beyond their sides, and the same pixels once more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forked import run_command
from ldm_engine.sampling.recipes import read_recipe


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A picture of 64x64, its left half, another one and a mask."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[:, :32]).save(folder / "half.png")
    Image.fromarray(255 - pixels).save(folder / "other.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture
def generate(tiny_bundle, tmp_path):
    def run(*words, code=0, prompt=("a cat",)):
        words = [*words, "--num-inference-steps", 4, "--seed", 5] if prompt else words
        done = run_command("generate", tiny_bundle.path, *prompt, "-o", tmp_path, *words)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if code else Path(done.stdout.strip())

    return run


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("given", "strength", "others"),
    [
        (["--image", "a.png"], [], [["--image", "other.png"], []]),
        (["--image", "a.png"], ["--strength", "0.5"], [["--image", "other.png"]]),
        (["--image", "a.png", "--mask", "mask.png"], [], [["--image", "a.png"]]),
        (["--image", "half.png", "--outpaint", "right=32"], [],
         [["--image", "half.png", "--outpaint", "left=32"], ["--image", "half.png"]]),
    ],
)  # fmt: skip
def test_the_same_pixels_from_the_same_pictures_alone(generate, pictures, given, strength, others):
    def placed(words):
        return [pictures / word if word.endswith(".png") else word for word in words]

    path = generate(*placed(given), *strength)
    again = generate("--from-image", path, *placed(given), prompt=())
    np.testing.assert_array_equal(pixels_of(again), pixels_of(path))
    assert read_recipe(again) == read_recipe(path)
    for other in others:
        error = generate("--from-image", path, *placed(other), prompt=(), code=2)
        assert "the pixels would differ" in error


def test_what_is_outside_the_mask_stays(generate, pictures):
    before = pixels_of(pictures / "a.png")
    painted = pixels_of(generate("--image", pictures / "a.png", "--mask", pictures / "mask.png"))
    np.testing.assert_array_equal(painted[32:], before[32:])
    assert (painted[:32] != before[:32]).any()
    beyond = pixels_of(generate("--image", pictures / "half.png", "--outpaint", "right=32"))
    assert beyond.shape == (64, 64, 3)
    np.testing.assert_array_equal(beyond[:, :32], before[:, :32])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--image", "text.png"], 1, "no picture that can be read"),
        (["--image", "gone.png"], 1, "does not exist"),
        (["--mask", "mask.png"], 2, "without an `image`"),
        (["--strength", "0.5"], 2, "without an `image`"),
        (["--image", "a.png", "--strength", "0"], 2, "up to 1"),
        (["--image", "a.png", "--strength", "nan"], 2, "up to 1"),
        (["--image", "half.png"], 2, "Give `height` 64 and `width` 64"),
        (["--image", "a.png", "--mask", "half.png"], 2, "of the same size"),
        (["--outpaint", "left=32"], 2, "give it with --image"),
        (["--image", "a.png", "--mask", "mask.png", "--outpaint", "left=64"], 2, "without --mask"),
        (["--image", "half.png", "--outpaint", "left=32,left=0"], 2, "such as"),
        (["--image", "half.png", "--outpaint", "up=32"], 2, "left, top, right, bottom"),
        (["--image", "half.png", "--outpaint", "left=-1"], 2, "such as"),
        (["--image", "half.png", "--outpaint", "left=0"], 2, "Nothing is added"),
        (["--image", "half.png", "--outpaint", "left=99999999"], 2, "64 million"),
    ],
)
def test_wrong_usage_is_told(generate, pictures, words, code, says):
    words = [pictures / word if word.endswith(".png") else word for word in words]
    assert says in " ".join(generate(*words, code=code).split())
