"""Owns the pictures, their captions and the held-out split; it trains and measures nothing."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

IMAGE_SIZE = 64
SHAPES = ("circle", "square", "triangle", "star")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "orange": (255, 140, 0),
    "yellow": (250, 230, 40),
    "green": (25, 150, 50),
    "cyan": (40, 210, 225),
    "blue": (30, 60, 225),
    "purple": (145, 30, 180),
    "pink": (255, 130, 195),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
}
SIZES = {"small": 18, "large": 27}  # nominal extent in pixels
PLACES = {  # centers (x, y) in pixels
    "left": (16, 32),
    "right": (48, 32),
    "top": (32, 16),
    "bottom": (32, 48),
    "center": (32, 32),
}
PAIRS = (("left", "right"), ("top", "bottom"))
JITTER = 2  # whole pixels, each way, in x and y
HELD_OUT_SHARE = 0.1

_SUPERSAMPLING = 8
_STAMP = 36  # side of the square that holds one drawn object; even, larger than any object

_SIZE_WORDS = {
    "small": ("small", "small", "small", "little"),
    "large": ("large", "large", "large", "big"),
}
_PLACE_PHRASES = {
    "left": ("on the left", "on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right", "on the right side", "at the right"),
    "top": ("at the top", "at the top", "on the top"),
    "bottom": ("at the bottom", "at the bottom", "on the bottom"),
    "center": ("in the center", "in the center", "in the middle", "in the centre", ""),
}
_BACKGROUND_PHRASES = (
    ", {} background",
    ", {} background",
    " on a {} background",
    ", on a {} background",
)
_BACKGROUND_WORDS = {"white": ("white",), "black": ("black",), "gray": ("gray", "gray", "grey")}


@dataclass(frozen=True)
class Thing:
    """One object: what a caption says about it, and the size it is drawn in."""

    shape: str
    color: str
    size: str
    place: str


@dataclass(frozen=True)
class Scene:
    """One picture's content: one thing anywhere, or two on opposite sides."""

    things: tuple[Thing, ...]
    background: str

    @property
    def is_held_out(self) -> bool:
        """True for a tenth of all combinations; sizes, which captions may omit, do not count."""
        parts = sorted(f"{t.place}:{t.color}:{t.shape}" for t in self.things)
        digest = hashlib.sha256("|".join([*parts, self.background]).encode()).digest()
        return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def sample_scene(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """A random scene of one side of the split: one thing in 3 of 10, else two."""
    while True:
        if rng.random() < 0.3:
            places: tuple[str, ...] = (_pick(rng, tuple(PLACES)),)
        else:
            places = PAIRS[rng.integers(len(PAIRS))]
        things = tuple(
            Thing(_pick(rng, SHAPES), _pick(rng, tuple(COLORS)), _pick(rng, tuple(SIZES)), place)
            for place in places
        )
        scene = Scene(things, _pick(rng, tuple(BACKGROUNDS)))
        if scene.is_held_out == held_out:
            return scene


def sample_caption(rng: np.random.Generator, scene: Scene) -> tuple[str, bool]:
    """A random wording, and whether it names the sizes; a white background may go unnamed."""
    names_size = bool(rng.random() < 0.75)
    things = list(scene.things)
    if rng.random() < 0.3:
        things.reverse()
    phrases = []
    for thing in things:
        words = ["a", thing.color, thing.shape]
        if names_size:
            words.insert(1, _pick(rng, _SIZE_WORDS[thing.size]))
        elif thing.color == "orange":
            words[0] = "an"
        place = _pick(rng, _PLACE_PHRASES[thing.place])
        phrases.append(" ".join([*words, place] if place else words))
    text = " and ".join(phrases)
    if scene.background != "white" or rng.random() < 0.6:
        word = _pick(rng, _BACKGROUND_WORDS[scene.background])
        text += _pick(rng, _BACKGROUND_PHRASES).format(word)
    return text, names_size


def render(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Draw `scene` with jittered positions: [64, 64, 3] uint8."""
    canvas = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    for thing in scene.things:
        dx, dy = rng.integers(-JITTER, JITTER + 1, 2)
        x, y = PLACES[thing.place]
        alpha = coverage(thing.shape, SIZES[thing.size], int(x + dx), int(y + dy))[..., None]
        canvas += alpha * (np.asarray(COLORS[thing.color], np.float32) - canvas)
    return np.rint(canvas).astype(np.uint8)


def coverage(shape: str, extent: int, x: int, y: int) -> np.ndarray:
    """How much of each pixel an object drawn at (x, y) covers: [64, 64] float32 in [0, 1]."""
    margin = _STAMP
    padded = np.zeros((IMAGE_SIZE + 2 * margin,) * 2, np.float32)
    top, left = y + margin - _STAMP // 2, x + margin - _STAMP // 2
    padded[top : top + _STAMP, left : left + _STAMP] = _stamp(shape, extent)
    return padded[margin:-margin, margin:-margin]


@functools.cache
def _stamp(shape: str, extent: int) -> np.ndarray:
    """One object in the middle of a small square, antialiased: [36, 36] float32 in [0, 1]."""
    side = _STAMP * _SUPERSAMPLING
    image = Image.new("L", (side, side), 0)
    points = [
        ((px * extent + _STAMP / 2) * _SUPERSAMPLING, (py * extent + _STAMP / 2) * _SUPERSAMPLING)
        for px, py in _outline(shape)
    ]
    ImageDraw.Draw(image).polygon(points, fill=255)
    small = image.resize((_STAMP, _STAMP), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255


def _outline(shape: str) -> list[tuple[float, float]]:
    """The outline in units of the nominal extent, centered by its bounding box, y downwards."""
    if shape == "circle":
        angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        return [(0.5 * float(np.cos(a)), 0.5 * float(np.sin(a))) for a in angles]
    if shape == "square":
        half = 4 / 9  # whole pixels for both sizes
        return [(-half, -half), (half, -half), (half, half), (-half, half)]
    if shape == "triangle":
        return [(0.0, -0.48), (0.54, 0.48), (-0.54, 0.48)]
    if shape == "star":
        radii = itertools.cycle((0.56, 0.23))
        angles = np.arange(10) * np.pi / 5
        drop = 0.56 * (1 - np.cos(np.pi / 5)) / 2
        return [
            (r * float(np.sin(a)), drop - r * float(np.cos(a)))
            for r, a in zip(radii, angles, strict=False)
        ]
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}.")


def vocabulary() -> list[str]:
    """The tokenizer's words, in id order, in the style of bert-base-uncased's `vocab.txt`."""
    letters = [*"abcdefghijklmnopqrstuvwxyz", *"0123456789"]
    return [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
        *letters,
        *(f"##{letter}" for letter in letters),
        *sorted(set(_caption_words()) - set(letters)),
    ]


def _caption_words() -> Iterator[str]:
    yield from (*SHAPES, *COLORS, "a", "an", "and")
    phrases = itertools.chain(
        *_SIZE_WORDS.values(),
        *_PLACE_PHRASES.values(),
        _BACKGROUND_PHRASES,
        *_BACKGROUND_WORDS.values(),
    )
    for phrase in phrases:
        yield from phrase.replace(",", " ").replace("{}", " ").split()


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]
