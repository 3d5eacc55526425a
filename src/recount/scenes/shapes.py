"""Procedural scenes: coloured shapes and cars on clutter, blood smears and dice, drawn with Pillow.

The scenes stand in for photographs where nothing may be downloaded, and they are the captioned pictures that the tiny
Stable Diffusion is pretrained on. Everything follows from the generator that is passed in: the same seed gives the same
picture, points, boxes and masks, bit for bit, for one version of Pillow and numpy.

A class is named by the words that a prompt uses: "red stars", "cars", "white blood cells", "dice showing four pips".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import cos, pi, sin
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw

OVERSAMPLING = 3  # scenes are drawn this much larger and reduced with a box filter, so that edges are smooth

_DATA = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
COLOURS: Mapping[str, Sequence[int]] = _DATA["colours"]
SHAPES = ("circles", "squares", "triangles", "stars", "hearts", "crosses", "diamonds", "rings")
NUMBER_WORDS = ("one", "two", "three", "four", "five", "six")
CARS = "cars"
BLOOD_CELLS = tuple(_DATA["cells"])
DICE = tuple(f"dice showing {word} {'pip' if word == 'one' else 'pips'}" for word in NUMBER_WORDS)

_DIAMETERS = (13.0, 23.0)  # pixels, of coloured shapes


def shape_classes(split: str) -> tuple[str, ...]:
    """Return the colour-shape pairs of a split: 40 for "train", 8 for "val", 16 for "test", pairwise disjoint.

    Every colour and every shape occurs in every split, so a test pair is a new combination of known words.
    """
    diagonals = {"test": (0, 1), "val": (2,), "train": (3, 4, 5, 6, 7)}[split]
    return tuple(
        f"{colour} {shape}"
        for row, colour in enumerate(COLOURS)
        for column, shape in enumerate(SHAPES)
        if (row + 3 * column) % len(SHAPES) in diagonals
    )


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene: class name, centre, size (diameter) in pixels, angle in radians, colour jitter."""

    label: str
    x: float
    y: float
    size: float
    angle: float
    paint: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """A scene: its size in pixels, its background (float32 [H, W, 3], 0..255) and its things, from back to front."""

    width: int
    height: int
    background: np.ndarray
    things: tuple[Thing, ...]

    def render(self) -> Image.Image:
        """Return the picture, RGB."""
        backdrop = Image.fromarray(self.background.round().clip(0, 255).astype(np.uint8))
        canvas = backdrop.resize((self.width * OVERSAMPLING, self.height * OVERSAMPLING), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(canvas)
        for thing in self.things:
            _paint(pen, thing)
        return canvas.reduce(OVERSAMPLING)

    def mask(self, label: str) -> np.ndarray:
        """Return where the visible pixels of class ``label`` are, bool [H, W] (covered parts belong to what covers)."""
        canvas = Image.new("L", (self.width * OVERSAMPLING, self.height * OVERSAMPLING))
        pen = ImageDraw.Draw(canvas)
        for thing in self.things:
            for outline in _outlines(thing):
                pen.polygon(outline, fill=255 if thing.label == label else 0)
        return np.asarray(canvas.reduce(OVERSAMPLING)) > 127

    def points(self, label: str) -> np.ndarray:
        """Return the centres of class ``label``, float32 [N, 2], x and y in pixels."""
        centres = [(thing.x, thing.y) for thing in self.things if thing.label == label]
        return np.array(centres, np.float32).reshape(-1, 2)

    def boxes(self, label: str) -> np.ndarray:
        """Return the boxes around class ``label``, float32 [N, 4], x1 y1 x2 y2 in pixels, cut at the border."""
        corners = []
        for thing in self.things:
            if thing.label == label:
                outline = np.concatenate([np.asarray(part) for part in _outlines(thing)]) / OVERSAMPLING
                corners.append((*outline.min(axis=0), *outline.max(axis=0)))
        limit = (self.width, self.height, self.width, self.height)
        return np.clip(np.array(corners, np.float32).reshape(-1, 4), 0, limit).astype(np.float32)

    def counts(self) -> dict[str, int]:
        """Return how many things there are of each class, in order of first appearance."""
        labels = [thing.label for thing in self.things]
        return {label: labels.count(label) for label in dict.fromkeys(labels)}


def shapes_scene(
    rng: np.random.Generator,
    counts: Mapping[str, int],
    width: int,
    height: int,
    paints: Mapping[str, tuple[int, int, int]] | None = None,
) -> Scene:
    """Return coloured shapes (or cars) on clutter, as many of each class as ``counts`` says.

    With ``paints`` a class is named by its shape alone ("stars"); without, its name says its colour.
    """
    wanted = [label for label, count in counts.items() for _ in range(count)]
    rng.shuffle(wanted)
    means = {label: rng.uniform(*_DIAMETERS) for label in counts}
    things: list[Thing] = []
    for label in wanted:
        size = float(np.clip(means[label] * rng.uniform(0.85, 1.18), *_DIAMETERS))
        x, y = _free_place(rng, things, size, width, height)
        angle = rng.uniform(0, 2 * pi)
        paint = jittered(rng, paints[label], 11) if paints else paint_of(rng, label)
        things.append(Thing(label, x, y, size, angle, paint))
    return Scene(width, height, _clutter(rng, width, height), tuple(things))


def blood_scene(rng: np.random.Generator, width: int, height: int, counts: Mapping[str, int]) -> Scene:
    """Return a blood smear: pale ground, pink discs, lobed purple cells, small purple platelets."""
    ground = np.array([226.0, 208.0, 206.0]) + rng.normal(0, 8, 3)
    background = ground + noise(rng, width, height, 3) * 10
    things: list[Thing] = []
    for label in BLOOD_CELLS:
        for _ in range(counts.get(label, 0)):
            size = rng.uniform(*_DATA["cells"][label]["diameters"])
            x, y = _free_place(rng, things, size, width, height)
            things.append(Thing(label, x, y, size, rng.uniform(0, 2 * pi), paint_of(rng, label)))
    return Scene(width, height, background.astype(np.float32), tuple(things))


def dice_scene(rng: np.random.Generator, width: int, height: int, counts: Mapping[str, int]) -> Scene:
    """Return dice on a table, seen from above; ``counts`` says how many show which face."""
    table = rng.uniform(40, 150, 3)
    background = table + noise(rng, width, height, 4) * 14
    things: list[Thing] = []
    wanted = [label for label, count in counts.items() for _ in range(count)]
    rng.shuffle(wanted)
    size = rng.uniform(18, 24)
    for label in wanted:
        x, y = _free_place(rng, things, size * 1.2, width, height)
        things.append(Thing(label, x, y, size, rng.uniform(0, 2 * pi), jittered(rng, (238, 236, 230), 8)))
    return Scene(width, height, background.astype(np.float32), tuple(things))


def majority_and_minorities(
    rng: np.random.Generator, classes: Sequence[str], majority: tuple[int, int], minority: tuple[int, int]
) -> dict[str, int]:
    """Draw 2-4 of ``classes`` and their counts (least, most): first the majority, then others under half of it."""
    chosen = rng.choice(len(classes), 1 + int(rng.integers(1, 4)), replace=False)
    names = [classes[int(index)] for index in chosen]
    first = int(rng.integers(majority[0], majority[1] + 1))
    most = max(minority[0], min(minority[1], (first - 1) // 2))
    return {names[0]: first} | {name: int(rng.integers(minority[0], most + 1)) for name in names[1:]}


def _free_place(
    rng: np.random.Generator, things: Sequence[Thing], size: float, width: int, height: int
) -> tuple[float, float]:
    """Return a place with at most slight overlap if there is one, otherwise the least crowded of those tried."""
    margin = 0.42 * size
    tried = rng.uniform((margin, margin), (width - margin, height - margin), (24, 2))
    best = 0
    if things:  # at a distance of 1 circles touch
        others = np.array([(thing.x, thing.y, thing.size) for thing in things])
        distance = np.linalg.norm(tried[:, None] - others[:, :2], axis=2) / (0.5 * (others[:, 2] + size))
        nearest = distance.min(axis=1)
        roomy = np.flatnonzero(nearest > rng.uniform(0.72, 1.05))
        best = int(roomy[0]) if len(roomy) else int(nearest.argmax())
    return float(tried[best, 0]), float(tried[best, 1])


def jittered(rng: np.random.Generator, colour: Sequence[int], spread: float) -> tuple[int, int, int]:
    """Return a colour a little different, each channel by a normal draw of standard deviation ``spread``."""
    red, green, blue = np.clip(np.asarray(colour) + rng.normal(0, spread, 3), 0, 255).astype(int)
    return int(red), int(green), int(blue)


def paint_of(rng: np.random.Generator, label: str) -> tuple[int, int, int]:
    """Return a colour for a thing of a class that has one."""
    if label == CARS:
        return jittered(rng, _DATA["car_paints"][int(rng.integers(len(_DATA["car_paints"])))], 10)
    cell = _DATA["cells"].get(label)
    return jittered(rng, cell["paint"] if cell else COLOURS[label.split(maxsplit=1)[0]], 11)


def noise(rng: np.random.Generator, width: int, height: int, cells: int) -> np.ndarray:
    """Return smooth noise [H, W, 3] of unit spread with about ``cells`` bumps along the shorter side."""
    step = min(width, height) / cells
    coarse = rng.normal(0, 1, (3, int(height / step) + 2, int(width / step) + 2)).astype(np.float32)
    layers = [np.asarray(Image.fromarray(layer).resize((width, height), Image.Resampling.BICUBIC)) for layer in coarse]
    return np.stack(layers, axis=-1)


def _clutter(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return a muted, textured background with strokes that are no object."""
    base = rng.uniform(70, 190) + rng.normal(0, 14, 3)
    ground = base + 12 * noise(rng, width, height, 2) + 5 * noise(rng, width, height, 12)
    canvas = Image.fromarray(ground.round().clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(2, 9))):
        colour = tuple(int(value) for value in np.clip(base + rng.normal(0, 26, 3), 0, 255))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        dx, dy = rng.normal(0, 16, 2)
        pen.line([(x, y), (x + dx, y + dy)], fill=colour, width=int(rng.integers(1, 4)))
    return np.asarray(canvas, np.float32)


def _regular(corners: int, inner: float = 1.0) -> np.ndarray:
    """Return a star-shaped outline of radius 1: every second corner lies at radius ``inner``."""
    angle = np.arange(corners) * 2 * pi / corners - pi / 2
    radius = np.where(np.arange(corners) % 2, inner, 1.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


@cache
def _unit_outline(kind: str) -> np.ndarray:
    """Return the outline of a kind of object, [N, 2], within about radius 1."""
    if kind == "hearts":
        turn = np.linspace(0, 2 * pi, 40, endpoint=False)
        across = 16 * np.sin(turn) ** 3
        down = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn))
        return np.stack([across, down], axis=1) / 16.5
    if kind in _DATA["outlines"]:
        return np.array(_DATA["outlines"][kind])
    if kind == "lobes":
        turn = np.linspace(0, 2 * pi, 48, endpoint=False)
        radius = 0.82 + 0.16 * np.cos(3 * turn + 0.4)
        return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    plain = {
        "squares": _regular(4) * 1.12,
        "triangles": _regular(3) * 1.12,
        "stars": _regular(10, 0.44) * 1.1,
        "diamonds": _regular(4) * np.array([0.66, 1.1]),
        "dice": _regular(4) * 1.3,
    }
    return plain.get(kind, _regular(32))


def _kind(label: str) -> str:
    if label == "white blood cells":
        return "lobes"
    return "dice" if label.startswith("dice") else label.rsplit(maxsplit=1)[-1]


def _placed(thing: Thing, outline: np.ndarray, scale: float = 1.0) -> list[tuple[float, float]]:
    """Return ``outline`` at the thing's place, angle and size, in pixels of the oversampled canvas."""
    turn = np.array([[cos(thing.angle), -sin(thing.angle)], [sin(thing.angle), cos(thing.angle)]])
    placed = (outline * (0.5 * thing.size * scale)) @ turn.T + (thing.x, thing.y)
    return [(float(x), float(y)) for x, y in placed * OVERSAMPLING]


def _outlines(thing: Thing) -> list[list[tuple[float, float]]]:
    """Return the polygons a thing covers: one, or four sectors of a ring whose middle shows what lies behind."""
    if not thing.label.endswith("rings"):
        return [_placed(thing, _unit_outline(_kind(thing.label)))]
    sectors = []
    for quarter in range(4):
        turn = np.linspace(quarter * pi / 2, (quarter + 1) * pi / 2, 10)
        arc = np.stack([np.cos(turn), np.sin(turn)], axis=1)
        sectors.append(_placed(thing, np.concatenate([arc, 0.52 * arc[::-1]])))
    return sectors


def _shade(paint: Sequence[int], factor: float) -> tuple[int, int, int]:
    red, green, blue = (int(min(255, value * factor)) for value in paint)
    return red, green, blue


def _paint(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    for outline in _outlines(thing):
        pen.polygon(outline, fill=thing.paint)
    kind = _kind(thing.label)
    if kind == "cars":
        pen.polygon(_placed(thing, _unit_outline("roof")), fill=_shade(thing.paint, 0.82))
        pen.polygon(_placed(thing, _unit_outline("windscreen")), fill=(38, 44, 54))
    elif kind == "dice":
        _paint_pips(pen, thing)
    elif thing.label == "red blood cells":
        pen.polygon(_placed(thing, _regular(24), 0.5), fill=_shade(thing.paint, 1.1))
    elif kind not in ("rings", "lobes"):  # a darker rim, so that touching neighbours stay two
        outline = _placed(thing, _unit_outline(kind))
        pen.line([*outline, outline[0]], fill=_shade(thing.paint, 0.72), width=OVERSAMPLING)


def _paint_pips(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    count = NUMBER_WORDS.index(thing.label.split()[2]) + 1
    a = 0.46
    corners = [(-a, -a), (a, a), (-a, a), (a, -a), (-a, 0), (a, 0)]
    places = ([(0.0, 0.0)] if count % 2 else []) + corners[: count - count % 2]
    eighth = np.array([[cos(pi / 4), -sin(pi / 4)], [sin(pi / 4), cos(pi / 4)]])  # squares stand on a corner
    for place in np.array(places) @ eighth:
        pen.polygon(_placed(thing, _regular(10) * 0.17 + place), fill=(28, 28, 32))
