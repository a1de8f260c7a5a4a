"""Plain measures of a clip, one function each, on numpy alone.

A clip is (frames, height, width, 3), RGB in grey levels from 0 to 255, uint8 or float. All is computed in float64.
Sharpness, flicker, warping error and motion want reading together: noise looks sharp, and a frozen clip never
flickers.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST = 16
"""Pixels that a side has at least."""

Clip = NDArray[Any]
Floats = NDArray[np.float64]


def sharpness(clip: Clip) -> float:
    """Variance of the Laplacian of luma, mean over the frames, in squared grey levels; more is sharper, or noisier.

    The Laplacian is the sum of the four neighbours less four times the pixel, where all of them exist. Source:
    Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000. Raises ValueError.
    """
    return float(_laplacian(luma_of(clip)).var(axis=(1, 2)).mean())


def flicker(clip: Clip) -> float:
    """Mean absolute difference of neighbouring frames, over pixels and channels, in grey levels; 0 is a still.

    What moves counts as well, so compare clips of like motion. VBench's temporal flickering is (255 - this) / 255
    (Huang et al., arXiv 2311.17982, and its released code). Raises ValueError for a clip of one frame.
    """
    values = _at_least(clip, 2).astype(np.float64)
    return float(np.abs(np.diff(values, axis=0)).mean())


def motion(clip: Clip) -> float:
    """Speed of what moves fastest, in pixels a frame: the mean over the fastest 5% of the picture, then over time.

    A small moving thing fills the 5% and a stray pixel does not; the share is that of VBench's dynamic degree (arXiv
    2311.17982, released code). Its flow network is replaced by pyramidal Lucas-Kanade flow, which needs no weights, and
    a pixel's flow counts only where it explains the change and where the flow back leads home: noise, flicker and what
    comes into view are not motion, and contrast hardly matters. Pictures of 128 pixels and more are shrunk by a whole
    factor first, so that all sizes are treated alike. Expect an error of 0.3 pixels at a size of 64, and in proportion;
    even stripes that move by a third of their distance or more in a frame may pass for slow or still. Raises
    ValueError for a clip of one frame.
    """
    luma = luma_of(_at_least(clip, 2))
    factor = max(1, min(luma.shape[1:]) // 64)
    luma = _shrunk(luma, factor)
    before, after = luma[:-1], luma[1:]
    flow, back = _flow(before, after), _flow(after, before)
    returns = np.hypot(*(flow + _followed(back, flow))) <= 1
    speed = np.hypot(*flow) * (returns & _explains(flow, before, after))
    fastest = math.ceil(0.05 * luma[0].size)
    return float(factor * np.sort(speed.reshape(len(speed), -1))[:, -fastest:].mean())


def warping_error(clip: Clip) -> float:
    """Mean absolute difference of each frame and its successor drawn back along the optical flow, over what both show,
    in grey levels; 0 is a still, or motion without any other change. So it is `flicker` less what motion explains.

    Source: E_warp of Lai et al., Learning blind video temporal consistency, ECCV 2018, there with squares and the flow
    network FlowNet2; here with the unit of `flicker` and the flow of `motion`, and what that does not explain (as
    there) is compared in place. Left out as seen in one frame alone is a pixel whose flow w and flow back v fail
    |w + v|^2 <= 0.01 (|w|^2 + |v|^2) + 0.5 (Sundaram et al., ECCV 2010). Raises ValueError for a clip of one frame.
    """
    frames = _at_least(clip, 2).astype(np.float64)
    return float(np.mean([_warping_error(pair) for pair in zip(frames, frames[1:])]))


def frame_distance(clip: Clip, real: Clip) -> float:
    """Distance of a clip's frames to real ones: 0 for the same frames in any order, more with blur, haze or noise.

    The energy distance ``2 E|x - y| - E|x - x'| - E|y - y'|`` (Szekely and Rizzo, Journal of Statistical Planning and
    Inference 143, 2013; means over all pairs) between the two sets of frames as points of `frame_features`. The unit is
    the standard deviation of each feature among the real frames, so compare only distances to the same ``real``. What
    the frames show counts little, but one clip is never as varied as ``real``: to judge a model, concatenate clips of
    many prompts. Raises ValueError.
    """
    x, y = frame_features(clip), frame_features(real)
    spread = np.hypot(y.std(axis=0), 0.05)  # octaves; the least matters where the real frames are few and alike
    x, y = x / spread, y / spread
    return 2 * _mean_length(x, y) - _mean_length(x, x) - _mean_length(y, y)


def frame_features(clip: Clip) -> Floats:
    """What `frame_distance` compares: (frames, 4), in octaves (log2), how frames look whatever they show. Of luma:

    0. contrast: the standard deviation; 1. detail: the mean length of the gradient; 2. crispness: the Laplacian's root
    mean square over the gradient's, which blur lowers and contrast leaves alone; 3. the slope of the spectrum: 1 over
    the same at half size, which noise raises. One grey level is added before each logarithm, so a flat frame is finite.
    """
    luma = luma_of(clip)
    length, half = _gradient(luma), _gradient(_shrunk(luma, 2))
    contrast, detail, coarse, crisp, edge = (np.log2(1 + values) for values in (
        luma.std(axis=(1, 2)), length.mean(axis=(1, 2)), half.mean(axis=(1, 2)), _laplacian(luma).std(axis=(1, 2)),
        np.sqrt((length**2).mean(axis=(1, 2)))))
    return np.stack([contrast, detail, crisp - edge, detail - coarse], axis=1)


def _at_least(clip: Clip, frames: int) -> Clip:
    if clip.ndim != 4 or clip.shape[3] != 3 or len(clip) < frames or min(clip.shape[1:3]) < SMALLEST:
        raise ValueError(f"clip of shape {clip.shape}; needed: (frames, height, width, 3), frames at least {frames}, "
                         f"height and width at least {SMALLEST}")
    return clip


def luma_of(clip: Clip) -> Floats:
    """(frames, height, width), ITU-R BT.601."""
    luma: Floats = _at_least(clip, 1).astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return luma


def _laplacian(luma: Floats) -> Floats:
    around: Floats = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    around -= 4 * luma[:, 1:-1, 1:-1]
    return around


def _gradient(luma: Floats) -> Floats:
    """Its length, from differences to the pixels below and at the right."""
    length: Floats = np.hypot(np.diff(luma, axis=1)[:, :, :-1], np.diff(luma, axis=2)[:, :-1])
    return length


def _shrunk(luma: Floats, factor: int) -> Floats:
    """Means of squares of ``factor`` pixels; what is left over at the right and below is cut off."""
    count, height, width = (n // f for n, f in zip(luma.shape, (1, factor, factor)))
    cut = luma[:, :height * factor, :width * factor]
    means: Floats = cut.reshape(count, height, factor, width, factor).mean(axis=(2, 4))
    return means


def _mean_length(x: Floats, y: Floats) -> float:
    return float(np.linalg.norm(x[:, None] - y[None], axis=2).mean())


# --- optical flow, for `motion` and `warping_error`

def _warping_error(pair: tuple[Floats, Floats]) -> float:
    """Of two frames (height, width, 3); one pair at a time, as large frames take memory."""
    before, after = luma_of(np.stack(pair))[:, None]
    flow = _flow(before, after)
    flow = flow * _explains(flow, before, after)
    back = _flow(after, before)
    back = _followed(back * _explains(back, after, before), flow)
    in_both = _squared(flow + back) <= 0.01 * (_squared(flow) + _squared(back)) + 0.5
    difference = np.abs(_followed(pair[1].transpose(2, 0, 1)[:, None], flow) - pair[0].transpose(2, 0, 1)[:, None])
    return float(difference[:, in_both].mean() if in_both.any() else difference.mean())


def _flow(before: Floats, after: Floats) -> Floats:
    """Flow in pixels, (2: down and right, pairs, height, width), between two stacks of pictures.

    Lucas-Kanade on a pyramid, coarse to fine, as in Bouguet, Pyramidal implementation of the Lucas Kanade feature
    tracker, 2001, here for every pixel: least squares over its 7x7 surroundings, smoothed a little after each step.
    """
    levels = [(before, after)]
    while min(levels[-1][0].shape[1:]) >= 16:
        levels.append((_shrunk(levels[-1][0], 2), _shrunk(levels[-1][1], 2)))
    flow = np.zeros((2, *levels[-1][0].shape))
    for first, second in reversed(levels):
        grown = 2 * flow.repeat(2, axis=2).repeat(2, axis=3)
        flow = np.pad(grown, [(0, max(0, n - m)) for n, m in zip((2, *first.shape), grown.shape)], mode="edge")
        flow = flow[:, :, :first.shape[1], :first.shape[2]]
        for _ in range(5):
            flow = np.stack([_around(part, 1) for part in flow - _flow_step(first, _moved(second, flow))])
    return flow


def _flow_step(first: Floats, second: Floats) -> Floats:
    """By how much the flow that moved ``second`` onto ``first`` is too long: one Gauss-Newton step, 1 pixel at most."""
    middle = (first + second) / 2
    down: Floats = np.gradient(middle, axis=1)
    right: Floats = np.gradient(middle, axis=2)
    error = second - first
    steady = 20  # squared grey levels: flat ground, where gradients are noise, keeps the flow it has
    a, b, c = _around(down * down) + steady, _around(down * right), _around(right * right) + steady
    p, q = _around(down * error), _around(right * error)
    step: Floats = np.clip(np.stack([c * p - b * q, a * q - b * p]) / (a * c - b * b), -1, 1)
    return step


def _moved(pictures: Floats, flow: Floats) -> Floats:
    """Each picture (pairs, height, width) read where the flow leads, bilinear; beyond an edge, the edge."""
    pair, row, column = np.indices(pictures.shape)
    y = np.clip(row + flow[0], 0, pictures.shape[1] - 1)
    x = np.clip(column + flow[1], 0, pictures.shape[2] - 1)
    i, j = np.minimum(y.astype(int), pictures.shape[1] - 2), np.minimum(x.astype(int), pictures.shape[2] - 2)
    y, x = y - i, x - j
    above = (1 - x) * pictures[pair, i, j] + x * pictures[pair, i, j + 1]
    below = (1 - x) * pictures[pair, i + 1, j] + x * pictures[pair, i + 1, j + 1]
    moved: Floats = (1 - y) * above + y * below
    return moved


def _followed(parts: Floats, flow: Floats) -> Floats:
    """`_moved`, for each of several parts: (parts, pairs, height, width)."""
    return np.stack([_moved(part, flow) for part in parts])


def _explains(flow: Floats, before: Floats, after: Floats) -> NDArray[np.bool_]:
    """Where there is a change, and the flow accounts for most of it: (pairs, height, width)."""
    change, unexplained = _around(np.square(after - before)), _around(np.square(_moved(after, flow) - before))
    explains: NDArray[np.bool_] = (change > 4) & (unexplained < 0.35 * change)
    return explains


def _squared(flow: Floats) -> Floats:
    """Its length, squared."""
    squared: Floats = np.square(flow).sum(axis=0)
    return squared


def _around(pictures: Floats, radius: int = 3) -> Floats:
    """Means over the square of ``radius`` pixels around each pixel of (pairs, height, width); edges repeat."""
    side = 2 * radius + 1
    pad = (radius + 1, radius)
    sums: Floats = np.pad(pictures, ((0, 0), pad, pad), mode="edge").cumsum(axis=1).cumsum(axis=2)
    rows = sums[:, side:] - sums[:, :-side]
    means: Floats = (rows[:, :, side:] - rows[:, :, :-side]) / side**2
    return means
