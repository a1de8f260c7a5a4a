"""A world of clips whose scores are known in closed form: no network, no training, exact answers.

A frame is a signal of D samples on a ring, a clip F frames of it. A clip shows one of a few *templates*, which moves
round the ring, with Gaussian texture on it that changes slowly from frame to frame. A template is a coarse layout,
which every class (the prompt) has, and fine details on it, which only the class has; the class also says which way it
moves. So clips of a class are a mixture of Gaussians with one covariance, temporal times spatial:

    x | class, template k  ~  N(shift(template_k, speed * f),  T (x) S),    T[f, g] = memory^|f - g|

and everything is exact at every noise level. Two models of it play the parts of the IV-Mixed Sampler:

- the image model knows single frames (the marginal of a frame, whichever of the F it is) and no motion: exactly, or in
  some worlds from pictures that were a little spoilt themselves, without some of the templates, or with a class whose
  details it takes for another's;
- the video model knows motion exactly and has learned from clips that were blurred and lost contrast.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ivmixed.schedule import Schedule


@dataclass(frozen=True)
class Numbers:
    """The numbers of a world. Lengths are in samples of the ring."""

    name: str
    frames: int
    size: int
    classes: int = 4
    templates: int = 4
    speed: float = 0.6
    """Samples a frame; odd classes move the other way."""
    memory: float = 0.9
    """Correlation of the texture of neighbouring frames."""
    texture: float = 0.3
    """Standard deviation of the texture in a sample; layouts have 1."""
    blur: float = 1.0
    """Standard deviation of the Gaussian that blurred the clips of the video model."""
    contrast: float = 0.9
    """What the same clips kept of it."""
    steps: int = 25
    cfg_scale: float = 7.5
    coarse: int = 3
    """Waves up to this number make the layout of a template, which all classes share; above it are their details."""
    detail: float = 0.5
    """Standard deviation of the details; that of layouts is 1."""
    residue: float = 0.1
    """Standard deviation of what compression left in those clips, white in time and space."""
    seed: int = 0
    image_blur: float = 0.0
    image_contrast: float = 1.0
    image_residue: float = 0.0
    """The same three of the image model's pictures."""
    image_templates: int | None = None
    """How many of the templates the image model knows; None: all."""
    mistaken: int = 0
    """Classes, the first ones, that have the next class's details for the image model."""


WORLDS = (
    Numbers("light blur", frames=8, size=16, texture=0.15, blur=0.6, contrast=0.9, residue=0.05),
    Numbers("blur", frames=8, size=16),
    Numbers("heavy blur", frames=8, size=16, texture=0.15, blur=1.5, contrast=0.7),
    Numbers("wide", frames=6, size=24, classes=6, templates=6, coarse=4),
    Numbers("long", frames=16, size=16, speed=0.4, steps=50),
    Numbers("few steps", frames=8, size=16, steps=10),
    Numbers("imperfect image", frames=8, size=16, image_blur=0.5, image_contrast=0.96, image_residue=0.05),
    Numbers("few templates", frames=8, size=16, image_templates=3),
    Numbers("other class", frames=8, size=16, mistaken=1),
)


class Mixture:
    """Classes of Gaussian mixtures, all with one covariance that is diagonal in an orthonormal ``basis``.

    ``means``: (classes, components, dimensions), a class's components equally likely; ``variance``: (dimensions,), in
    that basis; ``basis``: (dimensions, dimensions), a basis vector a column.
    """

    def __init__(self, means: Tensor, variance: Tensor, basis: Tensor):
        self.means, self.variance, self.basis = means @ basis, variance, basis

    def log_likelihood(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """log p(x, component | class) of points (n, dimensions) with noise ``sigma``: (n, classes, components)."""
        return self._log_likelihood(x @ self.basis, sigma)

    def _log_likelihood(self, x: Tensor, sigma: float) -> Tensor:
        variance = self.variance + sigma**2
        distance = torch.cdist(x / variance.sqrt(), self.means.flatten(0, 1) / variance.sqrt()).square()
        constant = variance.log().sum() + x.shape[1] * math.log(2 * math.pi)
        return -0.5 * (distance.unflatten(1, self.means.shape[:2]) + constant) - math.log(self.means.shape[1])

    def denoised(self, x: Tensor, sigma: float, labels: Tensor) -> tuple[Tensor, Tensor]:
        """E[x0 | x] without and with the class known, by Tweedie's formula; ``labels`` (n,)."""
        x = x @ self.basis
        likelihood = self._log_likelihood(x, sigma)
        every = likelihood.flatten(1).softmax(1) @ self.means.flatten(0, 1)
        own = likelihood[torch.arange(len(x)), labels].softmax(1)
        own = torch.einsum("nk,nkd->nd", own, self.means[labels])
        kept = self.variance / (self.variance + sigma**2)
        return (every + kept * (x - every)) @ self.basis.T, (own + kept * (x - own)) @ self.basis.T

    def sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Points (n, dimensions) of the classes ``labels`` (n,)."""
        component = torch.randint(self.means.shape[1], labels.shape, generator=generator)
        noise = torch.randn(len(labels), len(self.variance), generator=generator, dtype=self.means.dtype)
        return (self.means[labels, component] + noise * self.variance.sqrt()) @ self.basis.T


class World:
    """The distribution, and the two models of it. ``clips``: true clips; ``frames``: true frames; both `Mixture`."""

    def __init__(self, numbers: Numbers):
        self.numbers = n = numbers
        generator = torch.Generator().manual_seed(n.seed)
        waves = torch.fft.rfftfreq(n.size) * n.size
        coarse = (waves > 0) & (waves <= n.coarse)  # no template is brighter than another
        layouts = _signals(1, n.templates, coarse, n.size, generator)
        styles = _signals(n.classes, n.templates, waves > n.coarse, n.size, generator)
        spectrum = torch.fft.rfft(layouts + n.detail * styles)
        order = [(label + 1) % n.classes if label < n.mistaken else label for label in range(n.classes)]
        seen = torch.fft.rfft(layouts + n.detail * styles[order])[:, :n.image_templates]
        self.speed = n.speed * (1.0 - 2.0 * (torch.arange(n.classes) % 2))
        shift = self.speed[:, None] * (torch.arange(n.frames) - (n.frames - 1) / 2)
        phase = torch.polar(torch.ones(()), -2 * math.pi * shift[:, None, :, None] * waves / n.size)
        moving = spectrum[:, :, None] * phase  # (classes, templates, frames, waves)

        def kept(contrast: float, blur: float) -> Tensor:
            return contrast * torch.exp(-0.5 * (2 * math.pi * blur * waves / n.size) ** 2)

        blur, image_blur = kept(n.contrast, n.blur), kept(n.image_contrast, n.image_blur)
        space, wave = _fourier(n.size)
        apart = (torch.arange(n.frames)[:, None] - torch.arange(n.frames)).abs()
        in_time, time = torch.linalg.eigh(n.memory ** apart.double())
        in_time, time = in_time.float().clamp(min=1e-6), time.float().contiguous()
        both = torch.kron(time, space)
        white = torch.ones(n.size)
        self.means = torch.fft.irfft(moving, n.size)
        self.clips = Mixture(self.means.flatten(2), n.texture**2 * torch.kron(in_time, white), both)
        self.frames = Mixture(self.means.flatten(1, 2), n.texture**2 * white, space)
        poor = n.texture**2 * torch.kron(in_time, blur[wave] ** 2) + n.residue**2
        learned = Mixture(torch.fft.irfft(moving * blur, n.size).flatten(2), poor, both)
        self.video = Model(learned, Schedule.linear(), n.frames)
        pictures = torch.fft.irfft(seen[:, :, None] * phase * image_blur, n.size).flatten(1, 2)
        image = Mixture(pictures, n.texture**2 * image_blur[wave] ** 2 + n.image_residue**2, space)
        self.image = Model(image, Schedule.scaled_linear(), 1)


class Model:
    """A `Mixture` over ``frames`` frames as a denoiser of the sampler: x is (frames of a clip, clips, 1, 1, size)."""

    def __init__(self, mixture: Mixture, schedule: Schedule, frames: int):
        self.mixture, self.schedule, self.frames = mixture, schedule, frames
        self._asked: Tensor | None = None

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor, cond_scale: float = 1.0) -> Tensor:
        if x is not self._asked:  # else the same question again, with other guidance
            points = x.flatten(2).transpose(0, 1).reshape(-1, self.frames * x.shape[-1])
            labels = labels.repeat_interleave(len(points) // len(labels))
            self._asked, self._answer = x, self.mixture.denoised(points, float(sigma[0]), labels)
        uncond, cond = self._answer
        guided = uncond + cond_scale * (cond - uncond)
        return guided.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


def _signals(classes: int, templates: int, waves: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Random signals (classes, templates, size) with standard deviation 1, made of some ``waves``."""
    spectrum = torch.randn(classes, templates, len(waves), generator=generator, dtype=torch.complex64)
    signals = torch.fft.irfft(spectrum * waves, size)
    return signals / signals.std(-1, keepdim=True)


def _fourier(size: int) -> tuple[Tensor, Tensor]:
    """An orthonormal basis (size, size) of waves on a ring, a wave a column, and the number of each wave (size,)."""
    wave = (torch.arange(size) + 1) // 2
    place = torch.arange(size)[:, None] * 2 * math.pi / size
    odd = torch.tensor([False, *(k % 2 == 0 for k in range(1, size))])
    basis = torch.where(odd, torch.sin(place * wave), torch.cos(place * wave))
    return basis / basis.norm(dim=0), wave
