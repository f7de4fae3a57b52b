"""Draws scenes of coloured shapes: a scene says what is where, a picture of any size follows from it.

Positions and radii are fractions of the picture's side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 45, 45),
    "yellow": (242, 196, 25),
    "green": (45, 160, 70),
    "blue": (45, 95, 220),
    "purple": (155, 65, 190),
    "black": (35, 35, 35),
}
SHAPES = {"circle": "circles", "square": "squares", "triangle": "triangles", "star": "stars", "cross": "crosses"}
_OVERSAMPLING = 4  # drawn that much larger, then averaged down: smooth edges


@dataclass(frozen=True)
class Thing:
    """One shape in a scene: x to the right and y down, both of its centre; radius around it; tilt in degrees."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    tilt: float
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """What a picture shows, before it is drawn."""

    things: tuple[Thing, ...]
    background: tuple[int, int, int]


def _regular(corners: int, *radii: float) -> tuple[tuple[float, float], ...]:
    """Corners around the origin, the first on top, their distances taking turns through `radii`."""
    turns = [2 * math.pi * k / corners for k in range(corners)]
    return tuple(
        (radii[k % len(radii)] * math.sin(t), -radii[k % len(radii)] * math.cos(t)) for k, t in enumerate(turns)
    )


_ARM = 0.31  # half the width of a cross's arm
_END = 0.95  # how far it reaches: its corners then stay inside the unit circle
_QUARTER = ((-_ARM, -_END), (_ARM, -_END), (_ARM, -_ARM))
# Each inside the unit circle and around its centre; a circle has its own drawing call, and this radius.
_ROUND = 0.86
_OUTLINES = {
    "square": tuple((x * math.sqrt(0.5), y * math.sqrt(0.5)) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))),
    "triangle": _regular(3, 1.0),
    "star": _regular(10, 1.0, 0.42),
    "cross": tuple(
        point
        for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))
        for point in ((c * x - s * y, s * x + c * y) for x, y in _QUARTER)
    ),
}


def draw_scene(scene: Scene, size: int = 64) -> Image.Image:
    """Draws a scene as an RGB picture of size by size pixels."""
    if size < 1:
        raise ValueError(f"size is {size}: a picture needs at least 1 pixel")
    side = size * _OVERSAMPLING
    image = Image.new("RGB", (side, side), scene.background)
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        x, y, r = thing.x * side, thing.y * side, thing.radius * side
        if thing.shape == "circle":
            r *= _ROUND
            pen.ellipse((x - r, y - r, x + r, y + r), fill=thing.rgb)
            continue
        cos, sin = r * math.cos(math.radians(thing.tilt)), r * math.sin(math.radians(thing.tilt))
        pen.polygon([(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in _OUTLINES[thing.shape]], fill=thing.rgb)
    return image.reduce(_OVERSAMPLING)
