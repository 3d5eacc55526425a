"""Drawn car parks, seen from above: rows of bays on asphalt, with bushes and lines."""

from math import pi

import numpy as np
from PIL import Image, ImageDraw

from recount.scenes.shapes import CARS, Scene, Thing, jittered, noise, paint_of


def parking_scene(rng: np.random.Generator, width: int, height: int, fullness: float) -> Scene:
    """Return a car park with a share ``fullness`` of its bays taken. Rows are one car long; a lane separates pairs."""
    background = _asphalt(rng, width, height)
    length, pitch = 20.0, 12.5
    tilt = pi / 2 + rng.uniform(-0.15, 0.15)
    cars = []
    for y in np.arange(rng.uniform(11, 17), height - 8, 32.0):
        for x in np.arange(rng.uniform(7, 12), width - 5, pitch):
            if rng.random() < fullness:
                jitter = rng.normal(0, 0.8, 2)
                angle, size = tilt + rng.normal(0, 0.04), length * rng.uniform(0.9, 1.1)
                cars.append(Thing(CARS, x + jitter[0], y + jitter[1], size, angle, paint_of(rng, CARS)))
    return Scene(width, height, background, tuple(cars))


def _asphalt(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    grey = rng.uniform(88, 140)
    ground = grey + 6 * noise(rng, width, height, 3) + rng.normal(0, 5, (height, width, 1))
    canvas = Image.fromarray(ground.round().clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    for x in np.arange(rng.uniform(0, 12.5), width, 12.5):
        for y in np.arange(5.0, height, 32.0):
            pen.line([(x, y), (x, y + 14)], fill=tuple([int(grey + 60)] * 3), width=1)
    for _ in range(int(rng.integers(0, 4))):  # bushes
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(3, 7)
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=jittered(rng, (66, 104, 58), 12))
    return np.asarray(canvas, np.float32)
