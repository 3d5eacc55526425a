"""Drawn crowds: streets and stadiums with perspective, clutter and known heads. NumPy and Pillow only.

A scene is planned first (where every head is and how large) and drawn afterwards. Streets: the size of a head grows
linearly with the row of the picture, as on a level ground, and far people stand denser. Stadiums: rows of seats, some
empty. Lamps, balls, balloons, bollards and faces on posters look like heads and are not counted. Light, contrast, noise
and sharpness vary and are drawn independently of the number of heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

_SCALE = 3  # drawn three times as large, then shrunk: smooth edges
_DATA = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
_PALETTES: dict[str, list[Colour]] = _DATA["palettes"]
_THINGS: dict[str, Any] = _DATA["things"]

_SMALLEST_HEAD = 3.4
_PLACING_TRIES = 30
_THING_TRIES = 8
_STATURE = 6.4  # from the centre of the head to the feet, in heights of the head


@dataclass(frozen=True)
class Scene:
    """A planned picture."""

    kind: Literal["street", "stadium"]
    size: tuple[int, int]  # (width, height) in pixels
    heads: np.ndarray  # float64 [N, 3], x and y of the centre and the height of each head in pixels, from far to near
    top: float  # row where the ground or the stand begins
    head_sizes: tuple[float, float]  # height of a head in pixels at ``top`` and at the lower edge
    seed: tuple[int, ...]  # of everything that is drawn
    seats: np.ndarray  # float64 [M, 3] of a stadium, x, y and head size at each seat, taken or not

    @property
    def growth(self) -> float:
        """Return by how much a head grows from row to row."""
        return (self.head_sizes[1] - self.head_sizes[0]) / (self.size[1] - self.top)


def plan(kind: Literal["street", "stadium"], count: int, size: tuple[int, int], seed: Sequence[int]) -> Scene:
    """Return a scene with exactly ``count`` heads."""
    return (_street if kind == "street" else _stadium)(count, size, tuple(seed), np.random.default_rng([*seed, 0]))


def _far_to_near(heads: np.ndarray) -> np.ndarray:
    heads = np.round(heads * 16) / 16  # the last bits of transcendental functions differ between machines
    return heads[np.argsort(heads[:, 1], kind="stable")]


def _street(count: int, size: tuple[int, int], seed: tuple[int, ...], rng: np.random.Generator) -> Scene:
    width, height = size
    top = height * rng.uniform(0.12, 0.42)
    room = np.sqrt(0.55 * width * (height - top) / count)  # the head size at which the ground would be full
    far = min(rng.uniform(4.5, 7.5), 0.75 * room)
    near = min(far * rng.uniform(1.6, 3.2), 20.0, 1.6 * room)
    while True:
        head_sizes = (max(far, _SMALLEST_HEAD), max(near, _SMALLEST_HEAD))
        heads = _standing(count, size, top, head_sizes, rng)
        if len(heads) == count:
            return Scene("street", size, _far_to_near(heads), top, head_sizes, seed, np.zeros((0, 3)))
        far, near = far * 0.92, near * 0.92


def _standing(
    count: int, size: tuple[int, int], top: float, heads: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Return up to ``count`` people on the ground, further apart than their heads are wide."""
    width, height = size
    tries = count * _PLACING_TRIES
    rows = np.linspace(top + heads[0] * 0.6, height - heads[1] * 0.55, 256)
    sizes = np.interp(rows, (rows[0], rows[-1]), heads)
    share = np.cumsum(sizes**-2.0)
    drawn = np.searchsorted(share / share[-1], rng.random(tries))
    y = rows[np.minimum(drawn, 255)] + rng.uniform(-0.5, 0.5, tries) * (rows[1] - rows[0])
    d = np.interp(y, (rows[0], rows[-1]), heads) * rng.uniform(0.9, 1.1, tries)
    x = d * 0.5 + rng.random(tries) * (width - d)
    density = _clouds((width, height), rng, cells=4)[np.clip(y, 0, height - 1).astype(int), x.astype(int)]
    wanted = rng.random(tries) < 0.15 + density**2
    return _apart(np.stack([x, y, d], axis=1)[wanted], count)


def _apart(candidates: np.ndarray, count: int) -> np.ndarray:
    kept = np.zeros((0, 3))
    for candidate in candidates:
        near = 0.42 * (kept[:, 2] + candidate[2])
        if not ((kept[:, 0] - candidate[0]) ** 2 + (kept[:, 1] - candidate[1]) ** 2 < near**2).any():
            kept = np.append(kept, candidate[None], axis=0)
        if len(kept) == count:
            break
    return kept


def _stadium(count: int, size: tuple[int, int], seed: tuple[int, ...], rng: np.random.Generator) -> Scene:
    width, height = size
    top = height * rng.uniform(0.05, 0.28)
    bottom = height * rng.uniform(0.82, 1.0)
    taken = rng.uniform(0.3, 0.92)
    mean = float(np.clip(np.sqrt(width * (bottom - top) * taken / count / 2.4), 4.0, 15.0))
    growth = rng.uniform(1.2, 2.0)
    slope = rng.uniform(-0.12, 0.12)
    while True:
        head_sizes = (mean / growth**0.5, mean * growth**0.5)
        seats = _seats(width, (top, bottom), head_sizes, slope, rng)
        if len(seats) >= count:
            break
        mean *= 0.95
    density = _clouds(size, rng, cells=3)[seats[:, 1].astype(int), seats[:, 0].astype(int)]
    order = np.argsort(rng.random(len(seats)) ** (1 / (0.2 + density)))[::-1]
    heads = seats[order[:count]]
    jitter = rng.uniform(-0.14, 0.14, (count, 2)) * heads[:, 2:]
    heads = np.concatenate([heads[:, :2] + jitter, heads[:, 2:] * rng.uniform(0.92, 1.08, (count, 1))], axis=1)
    return Scene("stadium", size, _far_to_near(heads), top, head_sizes, seed, seats)


def _seats(
    width: int, rows: tuple[float, float], heads: tuple[float, float], slope: float, rng: np.random.Generator
) -> np.ndarray:
    aisles = rng.uniform(0, width, int(rng.integers(1, 3)))
    seats = []
    y = rows[0] + heads[0]
    while y < rows[1] - heads[0] * 0.5:
        d = float(np.interp(y, rows, heads))
        x = np.arange(rng.uniform(0.6, 1.6) * d, width - 0.6 * d, 1.5 * d)
        tilted = y + slope * (x - width / 2)
        free = (np.abs(x[:, None] - aisles) > 1.2 * d).all(axis=1)
        inside = (tilted > rows[0] + d * 0.5) & (tilted < rows[1] - d * 0.5)
        seats.append(np.stack([x, tilted, np.full_like(x, d)], axis=1)[free & inside])
        y += 1.5 * d
    return np.concatenate(seats) if seats else np.zeros((0, 3))


def _clouds(size: tuple[int, int], rng: np.random.Generator, cells: int) -> np.ndarray:
    """Return a smooth random field in [0, 1], [height, width]."""
    coarse = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255


class _Pen:
    """Draws in the picture's pixels on a canvas that is ``_SCALE`` times as large."""

    def __init__(self, image: Image.Image, rng: np.random.Generator) -> None:
        self.draw = ImageDraw.Draw(image)
        self.rng = rng

    def ellipse(self, x: float, y: float, width: float, height: float, fill: Colour) -> None:
        box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]) * _SCALE
        self.draw.ellipse(box.tolist(), fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        if right > left and bottom > top:
            self.draw.rectangle((np.array([left, top, right, bottom]) * _SCALE).tolist(), fill=fill)

    def polygon(self, points: Sequence[tuple[float, float]], fill: Colour) -> None:
        self.draw.polygon([(x * _SCALE, y * _SCALE) for x, y in points], fill=fill)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, fill: Colour) -> None:
        ends = [x0 * _SCALE, y0 * _SCALE, x1 * _SCALE, y1 * _SCALE]
        self.draw.line(ends, fill=fill, width=max(1, round(width * _SCALE)))

    def choice(self, colours: Sequence[Colour], spread: int = 14) -> Colour:
        """Return one of ``colours``, a little different each time."""
        return _shifted(colours[int(self.rng.integers(len(colours)))], self.rng.integers(-spread, spread + 1, 3))


def _shifted(colour: Colour, by: np.ndarray | Sequence[int]) -> Colour:
    red, green, blue = (int(min(255, max(0, value + change))) for value, change in zip(colour, by, strict=True))
    return red, green, blue


def _dimmed(colour: Colour, factor: float) -> Colour:
    return _shifted((0, 0, 0), [int(value * factor) for value in colour])


def draw(scene: Scene) -> Image.Image:
    """Return the picture of ``scene``, RGB. The same scene gives the same pixels."""
    rng = np.random.default_rng([*scene.seed, 1])
    canvas = Image.new("RGB", (scene.size[0] * _SCALE, scene.size[1] * _SCALE))
    (_draw_street if scene.kind == "street" else _draw_stadium)(_Pen(canvas, rng), scene)
    return _photographed(canvas.resize(scene.size, Image.Resampling.BOX), rng)


def _photographed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add what a camera and the weather do: light, colour cast, uneven light, blur, grain."""
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.7))))
    pixels = np.asarray(image, dtype=np.float32)
    height, width = pixels.shape[:2]
    light = rng.uniform(0.5, 1.25) * (1 + rng.uniform(0, 0.5) * (_clouds((width, height), rng, 3) - 0.5))
    cast, contrast = rng.uniform(0.92, 1.08, 3), rng.uniform(0.75, 1.1)
    lit = ((pixels - 118) * contrast + 118) * light[..., None] * cast
    lit = lit + (rng.random(pixels.shape) - 0.5) * rng.uniform(4, 22)
    return Image.fromarray(np.clip(np.round(lit), 0, 255).astype(np.uint8))


def _draw_street(pen: _Pen, scene: Scene) -> None:
    width, height = scene.size
    ground = pen.choice(_PALETTES["ground"], 18)
    pen.box(0, 0, width, height, ground)
    _draw_paving(pen, scene, ground)
    pen.box(0, 0, width, scene.top, pen.choice(_PALETTES["skies"], 20))
    _draw_buildings(pen, scene)
    things = sorted(_street_things(pen, scene))
    others = [
        (foot, partial(_draw_tree, pen, x, foot, d) if kind == "tree" else partial(_draw_thing, pen, kind, x, foot, d))
        for foot, kind, x, d in things
    ]
    people = [(foot, partial(_draw_person, pen, *head)) for foot, head in zip(_feet(scene), scene.heads, strict=True)]
    for _, draw_next in sorted([*people, *others], key=lambda drawing: drawing[0]):  # from far to near
        draw_next()


def _draw_buildings(pen: _Pen, scene: Scene) -> None:
    left = -10.0
    while left < scene.size[0]:
        wide = pen.rng.uniform(24, 90)
        roof = scene.top * pen.rng.uniform(-0.2, 0.75)
        wall = pen.choice(_PALETTES["walls"])
        pen.box(left, roof, left + wide, scene.top, wall)
        _draw_windows(pen, (left, roof, left + wide, scene.top), wall)
        if pen.rng.random() < 0.35 and wide > 40 and scene.top - roof > 40:  # a poster: a face that is nobody
            x, y, size = left + wide * 0.5, (roof + scene.top) / 2, min(wide, scene.top - roof) * 0.3
            pen.box(x - size, y - size, x + size, y + size, pen.choice(_PALETTES["clothes"]))
            pen.ellipse(x, y + size * 0.9, size * 1.5, size * 0.8, pen.choice(_PALETTES["clothes"]))
            _draw_head(pen, x, y, size * 0.95)
        left += wide


def _draw_windows(pen: _Pen, wall: tuple[float, float, float, float], colour: Colour) -> None:
    left, top, right, bottom = wall
    step = pen.rng.uniform(7, 13)
    pane = _dimmed(colour, float(pen.rng.uniform(0.35, 0.6))) if pen.rng.random() < 0.7 else _shifted(colour, [50] * 3)
    for y in np.arange(top + step * 0.6, bottom - step * 0.8, step * 1.2):
        for x in np.arange(left + step * 0.5, right - step * 0.6, step):
            pen.box(x, y, x + step * 0.5, y + step * 0.7, pane)


def _draw_paving(pen: _Pen, scene: Scene, ground: Colour) -> None:
    width, height = scene.size
    joint = _dimmed(ground, float(pen.rng.uniform(0.82, 0.94)))
    vanishing = (width * pen.rng.uniform(0.1, 0.9), scene.top - height * pen.rng.uniform(0.1, 0.6))
    for x in np.arange(-width, 2 * width, pen.rng.uniform(16, 60)):
        pen.line(*vanishing, x, height, 0.5, joint)
    y, step = scene.top, 1.5
    while y < height:
        pen.line(0, y, width, y, 0.4, joint)
        y, step = y + step, step * 1.25
    stones = int(pen.rng.integers(0, 2500)) if pen.rng.random() < 0.6 else 30  # cobbles, gravel, leaves, litter
    rough = int(pen.rng.integers(8, 50))
    for _ in range(stones):
        x, y = pen.rng.uniform(0, width), pen.rng.uniform(scene.top, height)
        size = 0.8 + 2.2 * (y - scene.top) / (height - scene.top)
        pen.ellipse(x, y, size * 1.7, size, _shifted(ground, [int(pen.rng.integers(-rough, rough + 1))] * 3))


def _street_things(pen: _Pen, scene: Scene) -> list[tuple[float, str, float, float]]:
    """Return things that hide no head: (row of the foot, kind, x, head size of a person standing there)."""
    width, height = scene.size
    things = []
    for kind in _THINGS:
        number = int(pen.rng.integers(1, 6)) if pen.rng.random() < 0.6 else 0
        for _ in range(number * _THING_TRIES):
            foot, x = pen.rng.uniform(scene.top + 2, height * 1.05), pen.rng.uniform(0, width)
            d = max(3.0, (scene.head_sizes[0] + (foot - scene.top) * scene.growth) / (1 + _STATURE * scene.growth))
            if number and not _hides_a_head(kind, x, foot, d, scene):
                things.append((foot, kind, x, d))
                number -= 1
    return things


def _feet(scene: Scene) -> np.ndarray:
    """Return the rows of the feet of people of average stature: in the order of the heads, which so cover no head."""
    rows = scene.heads[:, 1]
    return rows + _STATURE * (scene.head_sizes[0] + (rows - scene.top) * scene.growth)


def _hides_a_head(kind: str, x: float, foot: float, d: float, scene: Scene) -> bool:
    half, low, high = _THINGS[kind]["hides"]
    heads = scene.heads
    behind = _feet(scene) < foot
    beside = np.abs(heads[:, 0] - x) < half * d + heads[:, 2] * 0.5
    above = (heads[:, 1] > foot - high * d - heads[:, 2] * 0.5) & (heads[:, 1] < foot - low * d + heads[:, 2] * 0.5)
    return bool((behind & beside & above).any())


def _draw_thing(pen: _Pen, kind: str, x: float, foot: float, d: float) -> None:
    paint = (0, 0, 0)
    for part in _THINGS[kind]["parts"]:
        if "choice" in part:
            paint = pen.choice(part["choice"])
        colour = _shifted(_dimmed(part.get("colour", paint), part.get("dimmed", 1)), [part.get("lighter", 0)] * 3)
        places = [(x + d * across, foot + d * down) for across, down in part["at"]]
        if part["shape"] == "ellipse":
            wide, high = part["size"]
            pen.ellipse(*places[0], d * wide, d * high, colour)
        elif part["shape"] == "line":
            pen.line(*places[0], *places[1], part.get("pixels") or d * part["width"], colour)
        elif part["shape"] == "box":
            pen.box(*places[0], *places[1], colour)
        else:
            pen.polygon(places, colour)


def _draw_tree(pen: _Pen, x: float, foot: float, d: float) -> None:
    pen.line(x, foot, x, foot - d * 8, d * 0.5, pen.choice(_PALETTES["bark"]))
    leaves = pen.choice(_PALETTES["leaves"])
    for _ in range(36):
        angle, far = pen.rng.uniform(0, 2 * np.pi), d * 3 * np.sqrt(pen.rng.random())
        size, shade = d * pen.rng.uniform(0.5, 1.4), _shifted(leaves, [int(pen.rng.integers(-26, 27))] * 3)
        pen.ellipse(x + far * np.cos(angle), foot - d * 9 + far * np.sin(angle), size, size, shade)


def _draw_person(pen: _Pen, x: float, y: float, d: float) -> None:
    """Draw a standing person whose head has its centre at (x, y) and the height ``d``."""
    clothes = pen.choice(_PALETTES["clothes"])
    trousers = pen.choice(_PALETTES["trousers"])
    build = pen.rng.uniform(0.85, 1.15)
    foot = y + d * _STATURE
    pen.ellipse(x, foot, d * 2.2, d * 0.5, (58, 58, 60))
    stride = d * pen.rng.uniform(0.1, 0.45)
    for side in (-1, 1):
        pen.polygon(_limb(x + side * d * 0.32, y + d * 3.2, x + side * stride, foot, d * 0.55), trousers)
    shoulder = d * 0.95 * build
    hip = d * 0.72 * build
    neck = shoulder * 0.7
    right = [(neck, 0.62), (shoulder, 1.05), (hip, 3.5)]
    torso = [(-neck, 0.62), *right, (-hip, 3.5), (-shoulder, 1.05)]
    pen.polygon([(x + across, y + d * down) for across, down in torso], clothes)
    for side in (-1, 1):
        reach = d * pen.rng.uniform(0.8, 1.4)
        hand = (x + side * reach, y + d * pen.rng.uniform(2.4, 3.6))
        pen.polygon(_limb(x + side * shoulder * 0.9, y + d * 0.95, *hand, d * 0.42), _dimmed(clothes, 0.85))
    _draw_head(pen, x, y, d)


def _limb(x0: float, y0: float, x1: float, y1: float, width: float) -> list[tuple[float, float]]:
    half = width / 2
    return [(x0 - half, y0), (x0 + half, y0), (x1 + half * 0.8, y1), (x1 - half * 0.8, y1)]


def _draw_head(pen: _Pen, x: float, y: float, d: float) -> None:
    """Draw a head of height ``d``: from the front, from the side, from behind, with hair, hat or hood."""
    skin = pen.choice(_PALETTES["skin"], 10)
    hair = pen.choice(_PALETTES["hair"], 10)
    cover = pen.rng.random()
    pen.ellipse(x, y + d * 0.42, d * 0.42, d * 0.5, _dimmed(skin, 0.8))
    if cover < 0.16:  # hat, hood or scarf
        hair = pen.choice(_PALETTES["clothes"])
    if pen.rng.random() < 0.35:  # from behind
        pen.ellipse(x, y, d * 0.86, d, hair)
        return
    turned = pen.rng.uniform(-0.14, 0.14) * d
    pen.ellipse(x, y - d * 0.04, d * 0.86, d * 0.94, hair)
    pen.ellipse(x + turned, y + d * 0.1, d * 0.68, d * 0.78, skin)
    if cover > 0.9:  # bald
        pen.ellipse(x, y - d * 0.05, d * 0.8, d * 0.86, skin)
    if d > 7:
        for side in (-0.16, 0.16):
            pen.ellipse(x + turned + side * d, y + d * 0.06, d * 0.1, d * 0.1, _dimmed(hair, 0.6))


def _draw_stadium(pen: _Pen, scene: Scene) -> None:
    width, height = scene.size
    pen.box(0, 0, width, height, pen.choice(((70, 74, 80), (110, 110, 112), (150, 148, 144))))
    pen.box(0, 0, width, scene.top, pen.choice(((40, 44, 52), *_PALETTES["skies"]), 20))
    for x in np.arange(pen.rng.uniform(4, 20), width, pen.rng.uniform(14, 40)):
        if scene.top > 20:  # floodlights under the roof
            pen.ellipse(x, scene.top * 0.5, 5, 5, pen.choice(((250, 246, 226), (90, 92, 96))))
    seat = pen.choice(_PALETTES["seats"])
    team = [pen.choice(_PALETTES["clothes"]) for _ in range(3)]
    people = sorted([*((y, 0, x, d) for x, y, d in scene.seats), *((y, 1, x, d) for x, y, d in scene.heads)])
    loyal = pen.rng.uniform(0.1, 0.7)
    for y, is_person, x, d in people:
        if is_person:
            _draw_spectator(pen, x, y, d, team if pen.rng.random() < loyal else _PALETTES["clothes"])
        else:
            colour = _shifted(seat, pen.rng.integers(-8, 9, 3))
            pen.box(x - d * 0.55, y + d * 0.2, x + d * 0.55, y + d * 1.2, colour)
            pen.ellipse(x, y + d * 0.25, d * 1.1, d * 0.5, colour)
            pen.box(x - d * 0.55, y + d * 1.2, x + d * 0.55, y + d * 1.4, _dimmed(colour, 0.5))
    _draw_pitch(pen, scene)


def _draw_spectator(pen: _Pen, x: float, y: float, d: float, colours: Sequence[Colour]) -> None:
    clothes = pen.choice(colours)
    pen.ellipse(x, y + d * 1.1, d * 1.5, d * 1.3, clothes)
    pen.box(x - d * 0.72, y + d * 1.1, x + d * 0.72, y + d * 1.7, clothes)
    if pen.rng.random() < 0.15:  # raised arms
        for side in (-1, 1):
            pen.polygon(_limb(x + side * d * 0.6, y + d * 0.9, x + side * d * 0.75, y - d * 0.5, d * 0.3), clothes)
    _draw_head(pen, x, y, d)


def _draw_pitch(pen: _Pen, scene: Scene) -> None:
    """Draw boards and pitch below the lowest seats, never over a head."""
    width, height = scene.size
    bottom = float((scene.seats[:, 1] + scene.seats[:, 2] * 1.4).max())
    left = 0.0
    while left < width:
        wide = pen.rng.uniform(20, 60)
        pen.box(left, bottom, left + wide, bottom + 9, pen.choice(_PALETTES["clothes"], 30))
        pen.line(left + 4, bottom + 4.5, left + wide - 5, bottom + 4.5, 2, (240, 240, 236))
        left += wide
    pen.box(0, bottom + 9, width, height, pen.choice(((60, 120, 56), (90, 136, 66), (150, 90, 70))))
    pen.line(0, bottom + 14, width, bottom + 14, 1.2, (236, 236, 232))
