"""The Frechet video distance as the paper's UCF-101 and MSR-VTT figures are computed, in both readings.

Source: PKU-YuanGroup/Open-Sora-Plan f7fa604f, ``opensora/models/causalvideovae/eval`` (MIT): ``fvd/styleganv/fvd.py``
and ``cal_fvd.py``. What its script prints is a mean of distances over small batches and over clips cut to 10, 11, ...
frames, so it hangs on the size of a batch; the distance over all clips at their full length does not.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from ..clips.encode import Frames
from .neural import Features, VideoFeatures, frechet_distance

FRAMES, SHORTEST, SIDE = 16, 10, 224
"""Frames of a clip, the fewest of a cut one; pixels of a side."""


class CutFeatures(VideoFeatures):
    """``CutFeatures(file, device)(clips)``: (clips, 7, features): of the first 10, 11, ... 16 frames of each.

    ``file``: StyleGAN-V's i3d_torchscript.pt, see `neural.VideoFeatures`; it is called with ``rescale=False,
    resize=False``. Raises OptionError as that does, and ValueError for clips of fewer than 16 frames.
    """

    @torch.inference_mode()
    def of_all(self, clips: Sequence[Frames]) -> Features:
        prepared = torch.stack([_prepared(clip) for clip in clips]).to(self.device)
        found = [self.call(prepared[:, :, :count], rescale=False, resize=False)
                 for count in range(SHORTEST, FRAMES + 1)]
        return np.stack(found, axis=1)


def fvd(made: Features, real: Features) -> float:
    """One distance over all clips, (clips, features) each; covariances with n - 1 in the denominator, as numpy's."""
    return frechet_distance(made, real, ddof=1)


def fvd_in_batches(made: NDArray[np.float64], real: NDArray[np.float64], batch: int) -> float:
    """What their script prints: the mean over batches of clips, pair by pair in their order, and over the lengths.

    ``made``, ``real``: (clips, lengths, features); of the longer set the last clips are left out.
    """
    count = min(len(made), len(real))
    values = []
    for start in range(0, count, batch):
        part = slice(start, min(start + batch, count))
        for ours, theirs in zip(made[part].swapaxes(0, 1), real[part].swapaxes(0, 1)):
            values.append(fvd(ours, theirs) if len(ours) > 1 else float(np.square(ours - theirs).sum()))
    return float(np.mean(values))


def _prepared(clip: Frames) -> Tensor:
    """(3, 16, 224, 224), from -1 to 1: the shorter side resized, the middle cut out."""
    if len(clip) < FRAMES:
        raise ValueError(f"a clip of {len(clip)} frames; needed: at least {FRAMES}")
    pictures = torch.tensor(clip[:FRAMES]).permute(3, 0, 1, 2).float() / 255
    scale = SIDE / min(pictures.shape[2:])
    height, width = (max(SIDE, math.ceil(side * scale)) if side != min(pictures.shape[2:]) else SIDE
                     for side in pictures.shape[2:])
    pictures = interpolate(pictures, (height, width), mode="bilinear", align_corners=False)
    top, left = (height - SIDE) // 2, (width - SIDE) // 2
    return (pictures[:, :, top:top + SIDE, left:left + SIDE] - 0.5) * 2
