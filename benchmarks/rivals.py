"""Other training-free ways to a better clip from an image and a video model, each a step written beside its formula.

None of their code was read: what stands here is how their papers are understood, on this project's noise levels
``x = x0 + sigma n`` and with Euler (DDIM) steps. Of a step from level a to b, ``eps = (x - D) / a`` with D the denoised
latent, and Euler is ``x + (b - a) eps``.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ivmixed import Move, Plan, Schedule
from ivmixed.plan import SAME_LEVEL


@dataclass
class Ask:
    """One of the two models, as the rivals ask it. Its evaluations are counted: guidance alone is none."""

    denoiser: Callable[..., Tensor]
    schedule: Schedule
    model: str
    extra_args: dict[str, Any]
    evaluations: int = 0
    asked: tuple[Tensor, float] | None = None

    def __call__(self, x: Tensor, sigma: float, scale: float) -> Tensor:
        """The denoised latent at guidance ``scale``; the image model above its table is asked at its end."""
        level = min(sigma, self.schedule.sigma_max)
        if self.asked is None or self.asked[0] is not x:
            self.evaluations += 1
            self.asked = x, level
            self.seen = x if level == sigma else x * math.sqrt((1 + level**2) / (1 + sigma**2))
        expect = getattr(self.denoiser, "expect", None)
        if expect is not None:
            move = Move(self.model, "ordinary", level, level, 0.0, None, 0)
            expect(move, Plan("", 1, (move,)))
        denoised = self.denoiser(self.seen, x.new_full([len(x)], level), **{**self.extra_args, "cond_scale": scale})
        return denoised if level == sigma else x - (self.seen - denoised) * (sigma / level)

    def eps(self, x: Tensor, sigma: float, scale: float) -> Tensor:
        """The noise that it sees in x."""
        return (x - self(x, sigma, scale)) / sigma


@dataclass
class Step:
    """What a rival knows in a step. ``memory`` is its own, for the whole run."""

    video: Ask
    image: Ask
    a: float
    b: float
    c: float
    """The level after b, or the smallest of the video model."""
    cfg: float
    number: int
    steps: int
    noise: Callable[[], Tensor]
    memory: dict[str, Tensor] = field(default_factory=dict)

    def euler(self, model: Ask, x: Tensor) -> Tensor:
        """The ordinary step by one of the models."""
        return x + (self.b - self.a) * model.eps(x, self.a, self.cfg)


Rival = Callable[[Step, Tensor], Tensor]


def average(step: Step, x: Tensor) -> Tensor:
    """Both models' predictions, half and half, in every step."""
    return x + (step.b - step.a) * (step.video.eps(x, step.a, step.cfg) + step.image.eps(x, step.a, step.cfg)) / 2


def turns(step: Step, x: Tensor) -> Tensor:
    """Image and video model in turns, step by step: the composition that EVS starts from (arXiv 2507.13753)."""
    return step.euler(step.image if step.number % 2 else step.video, x)


def evs(step: Step, x: Tensor) -> Tensor:
    """The video model lays the clip out, the image model refines it in the middle, the video model has the last word:
    both within one pass, as EVS switches them (arXiv 2507.13753); here the image model from 60 to 85 % of the steps."""
    return step.euler(step.image if 0.6 <= step.number / step.steps < 0.85 else step.video, x)


def video_elevator(step: Step, x: Tensor) -> Tensor:
    """VideoElevator (arXiv 2403.05438): the image model takes the steps; in four of them, evenly spread from the first,
    the video model comes first: what the image model sees, its high frequencies in time filtered out, is noised to the
    step's level (SDEdit), denoised over the step by the video model, and brought back to that level by inversion."""
    if step.number % max(step.steps // 5, 1) == 0 and step.number < 4 * max(step.steps // 5, 1) and step.b > 0:
        clean = _slow(step.image(x, step.a, step.cfg), 0.25)
        x = step.euler(step.video, clean + step.a * step.noise())
        x = x + (step.a - step.b) * step.image.eps(x, step.b, 1.0)
    return step.euler(step.image, x)


def video_guide(step: Step, x: Tensor) -> Tensor:
    """VideoGuide (arXiv 2410.04364): in the first fifth of the steps what the sampling model sees is drawn towards what
    the other does, D = 0.5 D_image + 0.5 D_video of its low frequencies; here the image model samples the rest of the
    way guided by the video model's motion. (There both are video models.)"""
    if step.number >= step.steps / 5:
        return step.euler(step.video, x)
    video, image = step.video(x, step.a, step.cfg), step.image(x, step.a, step.cfg)
    denoised = video + 0.5 * (_slow(image, 0.5) - _slow(video, 0.5))
    return denoised + step.b / step.a * (x - video)


def zigzag(step: Step, x: Tensor) -> Tensor:
    """Z-Sampling (arXiv 2412.10891): down with guidance, up again without (scale 0), and down; three evaluations."""
    if step.b > 0:
        down = step.euler(step.video, x)
        x = down + (step.a - step.b) * step.video.eps(down, step.b, 0.0)
    return step.euler(step.video, x)


def collapsed_zigzag(step: Step, x: Tensor) -> Tensor:
    """Its form that costs nothing (arXiv 2604.23536, as understood): to first order the way down and up moves the
    latent by (b - a) s (eps_cond - eps_uncond), and the difference is that of the step before."""
    if "difference" in step.memory and step.b > 0:
        x = x + (step.b - step.a) * step.cfg * step.memory["difference"]
    step.memory["difference"] = step.video.eps(x, step.a, 1.0) - step.video.eps(x, step.a, 0.0)
    return step.euler(step.video, x)


def cfg_plus_plus(step: Step, x: Tensor) -> Tensor:
    """CFG++ (arXiv 2406.08070, algorithm 2): x = D(lambda) + b eps_uncond, with lambda 0.6."""
    guided, plain = step.video(x, step.a, 0.6), step.video(x, step.a, 0.0)
    return guided + step.b / step.a * (x - plain)


def apg_loop(step: Step, x: Tensor) -> Tensor:
    """IV-IV whose moves are guided by adaptive projection (arXiv 2410.02416, section 5): of the difference of the
    denoised latents only what is across the conditional one, none along it, which is what saturates."""
    a, b, c = step.a, step.b, step.c

    def eps(model: Ask, x: Tensor, sigma: float, scale: float) -> Tensor:
        cond, uncond = model(x, sigma, 1.0), model(x, sigma, 0.0)
        return (x - cond - (scale - 1) * _across(cond - uncond, cond)) / sigma

    if b > 0:
        x = x + (b - a) * eps(step.image, x, a, 4.0)
        if c < b * (1 - SAME_LEVEL):
            x = x + (c - b) * eps(step.video, x, b, 4.0)
            x = x + (b - c) * eps(step.image, x, c, -4.0)
        x = x + (a - b) * eps(step.video, x, b, -4.0)
    return step.euler(step.video, x)


RIVALS: dict[str, Rival] = {
    "average of both models": average, "in turns": turns, "EVS": evs, "VideoElevator": video_elevator,
    "VideoGuide": video_guide, "Z-Sampling": zigzag, "collapsed Z-Sampling": collapsed_zigzag, "CFG++": cfg_plus_plus,
    "IV-IV with APG": apg_loop,
}


def run(rival: Rival, video: Ask, image: Ask, x: Tensor, sigmas: list[float], cfg: float,
        noise: Callable[[], Tensor]) -> Tensor:
    """The latent at the end of the levels ``sigmas``, from ``x`` at the first."""
    memory: dict[str, Tensor] = {}
    for number, (a, b, c) in enumerate(zip(sigmas, sigmas[1:], [*sigmas[2:], 0.0])):
        c = c or video.schedule.sigma_min
        x = rival(Step(video, image, a, b, c, cfg, number, len(sigmas) - 1, noise, memory), x)
    return x


def _slow(x: Tensor, share: float) -> Tensor:
    """The lowest ``share`` of a latent's frequencies in time, the first axis."""
    spectrum = torch.fft.rfft(x, dim=0)
    kept = torch.arange(len(spectrum)) <= share * (len(spectrum) - 1)
    return torch.fft.irfft(spectrum * kept.view([-1, *[1] * (x.ndim - 1)]), len(x), dim=0)


def _across(difference: Tensor, along: Tensor) -> Tensor:
    """The part of a difference that is at right angles to ``along``, frame by frame and clip by clip."""
    axes = [*range(-3 if along.ndim > 4 else -2, 0)]
    share = (difference * along).sum(axes, keepdim=True) / along.square().sum(axes, keepdim=True).clamp(min=1e-12)
    return difference - share * along
