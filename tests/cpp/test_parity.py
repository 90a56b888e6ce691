"""The same bundle, prompts and seeds give the same pixels in C++ and in Python."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpp_builds import run
from ldm_engine import LDMTextToImagePipeline
from ldm_engine.machine.cpu import supports_bf16
from ldm_engine.sampling.origin import COMPOSITE, TRAINED, XMP_KEY, xmp_packet
from ldm_engine.sampling.recipes import RECIPE_KEY, read_recipe
from made_tables import copy_with_tables

# One step of an 8-bit pixel. Seen in fp32 and bf16: none at all, the libraries being the same.
PIXEL_TOLERANCE = 1
PROMPTS = [
    "a small red circle on the left and a large blue star on the right, white background",
    "a large green triangle in the center, black background",
    "Ångström, 50% 日本 🍔",
    "a yellow square at the top",
]
STEPS = 20


def _generate(build, bundle, output, prompts, *options):
    """The pictures that ``ldm-generate`` writes, in order."""
    done = run(
        build.generate, bundle.path, *prompts, "--output", output, "--num-inference-steps", STEPS,
        "--seed", 0, *options,
    )  # fmt: skip
    return done.stdout.split("\n")[:-1]


def _difference(paths, pixels):
    ours = np.stack([np.asarray(Image.open(p)) for p in paths]).astype(int)
    return np.abs(ours - (pixels * 255).round().astype(int)).max()


@pytest.fixture(scope="module")
def openvino_pipe(shapes_bundle):
    return LDMTextToImagePipeline.from_pretrained(shapes_bundle.path, runtime="openvino")


@pytest.fixture(scope="module")
def fitted_bundle(shapes_bundle, tmp_path_factory):
    return copy_with_tables(shapes_bundle, tmp_path_factory.mktemp("fitted") / "bundle")


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("count", [1, 4])
def test_pixels_are_those_of_python(cpp_build, openvino_pipe, shapes_bundle, tmp_path, count, eta):
    prompts = PROMPTS[:count]
    paths = _generate(cpp_build, shapes_bundle, tmp_path, prompts, "--eta", eta)
    expected = openvino_pipe(
        prompts, num_inference_steps=STEPS, guidance_scale=6.0, eta=eta, seed=0, output_type="np"
    ).images
    assert expected.std() > 0.05
    assert _difference(paths, expected) <= PIXEL_TOLERANCE


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_other_precisions_are_those_of_python(cpp_build, shapes_bundle, tmp_path, precision):
    if precision == "bf16" and not supports_bf16():
        pytest.skip("this CPU has no bf16")
    paths = _generate(cpp_build, shapes_bundle, tmp_path, PROMPTS, "--precision", precision)
    pipe = LDMTextToImagePipeline.from_pretrained(
        shapes_bundle.path, runtime="openvino", precision=precision
    )
    expected = pipe(
        PROMPTS, num_inference_steps=STEPS, guidance_scale=6.0, seed=0, output_type="np"
    ).images
    assert _difference(paths, expected) <= PIXEL_TOLERANCE


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "dpmsolver++", "num_inference_steps": 12},
        {"timesteps": [999, 700, 400, 200, 90, 30, 0]},
        {"solver": "dpmsolver++", "timesteps": [980, 700, 400, 200, 90, 30, 1]},
        {"solver": "fitted", "num_inference_steps": 9},
        {"num_inference_steps": "auto"},
    ],
    ids=str,
)
def test_every_solver_draws_as_in_python(cpp_build, fitted_bundle, tmp_path, settings):
    words = {n: ",".join(map(str, v)) if isinstance(v, list) else v for n, v in settings.items()}
    options = [w for n, v in words.items() for w in (f"--{n.replace('_', '-')}", v)]
    done = run(
        cpp_build.generate, fitted_bundle.path, *PROMPTS[:2], "--output", tmp_path,
        "--guidance-scale", 6, "--seed", 0, *options,
    )  # fmt: skip
    paths = done.stdout.split("\n")[:-1]
    with LDMTextToImagePipeline.from_pretrained(fitted_bundle.path, runtime="openvino") as pipe:
        expected = pipe(PROMPTS[:2], guidance_scale=6.0, seed=0, output_type="np", **settings)
    assert _difference(paths, expected.images) <= PIXEL_TOLERANCE
    recipe = read_recipe(Path(paths[0]))
    assert recipe.settings["num_inference_steps"] == expected.num_steps_run
    assert bool(recipe.settings["solver_table"]) == (recipe.settings["solver"] == "fitted")
    python = [sys.executable, "-c", "from ldm_engine.commands.main import main; main()", "generate"]
    run(*python, fitted_bundle.path, "--from-image", paths[0], "--output", tmp_path / "again")


@pytest.fixture
def pictures(tmp_path):
    """A picture of 64x128 pixels and a mask of it."""
    pixels = np.full((64, 128, 3), 240, np.uint8)
    pixels[10:50, 20:60] = (200, 30, 40)
    pixels[20:60, 80:120] = (30, 60, 200)
    mask = np.zeros((64, 128), np.uint8)
    mask[5:55, 15:65] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return {"image": tmp_path / "a.png", "mask_image": tmp_path / "mask.png"}


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (["image"], {"strength": 0.6}),
        (["image"], {"eta": 1.0, "num_inference_steps": 7}),
        (["image", "mask_image"], {}),
        (["image", "mask_image"], {"strength": 0.7, "solver": "dpmsolver++", "eta": 0.0}),
    ],
    ids=str,
)
def test_pictures_are_started_from_as_in_python(
    cpp_build, shapes_bundle, openvino_pipe, pictures, tmp_path, names, settings
):
    given = {name: pictures[name] for name in names}
    call = {"num_inference_steps": 10, "guidance_scale": 2.0, **settings}
    files = [w for n, v in given.items() for w in (f"--{n.removesuffix('_image')}", v)]
    options = [w for n, v in call.items() for w in (f"--{n.replace('_', '-')}", v)]
    done = run(
        cpp_build.generate, shapes_bundle.path, *PROMPTS[:2], "--output", tmp_path / "out",
        "--seed", 0, *files, *options,
    )  # fmt: skip
    paths = done.stdout.split("\n")[:-1]
    expected = openvino_pipe(PROMPTS[:2], seed=0, output_type="np", **given, **call).images
    assert _difference(paths, expected) <= PIXEL_TOLERANCE
    assert expected.shape == (2, 64, 128, 3)
    with Image.open(paths[0]) as image:
        assert image.info[XMP_KEY] == xmp_packet(COMPOSITE)
    if "mask_image" in given:
        with Image.open(paths[0]) as image, Image.open(given["image"]) as picture:
            np.testing.assert_array_equal(np.asarray(image)[56:], np.asarray(picture)[56:])
    python = [sys.executable, "-c", "from ldm_engine.commands.main import main; main()", "generate"]
    again = ["--from-image", paths[0], "--output", tmp_path / "again"]
    run(*python, shapes_bundle.path, *again, *files)


def _with_chunk(image, kind, data, after=False):
    """A PNG file with one chunk more, before or after its pixels."""
    content = io.BytesIO()
    image.save(content, "PNG")
    png = content.getvalue()
    at = png.index(b"IEND") - 4 if after else png.index(b"IDAT") - 4
    check = struct.pack(">I", zlib.crc32(kind + data))
    return png[:at] + struct.pack(">I", len(data)) + kind + data + check + png[at:]


def _generate_from(cpp_build, bundle, path, folder):
    return subprocess.run(
        [cpp_build.generate, bundle.path, "a", "--image", path, "--output", folder,
         "--num-inference-steps", "4", "--seed", "0", "--guidance-scale", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("mode", "color"), [("P", 3), ("L", 90), ("1", 1)])
def test_kinds_of_png_files(cpp_build, shapes_bundle, openvino_pipe, tmp_path, mode, color):
    path = tmp_path / "a.png"
    Image.new(mode, (64, 64), color).save(path)
    done = _generate_from(cpp_build, shapes_bundle, path, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    expected = openvino_pipe("a", image=path, num_inference_steps=4, seed=0, output_type="np")
    assert _difference(done.stdout.split("\n")[:-1], expected.images) <= PIXEL_TOLERANCE


EXIF = Image.Exif()
EXIF[0x0112] = 3
RED = Image.new("RGB", (64, 64), "red")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: Image.new("RGBA", (64, 64)), "has an alpha channel"),
        (lambda: Image.new("I;16", (64, 64)), "16 bits"),
        (lambda: Image.new("RGB", (40, 64)), "Crop and resize it before, to 64x64"),
        (lambda: Image.new("RGB", (4, 4)), "has a size that is not accepted"),
        (lambda: _with_chunk(RED, b"acTL", struct.pack(">II", 2, 0)), "holds several pictures"),
        (lambda: _with_chunk(RED, b"iCCP", b"x\0\0garbage"), "has a colour profile"),
        (lambda: _with_chunk(RED, b"tRNS", bytes(6)), "has a transparent colour"),
        (lambda: _with_chunk(RED, b"eXIf", EXIF.tobytes()[6:], after=True), "may turn it"),
    ],
    ids=range(8),
)
def test_png_files_that_are_refused(cpp_build, shapes_bundle, tmp_path, content, says):
    made, path = content(), tmp_path / "a.png"
    path.write_bytes(made) if isinstance(made, bytes) else made.save(path)
    done = _generate_from(cpp_build, shapes_bundle, path, tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert not list(tmp_path.glob("out/*"))


def test_without_guidance_in_another_size_one_program_at_a_time(
    cpp_build, openvino_pipe, shapes_bundle, tmp_path
):
    options = ["--guidance-scale", 1, "--width", 128, "--memory", "sequential"]
    paths = _generate(cpp_build, shapes_bundle, tmp_path, PROMPTS[:2], *options)
    expected = openvino_pipe(
        PROMPTS[:2], num_inference_steps=STEPS, width=128, seed=0, output_type="np"
    ).images
    assert _difference(paths, expected) <= PIXEL_TOLERANCE


def test_a_picture_carries_a_recipe_that_python_renders_again(cpp_build, shapes_bundle, tmp_path):
    options = ["--negative-prompt", "a blue star", "--eta", 0.25]
    (path,) = _generate(cpp_build, shapes_bundle, tmp_path / "a", PROMPTS[2:3], *options)
    recipe = read_recipe(Path(path))
    with Image.open(path) as image:
        assert list(json.loads(image.info[RECIPE_KEY])) == list(json.loads(recipe.as_json()))
        assert image.info[XMP_KEY] == xmp_packet(TRAINED)
    (unmarked,) = _generate(
        cpp_build, shapes_bundle, tmp_path / "c", PROMPTS[2:3], *options, "--no-mark"
    )
    assert not read_recipe(Path(unmarked)).mark
    assert XMP_KEY not in Image.open(unmarked).info
    assert recipe.settings["prompt"] == PROMPTS[2]
    assert (recipe.settings["seed"], recipe.settings["eta"]) == (0, 0.25)
    assert recipe.runtime == "openvino"
    python = [sys.executable, "-c", "from ldm_engine.commands.main import main; main()", "generate"]
    run(*python, shapes_bundle.path, "--from-image", path, "--output", tmp_path / "b")
    (again,) = (tmp_path / "b").iterdir()
    pixels = np.asarray(Image.open(again))[None] / 255
    assert _difference([path], pixels) <= PIXEL_TOLERANCE
