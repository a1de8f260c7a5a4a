"""The world of the bundled model: captioned clips of one textured shape that moves, turns or bounces.

A scene is drawn analytically (signed distances, one pixel of anti-aliasing), so any number of exact clips is at hand:
to train on, and to compare with. Every caption reads "a <colour> <shape> <motion>". A still shows something of the
motion, as photographs do: a shape that moves heads for a wall at the edge of the frame, one that bounces has a floor
below it, one that turns is larger and has a dark spot near its edge. All of them turn clockwise.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SIZE = 64
"""Side of a frame in pixels."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.16, 0.14), "yellow": (0.95, 0.85, 0.15), "green": (0.18, 0.75, 0.25),
    "blue": (0.18, 0.35, 0.95), "purple": (0.72, 0.22, 0.85), "white": (0.97, 0.97, 0.97),
}
"""Red, green and blue of each colour, 0 to 1."""

SHAPES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": tuple((math.cos(2 * math.pi * k / 24), math.sin(2 * math.pi * k / 24)) for k in range(24)),
    "square": tuple((0.92 * x, 0.92 * y) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))),
    "triangle": ((0.0, -1.15), (1.1, 0.8), (-1.1, 0.8)),
    "star": tuple((r * math.sin(math.pi * k / 5), -r * math.cos(math.pi * k / 5))
                  for k, r in enumerate((1.3, 0.52) * 5)),
}
"""Vertices of each shape in units of its radius, y down."""

MOTIONS = ("moves right", "moves left", "moves up", "moves down", "turns", "bounces")

_HEADING = {"moves right": (1.0, 0.0), "moves left": (-1.0, 0.0), "moves up": (0.0, -1.0), "moves down": (0.0, 1.0)}

CAPTIONS = tuple(f"a {' '.join(words)}" for words in itertools.product(COLOURS, SHAPES, MOTIONS))
"""Every caption of the world."""


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn. Lengths in pixels, angles in radians, rates per frame."""

    colour: str
    shape: str
    motion: str
    radius: float
    centre: tuple[float, float]
    """Of the path; of a bounce: x, and the height of the floor."""
    speed: float
    """Pixels a frame, radians a frame, or the height of a bounce."""
    angle: float
    phase: float
    """Where in a bounce the clip begins, 0 to 1."""
    stripes: tuple[float, float]
    """Angle and phase of the stripes on the shape."""
    ground: tuple[float, float, float]
    """Colour of the background, 0 to 1."""
    hatch: tuple[float, float]
    """Angle and phase of the lines on the background."""

    @property
    def caption(self) -> str:
        """What the scene shows, in the words that the model knows."""
        return f"a {self.colour} {self.shape} {self.motion}"


def random_scene(generator: torch.Generator, caption: str | None = None) -> Scene:
    """A scene drawn at random, of ``caption`` where one is given. Raises ValueError for a caption of another world."""
    if caption is None:
        caption = CAPTIONS[int(torch.randint(len(CAPTIONS), (), generator=generator))]
    elif caption not in CAPTIONS:
        raise ValueError(f"{caption!r} is no caption of this world: a <{' | '.join(COLOURS)}> <{' | '.join(SHAPES)}> "
                         f"<{' | '.join(MOTIONS)}>")
    _, colour, shape, motion = caption.split(" ", 3)

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def direction() -> float:
        return math.pi / 4 * int(between(0, 4))

    middle = SIZE / 2
    if motion == "bounces":
        centre, speed = (between(20, SIZE - 20), between(56, 61)), between(18, 25)
    elif motion == "turns":
        centre, speed = (between(22, SIZE - 22), between(22, SIZE - 22)), between(0.24, 0.32)
    else:
        across, along = between(-11, 11), between(-3, 3)
        x, y = _HEADING[motion]
        centre = (middle + along * x + across * abs(y), middle + along * y + across * abs(x))
        speed = between(1.9, 2.6)
    grey = between(0.22, 0.42)
    radius = between(13, 15) if motion == "turns" else between(9.5, 12.5)
    return Scene(
        colour, shape, motion, radius=radius, centre=centre, speed=speed, angle=between(-0.25, 0.25),
        phase=between(0, 1), stripes=(direction(), between(0, 2 * math.pi)),
        ground=(grey + between(-0.06, 0.06), grey + between(-0.06, 0.06), grey + between(-0.06, 0.06)),
        hatch=(direction(), between(0, 2 * math.pi)),
    )


def render(scene: Scene, frames: int = 12, times: Sequence[float] | None = None) -> Tensor:
    """The clip of a scene: (frames, 3, SIZE, SIZE), float32 RGB from 0 to 1. ``times`` names the moments to draw."""
    moments = torch.arange(frames, dtype=torch.float32) if times is None else torch.tensor(times, dtype=torch.float32)
    middle = (frames - 1) / 2
    cx, cy = torch.full_like(moments, scene.centre[0]), torch.full_like(moments, scene.centre[1])
    angle = torch.full_like(moments, scene.angle)
    heading = _HEADING.get(scene.motion)
    if scene.motion == "turns":
        angle = angle + scene.speed * (moments - middle)
    elif scene.motion == "bounces":
        cy = cy - scene.radius - 1 - scene.speed * torch.sin(math.pi * (moments / 8 + scene.phase)).abs()
    if heading is not None:
        cx, cy = (c + h * scene.speed * (moments - middle) for c, h in zip((cx, cy), heading))

    axis = torch.arange(SIZE, dtype=torch.float32) + 0.5
    gx, gy = axis[None, None, :], axis[None, :, None]
    base = torch.tensor(scene.ground).view(1, 3, 1, 1)
    image = base + 0.07 * _wave(gx, gy, scene.hatch[0], 8.0, scene.hatch[1])[:, None]
    if scene.motion == "bounces":
        image = image + _line(gy - scene.centre[1] - 1.5, 1.5) * (0.85 - image)
    if heading is not None:
        ahead = heading[0] * (gx - SIZE / 2) + heading[1] * (gy - SIZE / 2)
        image = image + _line(ahead - SIZE / 2, 4.0) * (0.85 - image)

    dx, dy = gx - cx.view(-1, 1, 1), gy - cy.view(-1, 1, 1)
    cos, sin = torch.cos(angle).view(-1, 1, 1), torch.sin(angle).view(-1, 1, 1)
    px, py = cos * dx + sin * dy, cos * dy - sin * dx
    coverage = (0.5 - _distance(px, py, SHAPES[scene.shape], scene.radius)).clamp(0, 1)[:, None]
    stripe = _wave(px, py, scene.stripes[0], 6.0, scene.stripes[1])[:, None]
    paint = torch.tensor(COLOURS[scene.colour]).view(1, 3, 1, 1) * (0.78 + 0.22 * stripe)
    image = image + coverage * (paint - image)
    if scene.motion == "turns":
        image = image * (1 - 0.85 * _spot(px, py, scene.radius)[:, None] * coverage)
    return image.expand(len(moments), -1, -1, -1).clamp(0, 1)


def _line(distance: Tensor, half_width: float) -> Tensor:
    """Coverage of a line by signed distance in pixels to its middle: (n, 1, height, width)."""
    return (half_width + 0.5 - distance.abs()).clamp(0, 1)[:, None]


def _spot(px: Tensor, py: Tensor, radius: float) -> Tensor:
    """Coverage of the spot on a shape, in the shape's own coordinates."""
    return (0.36 * radius + 0.5 - torch.hypot(px, py + 0.5 * radius)).clamp(0, 1)


def _wave(x: Tensor, y: Tensor, angle: float, period: float, phase: float) -> Tensor:
    """Parallel lines with soft edges, -1 to 1."""
    along = (x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period) + phase
    return torch.tanh(2.5 * torch.sin(along))


def _distance(px: Tensor, py: Tensor, vertices: Sequence[tuple[float, float]], radius: float) -> Tensor:
    """Signed distance in pixels to a polygon, negative inside."""
    nearest = torch.full_like(px, math.inf)
    inside = torch.zeros_like(px, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(vertices, (*vertices[1:], vertices[0])):
        ax, ay, ex, ey = ax * radius, ay * radius, (bx - ax) * radius, (by - ay) * radius
        wx, wy = px - ax, py - ay
        part = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        nearest = torch.minimum(nearest, (wx - part * ex) ** 2 + (wy - part * ey) ** 2)
        crosses = (py >= ay) != (py >= ay + ey)
        inside ^= crosses & ((ex * wy - ey * wx) * (1.0 if ey > 0 else -1.0) < 0)
    return nearest.sqrt() * torch.where(inside, -1.0, 1.0)
