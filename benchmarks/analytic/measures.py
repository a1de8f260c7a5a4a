"""How far clips are from the true distribution of a `World`."""
from __future__ import annotations

import math

import torch
from torch import Tensor

from .world import World


def energy_distance(x: Tensor, y: Tensor) -> float:
    """``2 E|x - y| - E|x - x'| - E|y - y'|`` of two samples (n, d), (m, d); about 0 for the same distribution.

    Without the pairs of a point with itself, so without bias. Source: Szekely and Rizzo, Journal of Statistical
    Planning and Inference 143, 2013.
    """
    def within(points: Tensor) -> Tensor:
        return torch.cdist(points, points).sum() / (len(points) * (len(points) - 1))

    return float(2 * torch.cdist(x, y).mean() - within(x) - within(y))


def measure(world: World, clips: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor) -> dict[str, float]:
    """Measures of ``clips`` (n, frames, size) of the classes ``labels`` (n,); ``real`` are true clips, of a like form.

    - ``joint``: energy distance of the clips, ``frame``: of their frames, to true ones of the class, over the classes;
    - ``surprise``: what a frame's negative log-likelihood (nats) under the truth exceeds a true frame's by;
    - ``motion``: how far clips move, as a share of what true clips do: 1 is true, 0 is frozen;
    - ``obeyed``: the share of clips that are likeliest under their own class;
    - ``boil``: how far details change from frame to frame beside the motion, as a share of their own strength: a
      multiple of what true clips do; ``sway``: the same of layouts.
    """
    joint, frame = [], []
    for label in labels.unique():
        made, true = clips[labels == label], real[real_labels == label]
        joint.append(energy_distance(made.flatten(1), true.flatten(1)))
        some = [frames.flatten(0, 1)[::frames.shape[1] // 2 + 1] for frames in (made, true)]
        frame.append(energy_distance(*some))
    likelihood = world.clips.log_likelihood(clips.flatten(1))
    return {
        "joint": sum(joint) / len(joint), "frame": sum(frame) / len(frame),
        "surprise": _surprise(world, clips, labels) - _surprise(world, real, real_labels),
        "motion": float(_motion(world, clips, labels).mean() / _motion(world, real, real_labels).mean()),
        "obeyed": float((likelihood.logsumexp(2).argmax(1) == labels).float().mean()),
        "boil": _change(world, clips, fine=True) / _change(world, real, fine=True),
        "sway": _change(world, clips, fine=False) / _change(world, real, fine=False),
    }


def _surprise(world: World, clips: Tensor, labels: Tensor) -> float:
    likelihood = world.frames.log_likelihood(clips.flatten(0, 1)).logsumexp(2)
    own = labels.repeat_interleave(clips.shape[1])
    return float(-likelihood[torch.arange(len(own)), own].mean())


def _motion(world: World, clips: Tensor, labels: Tensor) -> Tensor:
    """How far each clip (n, frames, size) moves in a frame, in its class's direction, as a share of its speed.

    A shift turns wave k of a frame by an angle in proportion to k, whatever the contrast of the wave. The texture stays
    behind, so true clips come out somewhat below 1.
    """
    waves = torch.arange(1, 4)
    spectrum = torch.fft.rfft(clips)[:, :, waves]
    turned = (spectrum[:, 1:] * spectrum[:, :-1].conj()).sum(1)
    shift = -turned.angle() * clips.shape[2] / (2 * math.pi * waves)
    weight = turned.abs() * waves**2
    return (shift * weight).sum(1) / weight.sum(1) / world.speed[labels]


def _change(world: World, clips: Tensor, fine: bool) -> float:
    """Of waves above (``fine``) or up to the layouts' number: the power of what differs between neighbouring frames
    when the motion is undone, as a share of that of unrelated frames. Of the two ways to move, the one that leaves
    less."""
    n = world.numbers
    waves = torch.arange(n.coarse + 1, n.size // 2 + 1) if fine else torch.arange(1, n.coarse + 1)
    spectrum = torch.fft.rfft(clips)[:, :, waves]
    undone = [torch.polar(torch.ones(()), 2 * math.pi * way * n.speed * waves / n.size) for way in (1, -1)]
    left = [(spectrum[:, 1:] * turn - spectrum[:, :-1]).abs().square().sum((1, 2)) for turn in undone]
    unrelated = spectrum[:, 1:].abs().square().sum() + spectrum[:, :-1].abs().square().sum()
    return float(torch.minimum(*left).sum() / unrelated)
