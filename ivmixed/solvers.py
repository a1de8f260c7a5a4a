"""Solvers: how the ordinary step is taken, from the latent and what the model denoised it to.

Each is k-diffusion's sampler of that name, step by step; without an extra loop the clips are its own to the bit.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .plan import Move
from .schedule import Schedule

NoiseSampler = Callable[[float, float], Tensor]
"""Fresh noise for a step between two noise levels, of the latent's shape."""

Solver = Callable[[Tensor, Tensor, Move], Tensor]
"""The ordinary step: the latent, what the model denoised it to, the move -> the new latent. What a multistep
solver remembers is of ordinary moves of that model alone: the extra loop comes and goes between two of them, and where
the image model takes over it finds another denoised latent, whose difference is no change along the way."""


def _euler(noise_sampler: NoiseSampler, dtype: torch.dtype, table: Schedule | None) -> Solver:
    """DDIM: one Euler move (k-diffusion's ``sample_euler`` without churn)."""
    return lambda x, denoised, move: x + (x - denoised) / move.sigma_from * (move.sigma_to - move.sigma_from)


def _euler_ancestral(noise_sampler: NoiseSampler, dtype: torch.dtype, table: Schedule | None) -> Solver:
    """DDIM with eta 1 (arXiv 2010.02502, equation 16; k-diffusion's ``sample_euler_ancestral``).

    How much of the noise is fresh, that equation says by the table's abar, so an input scale is not in it.
    """
    def plain(sigma: float) -> float:
        return sigma if table is None else sigma * table.input_scale(sigma)

    def step(x: Tensor, denoised: Tensor, move: Move) -> Tensor:
        fresh = move.sigma_to * math.sqrt(1 - (plain(move.sigma_to) / plain(move.sigma_from)) ** 2)
        kept = math.sqrt(move.sigma_to**2 - fresh**2)
        x = x + (x - denoised) / move.sigma_from * (kept - move.sigma_from)
        return x if fresh == 0 else x + noise_sampler(move.sigma_from, move.sigma_to) * fresh
    return step


class _Dpmpp:
    """What the two multistep solvers share. Levels are scalars on the CPU, in the precision of the sampler's sigmas,
    and every operation is k-diffusion's, in its order: without an extra loop the results are its own to the bit."""

    def __init__(self, noise_sampler: NoiseSampler, dtype: torch.dtype, table: Schedule | None):
        self.noise_sampler, self.dtype = noise_sampler, dtype
        self.model = ""
        self.before: tuple[Tensor, Tensor] | None = None
        """Of the ordinary move before, where it was the same model's: the denoised latent, and -log sigma."""

    def times(self, move: Move) -> tuple[Tensor, Tensor]:
        """-log sigma at the start and at the end of a move; what another model found is forgotten."""
        if move.model != self.model:
            self.model, self.before = move.model, None
        start, end = torch.tensor([move.sigma_from, move.sigma_to], dtype=self.dtype).log().neg()
        return start, end


class _Dpmpp2m(_Dpmpp):
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2; k-diffusion's ``sample_dpmpp_2m``)."""

    def __call__(self, x: Tensor, denoised: Tensor, move: Move) -> Tensor:
        start, end = self.times(move)
        h = end - start
        target = denoised
        if self.before is not None and move.sigma_to > 0:
            denoised_before, start_before = self.before
            half = 1 / (2 * ((start - start_before) / h))
            target = (1 + half) * denoised - half * denoised_before
        self.before = denoised, start
        return end.neg().exp() / start.neg().exp() * x - (-h).expm1() * target


class _Dpmpp2mSde(_Dpmpp):
    """SDE-DPM-Solver++(2M), midpoint, eta 1 (arXiv 2211.01095, section 5; k-diffusion's ``sample_dpmpp_2m_sde``)."""

    def __call__(self, x: Tensor, denoised: Tensor, move: Move) -> Tensor:
        if move.sigma_to == 0:
            return denoised
        start, end = self.times(move)
        h = end - start
        sigma, sigma_next = torch.tensor([move.sigma_from, move.sigma_to], dtype=self.dtype)
        weight = (-h - h).expm1().neg()
        x = sigma_next / sigma * (-h).exp() * x + weight * denoised
        if self.before is not None:
            denoised_before, start_before = self.before
            x = x + 0.5 * weight * (1 / ((start - start_before) / h)) * (denoised - denoised_before)
        self.before = denoised, start
        x = x + self.noise_sampler(move.sigma_from, move.sigma_to) * sigma_next * (-2 * h).expm1().neg().sqrt()
        return x


def _lcm(noise_sampler: NoiseSampler, dtype: torch.dtype, table: Schedule | None) -> Solver:
    """Multistep consistency sampling (arXiv 2310.04378, algorithm 3): the model's answer, and fresh noise on it."""
    def step(x: Tensor, denoised: Tensor, move: Move) -> Tensor:
        if move.sigma_to == 0:
            return denoised
        return denoised + noise_sampler(move.sigma_from, move.sigma_to) * move.sigma_to
    return step


SOLVERS: dict[str, Callable[[NoiseSampler, torch.dtype, Schedule | None], Solver]] = {
    "euler": _euler, "dpmpp_2m": _Dpmpp2m, "dpmpp_2m_sde": _Dpmpp2mSde, "lcm": _lcm,
    "euler_ancestral": _euler_ancestral}
"""By the names of `ivmixed.plan.SOLVERS`."""
