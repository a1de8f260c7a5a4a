"""An independent judge of clips of the box world: it reads colour, shape and motion off the pixels, and nothing else.

It knows the vocabulary of `scenes`, not the scene: a frame is parted into background and one object, the object's
outline is compared with every shape at every angle, and its track and the way round of its dark spot give the motion.
Clips of a generative model are blurred, pale and wobbly, so every measure is relative to the clip's own contrast; what
is no clear case of one word is None.
"""
from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import scenes

_MOST = 0.75
"""Share of the frames that must show an object, and agree on its colour."""
_LIKE = 0.75
"""Correlation with some shape from which on something is an object."""
_SWAY = 0.02
"""Root mean square of what the lean of a shape that turns differs from its mean; that of noise is below 0.01."""


@dataclass(frozen=True)
class Reading:
    """What a clip shows, in the words of `scenes`; None where it is unclear."""

    colour: str | None
    shape: str | None
    motion: str | None

    @property
    def caption(self) -> str | None:
        """The caption that the clip obeys, or None where one of its words is unclear."""
        if self.colour is None or self.shape is None or self.motion is None:
            return None
        return f"a {self.colour} {self.shape} {self.motion}"


def obeys(clip: Tensor, caption: str) -> bool:
    """Whether colour, shape and motion of a clip (see `read`) are all as the caption says.

    Raises ValueError for a caption of another world.
    """
    if caption not in scenes.CAPTIONS:
        raise ValueError(f"{caption!r} is no caption of this world, such as {scenes.CAPTIONS[0]!r}")
    return read(clip).caption == caption


@torch.no_grad()
def read(clip: Tensor) -> Reading:
    """The reading of a clip: (frames, 3, SIZE, SIZE), RGB from 0 to 1, six frames or more.

    Raises ValueError for a tensor of another form.
    """
    if clip.ndim != 4 or clip.shape[1:] != (3, scenes.SIZE, scenes.SIZE) or len(clip) < 6:
        raise ValueError(f"clip = {tuple(clip.shape)} cannot be read; allowed: "
                         f"(frames, 3, {scenes.SIZE}, {scenes.SIZE}) with 6 frames or more")
    clip = _smooth(clip.detach().to("cpu", torch.float32))
    mask, _ = _segment(clip - _ground(clip))
    contrast = clip - _ground(clip.where(_apart_from(_place(mask)[0], 20), math.nan))
    mask, alone = _segment(contrast)
    centre, area = _place(mask)
    scores = _match(mask, centre, area)
    seen = alone & (scores.amax(1) > _LIKE)
    if seen.float().mean() < _MOST:
        return Reading(None, None, None)
    clip, contrast, mask, centre, area = clip[seen], contrast[seen], mask[seen], centre[seen], area[seen]
    paint = _average(contrast, mask)
    time = seen.nonzero()[:, 0].float()
    return Reading(
        _colour(_average(clip, mask), paint), _shape(scores[seen].mean(0)),
        _motion(time, centre, _lean(contrast, paint, centre, area)),
    )


def _smooth(images: Tensor) -> Tensor:
    """Each channel of (n, c, height, width) under a 3 x 3 binomial filter."""
    images = F.pad(images, (1, 1, 1, 1), mode="replicate")
    images = (images[..., :-2] + 2 * images[..., 1:-1] + images[..., 2:]) / 4
    return (images[..., :-2, :] + 2 * images[..., 1:-1, :] + images[..., 2:, :]) / 4


def _ground(clip: Tensor) -> Tensor:
    """The background of a clip, (frames, 3, SIZE, SIZE): what is constant along rows or columns, and grey diagonals.

    Pixels that are NaN are not looked at. Medians, because they do not see an object that covers less than half of a
    line. Rows and columns come first, as a floor or a wall must not pass for hatch, and again without the hatch, whose
    two tones leave a median undecided.
    """
    light = _light(clip - _rows_and_columns(clip)).nanmedian(0).values
    axis = torch.arange(scenes.SIZE)
    across, down = axis.expand(scenes.SIZE, -1), axis[:, None].expand(-1, scenes.SIZE)
    hatches = [torch.zeros_like(light)]
    for line in (across + down, across - down + scenes.SIZE - 1):
        pixels = torch.full((2 * scenes.SIZE, scenes.SIZE), math.nan)
        pixels[line, down] = light
        hatches.append(pixels.nanmedian(1).values.nan_to_num()[line])
    hatch = min(hatches, key=lambda hatch: float((light - hatch).abs().nanmean()))
    return hatch + _rows_and_columns(clip - hatch)


def _rows_and_columns(clip: Tensor) -> Tensor:
    """What is constant along each row, and along each column, of each frame, by Tukey's median polish."""
    ground = torch.zeros_like(clip)
    for dim in (3, 2, 3, 2):
        ground = ground + (clip - ground).nanmedian(dim=dim, keepdim=True).values.nan_to_num()
    return ground


def _apart_from(centre: Tensor, distance: float) -> Tensor:
    """The pixels farther than ``distance`` from each of the centres (n, 2): (n, 1, SIZE, SIZE)."""
    axis = torch.arange(scenes.SIZE) + 0.5
    dx, dy = axis - centre[:, 0, None, None, None], axis[:, None] - centre[:, 1, None, None, None]
    return torch.hypot(dx, dy) > distance


def _segment(contrast: Tensor) -> tuple[Tensor, Tensor]:
    """The soft mask of the object, (frames, SIZE, SIZE), 0 to about 1, and whether each frame holds just one object.

    ``contrast`` is (frames, 3, SIZE, SIZE), the difference from the ground. Light counts more than chroma, which
    compression smears over blocks of 16 pixels.
    """
    chroma = contrast - contrast.mean(1, keepdim=True)
    light = F.avg_pool2d(_light(contrast)[:, None].abs(), 3, 1, 1)[:, 0]
    field = _close((chroma.square().sum(1) + 8 * light.square()).sqrt())
    field = field - field.flatten(1).median(1).values[:, None, None]
    mask = field.clamp(min=0) / field.flatten(1).quantile(0.98, dim=1).clamp(min=0.03)[:, None, None]

    # The object is where a window holds most of the mask; specks elsewhere do no harm, a second object does, unless it
    # is so much paler than the first (red beside white) that it counts as specks.
    size = scenes.SIZE
    crowd = F.avg_pool2d(F.avg_pool2d(mask[:, None], (1, 21), 1, (0, 10)), (21, 1), 1, (10, 0))[:, 0]
    peak = crowd.flatten(1).argmax(1)
    axis = torch.arange(size, dtype=torch.float32)
    near = torch.hypot(axis - (peak % size)[:, None, None], axis[:, None] - (peak // size)[:, None, None]) < 20
    inside = mask * near
    return inside, mask.sum((1, 2)) < 1.5 * inside.sum((1, 2))


def _light(images: Tensor) -> Tensor:
    """Luma (n, SIZE, SIZE) of RGB (n, 3, SIZE, SIZE), with the weights of JPEG (ITU-R BT.601)."""
    return 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]


def _close(field: Tensor) -> Tensor:
    """(n, SIZE, SIZE) with thin dark stripes filled: a grey-scale closing, 3 x 3 pixels."""
    return -F.max_pool2d(-F.max_pool2d(field[:, None], 3, 1, 1), 3, 1, 1)[:, 0]


def _place(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Centroids (n, 2), x and y in pixels, and areas (n,) in square pixels of soft masks (n, SIZE, SIZE)."""
    axis = torch.arange(scenes.SIZE) + 0.5
    area = mask.sum((1, 2)).clamp(min=1)
    centre = torch.stack(((mask * axis).sum((1, 2)), (mask * axis[:, None]).sum((1, 2))), 1) / area[:, None]
    return centre, area


def _average(images: Tensor, mask: Tensor) -> Tensor:
    """Mean colour (n, 3) under each mask (n, SIZE, SIZE)."""
    return (images * mask[:, None]).sum((2, 3)) / mask.sum((1, 2)).clamp(min=1)[:, None]


def _sample(field: Tensor, centre: Tensor, offsets: Tensor) -> Tensor:
    """Values (n, a, b) of fields (n, SIZE, SIZE) at ``offsets`` (n, a, b, 2) in pixels from each centre (n, 2)."""
    grid = (centre[:, None, None] + offsets) * (2 / scenes.SIZE) - 1
    return F.grid_sample(field[:, None], grid, align_corners=False)[:, 0]


# Shape -------------------------------------------------------------------------------------------------------------

def _outline(mask: Tensor, centre: Tensor, area: Tensor) -> Tensor:
    """Masks moved to their centroid and scaled to one area: (n, 1024), mean 0 and norm 1."""
    axis = torch.linspace(-1.1, 1.1, 32)
    unit = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    crop = _sample(mask, centre, unit * area.sqrt()[:, None, None, None]).flatten(1)
    return F.normalize(crop - crop.mean(1, keepdim=True), dim=1)


@functools.cache
def _bank() -> tuple[Tensor, ...]:
    """Outlines (angles, 1024) of each shape in turn, taken as `read` takes them from a frame."""
    axis = torch.arange(scenes.SIZE) + 0.5 - scenes.SIZE / 2
    bank = []
    for vertices in scenes.SHAPES.values():
        angle = torch.arange(0, 2 * math.pi, math.radians(6))[:, None, None]
        x, y = angle.cos() * axis + angle.sin() * axis[:, None], angle.cos() * axis[:, None] - angle.sin() * axis
        cover = (0.5 - scenes._distance(x, y, vertices, 11.0)).clamp(0, 1)[:, None]
        # the dark spot of one that turns may pass for ground
        spotted = cover * (1 - scenes._spot(x, y, 11.0))[:, None]
        cover = torch.cat((cover, spotted))
        for _ in range(5):
            cover = _smooth(cover)
        mask = _close(cover[:, 0])
        bank.append(_outline(mask, *_place(mask)))
    return tuple(bank)


def _match(mask: Tensor, centre: Tensor, area: Tensor) -> Tensor:
    """How well each mask matches each shape at its best angle: correlations (frames, shapes)."""
    outline = _outline(mask, centre, area)
    return torch.stack([(outline @ views.T).amax(1) for views in _bank()], 1)


def _shape(scores: Tensor) -> str | None:
    best, second = scores.topk(2).values.tolist()
    return list(scenes.SHAPES)[int(scores.argmax())] if best - second > 0.002 else None


# Colour ------------------------------------------------------------------------------------------------------------

def _colour(object_: Tensor, paint: Tensor) -> str | None:
    """The colour that most frames agree on; ``object_`` is (frames, 3), ``paint`` its difference from the ground."""
    names = list(scenes.COLOURS)
    hues = torch.tensor([scenes.COLOURS[name] for name in names])
    hues = F.normalize(hues - hues.mean(1, keepdim=True), dim=1, eps=1e-3)  # what blur and pallor keep of a colour
    chroma = object_ - object_.mean(1, keepdim=True)
    likeness = F.normalize(chroma, dim=1) @ hues.T
    purity = chroma.norm(dim=1) / paint.norm(dim=1).clamp(min=1e-6)
    vote = likeness.argmax(1)
    vote[(likeness.amax(1) < 0.92) | (purity < 0.45)] = -1
    vote[(purity < 0.3) & (paint.amin(1) > 0)] = names.index("white")
    winner = int(vote.mode().values)
    return names[winner] if winner >= 0 and (vote == winner).float().mean() >= _MOST else None


# Motion ------------------------------------------------------------------------------------------------------------

def _motion(time: Tensor, centre: Tensor, lean: Tensor) -> str | None:
    """The motion of an object at ``time`` (n,) in frames, of track (n, 2) and lean (n,), see `_lean`."""
    reach = centre.amax(0) - centre.amin(0)
    if reach.max() < 13:  # its middle wanders about when what is no paint goes round
        return "turns" if _turns(time, lean) else None
    axis = int(reach.argmax())
    if reach[1 - axis] > 0.5 * reach[axis]:
        return None
    path = centre[:, axis]
    slope = float(_correlation(path, time[:, None]))
    if abs(slope) > 0.95:
        return (("moves left", "moves right"), ("moves up", "moves down"))[axis][slope > 0]
    period, phase = torch.meshgrid(torch.linspace(6, 11, 11), torch.arange(0, 1, 1 / 24), indexing="ij")
    hops = -(math.pi * (time[:, None] / period.flatten() + phase.flatten())).sin().abs()
    return "bounces" if axis == 1 and _correlation(path, hops).max() > 0.9 else None


def _lean(contrast: Tensor, paint: Tensor, centre: Tensor, area: Tensor) -> Tensor:
    """Towards which side the paint of an object lies, and how much: (n,), complex, 0 where it is even.

    Seen from the middle of the whole track, on a disc of the object's area. Of the ``contrast`` to the ground (n, 3,
    SIZE, SIZE) counts what is like the ``paint`` (n, 3): a dark spot takes away from its side.
    """
    hue = paint.mean(0)
    like = ((contrast * hue[:, None, None]).sum(1) / hue.square().sum().clamp(min=1e-6)).clamp(-0.5, 1.5)
    axis, middle = torch.arange(scenes.SIZE) + 0.5, centre.mean(0)
    offset = (axis - middle[0]) + 1j * (axis - middle[1])[:, None]
    disc = ((area.mean() / math.pi).sqrt() + 0.5 - offset.abs()).clamp(0, 1)
    side = offset / offset.abs().clamp(min=0.5)
    return (like * disc * side).sum((1, 2)) / disc.sum()


def _correlation(path: Tensor, curves: Tensor) -> Tensor:
    """Of a path (n,) with each of the curves (n, k): (k,), -1 to 1."""
    path, curves = path - path.mean(), curves - curves.mean(0)
    return F.normalize(path, dim=0) @ F.normalize(curves, dim=0)


def _turns(time: Tensor, lean: Tensor) -> bool:
    """Whether what a shape lacks on one side goes round at a steady rate: at least 5 degrees a frame, at most 24.

    The leans (n,) must lie near a circle that is run through at one rate, nearer than near a point or a steady drift.
    """
    one, sway = torch.ones_like(lean), (lean - lean.mean()).abs().square().sum()

    def left(curve: Tensor) -> float:
        """The share of the sway that is left when a point and the curve have explained what they can."""
        base = torch.stack((one, curve), 1)
        rest = lean - base @ torch.linalg.lstsq(base, lean[:, None]).solution[:, 0]
        return float(rest.abs().square().sum() / sway)

    if sway < len(lean) * _SWAY**2:
        return False
    circle = min(left(torch.polar(one.real, sign * math.radians(rate) * time)) for rate in range(5, 25)
                 for sign in (-1, 1))
    return circle < 0.35 and circle < 0.75 * left(time + 0j)
