"""Pictures of a call on their way into files, with the recipe that renders them again."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ldm_engine.commands.main import cli
from ldm_engine.errors import ArgumentTypeError, InvalidArgumentError, OutputError
from ldm_engine.sampling.origin import TRAINED
from ldm_engine.sampling.recipes import IMAGE_FORMATS, Recipe, read_recipe

CALL = {"num_inference_steps": 2, "guidance_scale": 3.0, "eta": 0.5, "seed": 4}


@pytest.fixture(scope="module")
def output(tiny_pipe):
    return tiny_pipe(["A cat!", "a dog"], **CALL)


def test_a_picture_saved_from_python_is_rendered_again(tiny_bundle, output, tmp_path):
    output.images[1].save(tmp_path / "mine.png")
    arguments = ["generate", tiny_bundle.path, "--from-image", tmp_path / "mine.png"]
    arguments += ["--output", tmp_path / "again"]
    cli.main([str(a) for a in arguments], standalone_mode=False)
    (again,) = (tmp_path / "again").iterdir()
    assert again.name == "a-dog-5.png"
    assert again.read_bytes() == (tmp_path / "mine.png").read_bytes()


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.jpg", "a.jpeg", "a.webp"])
def test_the_recipe_goes_by_the_name(output, tmp_path, name):
    output.images[0].save(str(tmp_path / name))
    assert read_recipe(tmp_path / name) == output.recipes[0]
    assert output.recipes[0].settings["prompt"] == "A cat!"


@pytest.mark.parametrize("image_format", ["PNG", "jpeg", "WebP"])
def test_or_by_the_format(output, image_format):
    file = io.BytesIO()
    output.images[0].save(file, image_format)
    file.seek(0)
    assert read_recipe(file) == output.recipes[0]


def test_other_formats_are_saved_without(output, tmp_path):
    output.images[0].save(tmp_path / "a.bmp")
    with Image.open(tmp_path / "a.bmp") as image:
        np.testing.assert_array_equal(image, output.images[0])


def test_metadata_of_ones_own_takes_its_place(output, tmp_path):
    own = PngImagePlugin.PngInfo()
    own.add_text("Title", "mine")
    output.images[0].save(tmp_path / "a.png", pnginfo=own)
    with Image.open(tmp_path / "a.png") as image:
        assert image.info == {"Title": "mine"}


def test_the_recipe_is_there_to_be_read(output):
    assert Recipe.from_json(output.images[1].info["ldm-engine"]) == output.recipes[1]


def test_what_is_derived_from_a_picture_is_another(output, tmp_path):
    output.images[0].resize((32, 32)).save(tmp_path / "a.png")
    with pytest.raises(InvalidArgumentError, match="no recipe"):
        read_recipe(tmp_path / "a.png")


def test_a_picture_that_was_pickled_keeps_its_recipe(output, tmp_path):
    pickle.loads(pickle.dumps(output.images[0])).save(tmp_path / "a.png")
    assert read_recipe(tmp_path / "a.png") == output.recipes[0]


@pytest.mark.parametrize("output_type", ["pil", "np"])
@pytest.mark.parametrize("image_format", IMAGE_FORMATS)
def test_all_pictures_are_saved_and_none_is_overwritten(
    tiny_pipe, output, tmp_path, output_type, image_format
):
    rendered = tiny_pipe(["A cat!", "a dog"], output_type=output_type, **CALL)
    suffix = IMAGE_FORMATS[image_format]
    first, again = (rendered.save(tmp_path / "new", image_format) for _ in range(2))
    assert [p.name for p in first] == [f"a-cat-4{suffix}", f"a-dog-5{suffix}"]
    assert [p.name for p in again] == [f"a-cat-4-2{suffix}", f"a-dog-5-2{suffix}"]
    assert [read_recipe(p) for p in first] == list(output.recipes)


def test_bad_places_and_formats_are_refused(output, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        output.save(tmp_path / "file")
    with pytest.raises(InvalidArgumentError, match=r"'gif'.*png, jpeg, webp"):
        output.save(tmp_path, "gif")


def test_files_state_that_a_model_made_them_unless_told_not_to(tiny_pipe, output, tmp_path):
    stopped = tiny_pipe("A cat!", callback_on_step_end=lambda *_: True, **CALL)
    assert stopped.recipes is None
    for rendered in (output, stopped):
        for image_format in IMAGE_FORMATS:
            marked = rendered.save(tmp_path / "marked", image_format)[0].read_bytes()
            plain = rendered.save(tmp_path / "plain", image_format, mark=False)[0].read_bytes()
            assert TRAINED.encode() in marked
            assert TRAINED.encode() not in plain
    with pytest.raises(ArgumentTypeError, match="`mark` is 'no'"):
        output.save(tmp_path / "plain", mark="no")
    output.images[0].save(tmp_path / "mine.webp")
    assert TRAINED.encode() in (tmp_path / "mine.webp").read_bytes()


def test_latents_are_no_pictures(tiny_pipe, tmp_path):
    with pytest.raises(InvalidArgumentError, match="latent"):
        tiny_pipe("a", output_type="latent", **CALL).save(tmp_path)
    assert not list(tmp_path.iterdir())


def alter(step, timestep, latents):
    latents *= 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"callback_on_step_end": lambda *step: True},
        {"callback_on_step_end": alter},
        {"latents": np.random.RandomState(0).randn(1, 4, 8, 8)},
    ],
    ids=["stopped", "altered", "own latents"],
)
def test_where_no_recipe_leads_to_a_picture_there_is_none(tiny_pipe, tmp_path, options):
    found = tiny_pipe("a", **{**CALL, **options})
    assert found.recipes is None
    (path,) = found.save(tmp_path)
    with pytest.raises(InvalidArgumentError, match="no recipe"):
        read_recipe(path)


def test_watching_alone_takes_no_recipe(tiny_pipe):
    assert tiny_pipe("a", callback_on_step_end=lambda *step: None, **CALL).recipes
