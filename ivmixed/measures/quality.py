"""Blind measures of picture quality, BRISQUE and PIQE: what no reference picture is needed for. Less is better.

Both were made on photographs: drawings and very small pictures are far from what they know, so compare like with like.
A clip is that of `metrics`; the value of a clip is the mean over its frames.
"""
from __future__ import annotations

import math
import pickle
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .pixels import Clip, Floats, luma_of

_BLOCK = 16  # pixels, of PIQE
_WEIGHTS = np.exp(-np.arange(-3, 4) ** 2 / (2 * (7 / 6) ** 2))  # 7 pixels of a Gaussian, of both papers
_WEIGHTS /= _WEIGHTS.sum()


def brisque(clip: Clip) -> float:
    """Distance from the statistics of natural pictures: about 0 (as a good photograph) to 100; frames without any
    contrast are left out, and nan is for a clip of nothing else.

    Source: Mittal, Moorthy and Bovik, No-reference image quality assessment in the spatial domain, IEEE TIP 21, 2012.
    The support vectors are those that the package ``brisque`` carries, and the features are taken as they were for
    its training: asymmetric fits throughout, half size by bicubic interpolation without a filter before it. Raises
    ModuleNotFoundError without that package, ValueError as `metrics` do.
    """
    model = _model()
    scores = [model.score(np.concatenate([_statistics(luma), _statistics(_half(luma))]))
              for luma in luma_of(clip) if np.ptp(luma)]
    return float(np.mean(scores)) if scores else math.nan


def piqe(clip: Clip) -> float:
    """Share of what draws the eye that is blocky or noisy, in percent, 0 to about 100; a flat frame has 100.

    Source: Venkatanath et al., Blind image quality evaluation using perception based features, NCC 2015; thresholds
    and pooling as in MATLAB's ``piqe``. Raises ValueError as `metrics` do.
    """
    return float(np.mean([_piqe(luma) for luma in luma_of(clip)]))


def _normalised(luma: Floats, beyond: Any) -> Floats:
    """A picture (height, width) less its local mean, over its local standard deviation: equations 1 to 3 of Mittal et
    al. ``beyond``: the mode of `numpy.pad` for what lies beyond the edge."""
    def blurred(picture: Floats) -> Floats:
        rows: Floats = sliding_window_view(np.pad(picture, 3, mode=beyond), 7, axis=0) @ _WEIGHTS
        both: Floats = sliding_window_view(rows, 7, axis=1) @ _WEIGHTS
        return both

    mean = blurred(luma)
    normalised: Floats = (luma - mean) / (np.sqrt(np.abs(blurred(luma * luma) - mean * mean)) + 1)
    return normalised


# --- BRISQUE

class _Model(NamedTuple):
    """A support vector machine for regression with a radial kernel; features are first scaled to -1 to 1."""

    low: Floats
    high: Floats
    vectors: Floats
    weights: Floats
    gamma: float
    rho: float

    def score(self, features: Floats) -> float:
        scaled = 2 * (features - self.low) / (self.high - self.low) - 1
        return float(self.weights @ np.exp(-self.gamma * np.square(self.vectors - scaled).sum(axis=1)) - self.rho)


class _NumbersOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} in a file that should hold numbers")


@cache
def _model() -> _Model:
    """From the files of the package, which itself is not imported: it would need OpenCV, and fails with numpy 2.4."""
    package = find_spec("brisque")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'brisque'", name="brisque")
    folder = Path(package.origin).parent / "models"
    with open(folder / "normalize.pickle", "rb") as file:
        ranges = _NumbersOnly(file).load()
    head, _, rows = (folder / "svm.txt").read_text().partition("SV\n")  # the text format of LIBSVM
    said = dict(line.split(maxsplit=1) for line in head.splitlines())
    weights, vectors = [], np.zeros((int(said["total_sv"]), 36))
    for vector, row in zip(vectors, rows.splitlines()):
        weight, *entries = row.split()
        weights.append(float(weight))
        for entry in entries:
            index, _, value = entry.partition(":")
            vector[int(index) - 1] = float(value)
    return _Model(np.array(ranges["min_"]), np.array(ranges["max_"]), vectors, np.array(weights),
                  float(said["gamma"]), float(said["rho"]))


def _half(luma: Floats) -> Floats:
    picture = torch.from_numpy(luma)[None, None]
    half: Floats = torch.nn.functional.interpolate(picture, scale_factor=0.5, mode="bicubic")[0, 0].numpy()
    return half


def _statistics(luma: Floats) -> Floats:
    """The 18 features of one size: section III A of Mittal et al."""
    own = _normalised(luma, "constant")
    shape, _, left, right = _fitted(own)
    products = (own[:, :-1] * own[:, 1:], own[:-1] * own[1:], own[:-1, :-1] * own[1:, 1:], own[1:, :-1] * own[:-1, 1:])
    return np.array([shape, (left + right) / 2, *(value for product in products for value in _fitted(product))])


@cache
def _shapes() -> tuple[Floats, Floats]:
    """Shapes of a generalised Gaussian, and the squared mean length over the mean square of each."""
    shapes: Floats = np.arange(0.2, 10.0005, 0.001)
    moments = [np.array([math.lgamma(k / shape) for shape in shapes]) for k in (1, 2, 3)]
    ratios: Floats = np.exp(2 * moments[1] - moments[0] - moments[2])
    return shapes, ratios


def _fitted(values: Floats) -> tuple[float, float, float, float]:
    """Shape, mean, and the variance left and right, of an asymmetric generalised Gaussian fitted by its moments."""
    negative = values < 0
    squares, count = np.square(values), int(negative.sum())
    left, right = squares[negative].sum() / max(count, 1), squares[~negative].sum() / max(values.size - count, 1)
    skew = math.sqrt(left / right) if right else 0.0
    ratio = np.square(np.abs(values).mean()) / (squares.mean() or 1.0)
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shapes, ratios = _shapes()
    shape = float(shapes[np.abs(ratios - ratio).argmin()])
    one, two, three = (math.lgamma(k / shape) for k in (1, 2, 3))
    mean = (math.sqrt(right) - math.sqrt(left)) * math.exp(two - (one + three) / 2)
    return shape, mean, float(left), float(right)


# --- PIQE

def _piqe(luma: Floats) -> float:
    height, width = luma.shape
    whole = np.pad(luma, [(0, -height % _BLOCK), (0, -width % _BLOCK)], mode="symmetric")
    own = _normalised(np.round(255 * whole / max(whole.max(), 1)), "edge")
    blocks = own.reshape(own.shape[0] // _BLOCK, _BLOCK, -1, _BLOCK).swapaxes(1, 2).reshape(-1, _BLOCK, _BLOCK)
    variance = blocks.var(axis=(1, 2), ddof=1)
    blocks, variance = blocks[variance > 0.1], variance[variance > 0.1]
    bad = _blocky(blocks) * (1 - variance) + _noisy(blocks, np.sqrt(variance)) * variance
    return float(100 * (bad.sum() + 1) / (len(blocks) + 1))


def _blocky(blocks: Floats) -> NDArray[np.bool_]:
    """Of each block, whether six neighbouring pixels of an edge are much the same."""
    edges = np.stack([blocks[:, 0], blocks[:, -1], blocks[:, :, 0], blocks[:, :, -1]], axis=1)
    flat: NDArray[np.bool_] = (sliding_window_view(edges, 6, axis=2).std(axis=3, ddof=1) < 0.1).any(axis=(1, 2))
    return flat


def _noisy(blocks: Floats, deviation: Floats) -> NDArray[np.bool_]:
    """Of each block, whether its middle columns vary as its others do. MATLAB takes its columns 8 and 9 for the middle,
    and leaves 8 and 10 out of the others."""
    middle = blocks[:, :, 7:9].std(axis=(1, 2), ddof=1)
    others = np.delete(blocks, [7, 9], axis=2).std(axis=(1, 2), ddof=1)
    ratio = middle / np.maximum(others, 1e-12)
    noisy: NDArray[np.bool_] = deviation > 2 * np.abs(deviation - ratio) / np.maximum(deviation, ratio)
    return noisy
