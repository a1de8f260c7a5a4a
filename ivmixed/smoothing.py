"""Averages what the image model adds to a clip over neighbouring frames, along the motion.

A place of a frame is sought in the neighbouring frame by how alike small patches are, and what was added there is taken
from all places nearby, weighted by that likeness: the averaging of non-local means (Buades, Coll and Morel, CVPR 2005)
with weights that are read off another clip. No flow, no network.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, unfold

REACH = 3
"""How far something may move from frame to frame, in latent pixels each way: 24 pixels of Stable Diffusion."""
PATCH = 5
"""Side of the patches that are compared, in latent pixels."""
TOLERANCE = 0.5
"""How much less alike than the most alike a place may be before its weight falls by e, as a share of the mean
difference that the most alike ones have."""
STAY = 0.3
"""How a place's weight falls with the square of its distance: where nothing can be told apart, nothing moves."""


def smoothed(detail: Tensor, guide: Tensor, share: float) -> Tensor:
    """``detail`` averaged over each frame and its two neighbours, ``share`` of the way to the mean of the three.

    ``detail``, ``guide``: (frames, ..., channels, height, width), floating point; ``guide`` is the clip whose motion is
    followed. The first and the last frame stand for the neighbour that they lack.
    """
    change = torch.zeros_like(detail)
    for k in range(len(detail) - 1):
        change[k] += _brought(detail[k + 1], guide[k + 1], guide[k]) - detail[k]
        change[k + 1] += _brought(detail[k], guide[k], guide[k + 1]) - detail[k + 1]
    return detail + share / 3 * change


def _brought(detail: Tensor, there: Tensor, here: Tensor) -> Tensor:
    """``detail`` of the frame ``there`` where its places are in the frame ``here``; each (..., channels, height,
    width)."""
    shape, size = detail.shape, detail.shape[-2:]
    detail, there, here = (x.reshape(-1, *x.shape[-3:]) for x in (detail, there, here))
    side = 2 * REACH + 1

    def around(x: Tensor) -> Tensor:
        """What is at each place near a place: (clips, channels, side squared, height, width)."""
        return unfold(x, side, padding=REACH).view(*x.shape[:2], side * side, *size)

    def in_patches(x: Tensor) -> Tensor:
        return avg_pool2d(x, PATCH, 1, PATCH // 2)

    inside = around(torch.ones_like(here[:1, :1]))[:, 0]
    apart = (around(there) - here.unsqueeze(2)).square().mean(1) * inside
    apart = (in_patches(apart) / in_patches(inside).clamp(min=1e-6)).masked_fill(inside == 0, float("inf"))
    usual = apart.amin(1, keepdim=True).mean((2, 3), keepdim=True)
    step = torch.arange(-REACH, REACH + 1, device=apart.device, dtype=apart.dtype)
    far = (step.square()[:, None] + step.square()).view(-1, 1, 1)
    weight = (-apart / (TOLERANCE * usual + torch.finfo(apart.dtype).tiny) - STAY * far).softmax(1)
    return (around(detail) * weight.unsqueeze(1)).sum(2).view(shape)
