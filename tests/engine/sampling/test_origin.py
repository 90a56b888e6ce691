"""Files that state that a model made them, as other programs read it."""

from __future__ import annotations

import io
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from PIL import Image

from ldm_engine.sampling.origin import COMPOSITE, TRAINED, XMP_KEY
from ldm_engine.sampling.recipes import IMAGE_FORMATS, Recipe, encode_image
from ldm_engine.sampling.settings import SETTINGS

VALUES = {setting.name: setting.default for setting in SETTINGS} | {
    "prompt": "a <b> & c",
    "seed": 1,
}
RECIPE = Recipe(VALUES, "m", "d", "openvino", "fp32")
PICTURE = Image.new("RGB", (16, 16), "red")


def stated(content):
    """The digital source type in a file's XMP, or None."""
    with Image.open(io.BytesIO(content)) as image:
        packet = image.info.get(XMP_KEY) or image.info.get("xmp")
    if packet is None:
        return None
    text = packet if isinstance(packet, str) else packet.decode()
    assert text.startswith('<?xpacket begin="\ufeff" id=')
    (description,) = ElementTree.fromstring(text.lstrip("\ufeff"))[0]
    return description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")


@pytest.mark.parametrize("image_format", IMAGE_FORMATS)
def test_what_made_a_picture_is_stated(image_format):
    def encoded(recipe, origin=None):
        return encode_image(PICTURE, recipe, image_format, origin=origin)

    assert stated(encoded(RECIPE)) == TRAINED
    from_picture = replace(RECIPE, settings={**VALUES, "image_sha256": "0" * 64})
    assert stated(encoded(from_picture)) == COMPOSITE
    assert stated(encoded(replace(RECIPE, mark=False))) is None
    assert stated(encoded(None, TRAINED)) == TRAINED  # a contact sheet
    assert stated(encoded(None)) is None


@pytest.mark.parametrize("mark", [True, False])
def test_a_recipe_says_whether_its_file_does(mark):
    recipe = replace(RECIPE, mark=mark)
    assert Recipe.from_json(recipe.as_json()) == recipe
    assert ("mark" in recipe.as_json()) == mark  # those of earlier versions say nothing of it
