from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm_engine.sampling.names import Names, folded
from ldm_engine.sampling.settings import SETTINGS

NAMES = Names({"id": (), "num_images": ("nsamples",)})
LONG = [name for name in NAMES.known if len(name) > 4]


def spelt(name, separator, spell):
    return spell(name.replace("_", separator))


def camel(name):
    first, *others = name.replace("-", " ").split()
    return first + "".join(word.capitalize() for word in others)


@given(
    st.sampled_from(NAMES.known),
    st.sampled_from(["_", "-", " ", ".", "", "__"]),
    st.sampled_from([str, str.upper, str.title, str.capitalize, "  {} ".format]),
)
def test_case_and_what_is_between_words_do_not_matter(name, separator, spell):
    other = spelt(name, separator, spell)
    assert NAMES.meant(other) == name
    assert NAMES.meant(camel(name.replace("_", " "))) == name


@given(st.sampled_from(LONG), st.data())
def test_a_slip_of_the_finger_is_noticed(name, data):
    at = data.draw(st.integers(1, len(name) - 1))
    letter = data.draw(st.sampled_from("abcxyz"))
    slips = {
        "dropped": name[:at] + name[at + 1 :],
        "added": name[:at] + letter + name[at:],
        "replaced": name[:at] + letter + name[at + 1 :],
        "swapped": name[:at] + name[at : at + 2][::-1] + name[at + 2 :],
    }
    assert NAMES.meant(slips[data.draw(st.sampled_from(list(slips)))]) == name


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [
        ("Seed", "seed"), ("seeds", "seed"), ("random_seed", "seed"), ("manual-seed", "seed"),
        ("steps", "num_inference_steps"), ("num_steps", "num_inference_steps"),
        ("Sampling Steps", "num_inference_steps"), ("ddim_steps", "num_inference_steps"),
        ("guidance", "guidance_scale"), ("cfg_scale", "guidance_scale"),
        ("CFG Scale", "guidance_scale"), ("cfg", "guidance_scale"), ("scale", "guidance_scale"),
        ("neg_prompt", "negative_prompt"), ("Negative prompt", "negative_prompt"),
        ("negative", "negative_prompt"), ("ddim_eta", "eta"), ("W", "width"), ("h", "height"),
        ("image_height", "height"), ("n_samples", "num_images"), ("prompt_2", "prompt"),
        ("num_image", "num_images"), ("numInferenceSteps", "num_inference_steps"),
        ("num_infrence_stpes", "num_inference_steps"), ("setps", "num_inference_steps"),
        ("step", "num_inference_steps"), ("ddim_step", "num_inference_steps"),
        ("sampling_step", "num_inference_steps"), ("guidence", "guidance_scale"),
        ("cfg_scales", "guidance_scale"), ("negativ", "negative_prompt"),
        ("neg_prompts", "negative_prompt"), ("n_prompt", "negative_prompt"),
        ("seed_value", "seed"), ("séed", "seed"), ("ＳＥＥＤ", "seed"),
    ],
)  # fmt: skip
def test_words_of_other_programs(given_name, meant):
    assert NAMES.meant(given_name) == meant
    (fault,) = NAMES.faults([given_name], [given_name])
    assert f"`{given_name}`" in fault
    assert f"`{meant}`" in fault


@pytest.mark.parametrize("name", ["sampler", "Sampler name", "scheduler", "clip_skip", "strength"])
def test_what_others_set_and_nothing_sets_here_is_refused(name):
    (fault,) = NAMES.faults([name], [name])
    assert f"`{name}`" in fault


@pytest.mark.parametrize(
    "name",
    ["note", "shelf", "source", "weight", "label", "caption", "text", "tags", "split", "score",
     "speed", "need", "model", "url", "path", "row", "sha256", "bytes", "settings", "seconds",
     "extra", "index", "", "é", "x" * 5000, "date", "author", "license", "category"],
    ids=lambda name: name[:10],
)  # fmt: skip
def test_other_fields_are_left_alone(name):
    assert NAMES.faults([name], [name]) == []


def test_an_id_beside_the_id_is_another_one():
    assert NAMES.faults(["ID"], ["ID"])
    assert NAMES.faults(["_id", "ID"], ["id", "_id", "ID"]) == []


def test_no_word_means_two_things():
    words = [word for setting in SETTINGS for word in setting.aliases.split()]
    assert len(set(words)) == len(words)
    assert not {word for word in words if word != folded(word)}
