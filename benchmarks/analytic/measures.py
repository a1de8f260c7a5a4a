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
    - ``obeyed``: the share of clips that are likeliest under their own class.
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
