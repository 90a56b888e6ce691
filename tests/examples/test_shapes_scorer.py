"""Holds evaluate.py's scorer to drawn pictures: it accepts the true scene and no other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import drawing
from evaluate import score

SCENES = 200


def drawn_scenes(seed: int) -> list[tuple[drawing.Scene, np.ndarray]]:
    rng = np.random.default_rng(seed)
    scenes = [drawing.sample_scene(rng, held_out=i % 2 == 0) for i in range(SCENES)]
    return [(scene, drawing.render(rng, scene)) for scene in scenes]


def changed(scene: drawing.Scene, **values: str) -> drawing.Scene:
    """The same scene with the last thing's attributes replaced."""
    thing = dataclasses.replace(scene.things[-1], **values)
    return dataclasses.replace(scene, things=(*scene.things[:-1], thing))


def other(choices: object, current: str, rng: np.random.Generator) -> str:
    return str(rng.choice([c for c in choices if c != current]))  # type: ignore[attr-defined]


def test_true_drawings_pass() -> None:
    results = [score(image, scene) for scene, image in drawn_scenes(1)]
    assert np.mean([r.has_everything for r in results]) == 1.0
    assert np.mean([r.has_sizes for r in results]) == 1.0


def test_noisy_blurred_drawings_pass() -> None:
    rng = np.random.default_rng(2)
    results = []
    for scene, image in drawn_scenes(2):
        blurred = image.astype(np.float32)
        for axis in (0, 1):
            blurred = (np.roll(blurred, 1, axis) + 2 * blurred + np.roll(blurred, -1, axis)) / 4
        noisy = blurred + rng.normal(0, 8, image.shape)
        results.append(score(np.clip(noisy, 0, 255).astype(np.uint8), scene))
    assert np.mean([r.has_everything for r in results]) >= 0.99


@pytest.mark.parametrize(
    ("attribute", "choices", "verdict"),
    [
        ("color", drawing.COLORS, "has_colors_at_places"),
        ("shape", drawing.SHAPES, "has_shapes"),
        ("size", drawing.SIZES, "has_sizes"),
    ],
)
def test_a_changed_thing_is_refused(attribute: str, choices: object, verdict: str) -> None:
    rng = np.random.default_rng(3)
    for scene, image in drawn_scenes(3):
        value = other(choices, getattr(scene.things[-1], attribute), rng)
        assert not getattr(score(image, changed(scene, **{attribute: value})), verdict)


def test_a_changed_place_is_refused() -> None:
    rng = np.random.default_rng(4)
    singles = [(s, image) for s, image in drawn_scenes(4) if len(s.things) == 1]
    for scene, image in singles:
        place = other(drawing.PLACES, scene.things[0].place, rng)
        assert not score(image, changed(scene, place=place)).has_colors_at_places


def test_swapped_colors_are_refused() -> None:
    for scene, image in drawn_scenes(5):
        colors = [thing.color for thing in scene.things]
        if len(set(colors)) < 2:
            continue
        things = tuple(
            dataclasses.replace(t, color=c) for t, c in zip(scene.things, colors[::-1], strict=True)
        )
        assert not score(image, dataclasses.replace(scene, things=things)).has_colors_at_places


def test_a_changed_background_is_refused() -> None:
    rng = np.random.default_rng(6)
    for scene, image in drawn_scenes(6):
        background = other(drawing.BACKGROUNDS, scene.background, rng)
        assert not score(image, dataclasses.replace(scene, background=background)).has_background


@pytest.mark.parametrize("fill", [0, 90, 255])
def test_an_empty_picture_fails(fill: int) -> None:
    scene, _ = drawn_scenes(7)[0]
    result = score(np.full((64, 64, 3), fill, np.uint8), scene)
    assert not result.has_everything
    assert result.things[0].shape is None


def test_an_extra_thing_fails_a_lone_one() -> None:
    """A second object elsewhere moves the centroid, so color at its place is refused."""
    lone = drawing.Scene((drawing.Thing("circle", "red", "large", "left"),), "white")
    pair = drawing.Scene((*lone.things, drawing.Thing("star", "blue", "large", "right")), "white")
    image = drawing.render(np.random.default_rng(8), pair)
    assert not score(image, lone).has_everything


def test_no_trained_scene_is_held_out() -> None:
    rng = np.random.default_rng(9)
    assert not any(drawing.sample_scene(rng).is_held_out for _ in range(SCENES))
    assert all(drawing.sample_scene(rng, held_out=True).is_held_out for _ in range(SCENES))
