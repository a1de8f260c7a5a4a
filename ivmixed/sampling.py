"""Runs a plan on a video and an image denoiser: a k-diffusion sampler by signature and manner.

Everything happens in k-diffusion's coordinates, ``x = x0 + sigma * noise``, where a deterministic DDIM step and a DDIM
inversion are the same Euler move (arXiv 2410.04171, equations 4 to 6):

    eps = (x - denoised(x, sigma, guidance)) / sigma
    x  <- x + (sigma_to - sigma_from) * eps
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .options import Options
from .plan import Move, Plan, make_plan
from .schedule import Schedule

Denoiser = Callable[..., Tensor]


class NonFiniteError(ArithmeticError):
    """The latent became NaN or infinite. ``move`` is the move after which it was seen."""

    def __init__(self, move: Move, steps: int):
        self.move = move
        guidance = "" if move.guidance is None else f" with guidance {move.guidance:+g}"
        super().__init__(
            f"IV-mixed: the latent became NaN or infinite in step {move.step + 1} of {steps}, after the {move.kind} "
            f"move of the {move.model} model at sigma {move.sigma:.3g}{guidance}. The usual cures: run the model in "
            "full precision (--no-half, or 'Upcast cross attention layer to float32' in the settings), lower the "
            "gammas, or try another checkpoint or motion module."
        )


class _FiniteWatch:
    """Notices a non-finite latent without making the host wait for the device.

    Every check leaves its flag in host memory by an asynchronous copy, and the flags that have arrived are read. So
    what a device computes behind the host's back is noticed an evaluation or two late; `finish` waits for the rest.
    """

    def __init__(self, plan: Plan, device: torch.device):
        self.plan = plan
        self.flags = torch.zeros(len(plan.moves), dtype=torch.bool, pin_memory=device.type == "cuda")
        self.seen = self.flags.numpy()

    def check(self, index: int, x: Tensor) -> None:
        self.flags[index].copy_(x.isfinite().all().logical_not(), non_blocking=True)
        self._raise()

    def finish(self, x: Tensor) -> None:
        x.flatten()[:1].cpu()  # the flags were copied before this on the same stream
        self._raise()

    def _raise(self) -> None:
        if self.seen.any():
            raise NonFiniteError(self.plan.moves[int(self.seen.argmax())], self.plan.steps)


@torch.no_grad()
def sample_iv_mixed(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    image_model: Denoiser | None = None,
    options: Options | None = None,
    plan: Plan | None = None,
    on_move: Callable[[Move], None] | None = None,
    on_step_end: Callable[[Move, Tensor], Tensor] | None = None,
    noise_sampler: Callable[[float, float], Tensor] | None = None,
) -> Tensor:
    """IV-Mixed sampling: each step denoises and inverts with both models before the ordinary step.

    ``model``, ``image_model``: the video and the image denoiser, called as ``model(x, sigma, **extra_args)`` with sigma
    of shape (frames,); they return the denoised latent (x0). The guidance scale travels as ``cond_scale`` in the extra
    arguments: the moves of the extra loop replace it, the ordinary move keeps the caller's. Without ``image_model`` the
    video model serves for both (zigzag sampling).
    ``x``: the noisy latent at sigmas[0], (frames, channels, height, width), floating point. Half precision is handed to
    the models as it is, while the update runs in float32.
    ``sigmas``: N + 1 noise levels, descending. Keep them on the CPU, or making the plan reads them from the device.
    ``callback``: once an outer step, after the ordinary evaluation, with k-diffusion's keys x, i, sigma, sigma_hat,
    denoised. ``on_move``: before every move, with it. ``on_step_end``: after an outer step, with its
    ordinary move and the new latent (float32 at least); returns the latent to go on with. ``disable``: no progress bar;
    it counts evaluations.
    ``options`` or ``plan``: what to run; tables for matching noise levels are read from the models' ``sigmas`` where
    they have them. ``noise_sampler(sigma_from, sigma_to)``: noise like ``x``, of variance 1, for moves that add fresh
    noise and for the solver dpmpp_2m_sde; torch's default generator where not given. A move that reuses a prediction
    asks its model about the very tensor of its latest evaluation, so that a denoiser can answer from memory.

    Returns the latent at sigmas[-1], shape and dtype of ``x``. Raises OptionError and ValueError before the first
    evaluation, NonFiniteError as soon as a non-finite latent is seen.
    """
    extra_args = {} if extra_args is None else extra_args
    if plan is None:
        plan = make_plan(options or Options(), sigmas.tolist(), _table(model), _table(image_model or model))
    if not plan.moves or plan.moves[-1].step >= len(sigmas):
        raise ValueError(f"a plan of {plan.steps} steps and {plan.evaluations} moves does not fit {len(sigmas)} sigmas")
    models = {"video": model, "image": image_model or model}
    dtype = x.dtype
    size = x.shape[-2:]
    x = x.to(torch.promote_types(dtype, torch.float32))
    ones = x.new_ones([x.shape[0]])
    watch = _FiniteWatch(plan, x.device)
    noise = noise_sampler or (lambda sigma, sigma_next: torch.randn_like(x))
    solver = _SOLVERS[plan.solver](noise)
    level = plan.moves[0].sigma_from
    asked: dict[str, tuple[Tensor, Tensor, float]] = {}  # of each model's latest evaluation: x, x in its dtype, sigma

    def ask(move: Move, x: Tensor) -> tuple[Tensor, Tensor]:
        """The denoised latent and eps of the model of a move. For a reused one: about the very latent it last saw."""
        if not move.reuse:
            seen = _carry(x, move.sigma_from, move.sigma)
            asked[move.model] = seen, seen.to(dtype), move.sigma
        seen, given, sigma = asked[move.model]
        args = extra_args if move.guidance is None else {**extra_args, "cond_scale": move.guidance}
        denoised = models[move.model](given, sigma * ones, **args).to(x.dtype)
        return denoised, (seen - denoised) / sigma

    with tqdm(total=plan.evaluations, disable=disable) as progress:
        for index, move in enumerate(plan.moves):
            if on_move is not None:
                on_move(move)
            x = _carry(x, level, move.sigma_from)
            resize = plan.image_size is not None and move.model == "image"
            if resize:
                x = torch.nn.functional.interpolate(x, plan.image_size, mode=plan.image_resize)
            if move.model == "noise":
                x = x + noise(move.sigma_from, move.sigma_to) * math.sqrt(move.sigma_to**2 - move.sigma_from**2)
            elif move.kind == "ordinary":
                denoised, eps = ask(move, x)
                if callback is not None:
                    sigma = sigmas[move.step]
                    callback({"x": x, "i": move.step, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
                x = solver(x, eps, move)
            else:
                x = x + ask(move, x)[1] * (move.sigma_to - move.sigma_from)
            if resize:
                x = torch.nn.functional.interpolate(x, size, mode=plan.image_resize)
            level = move.sigma_to
            watch.check(index, x)
            if move.kind == "ordinary" and on_step_end is not None:
                x = on_step_end(move, x)
            progress.update(move.evaluates)
    watch.finish(x)
    return x.to(dtype)


def _table(model: Denoiser) -> Schedule | None:
    sigmas = getattr(model, "sigmas", None)
    return None if sigmas is None else Schedule.from_sigmas(sigmas.tolist())


def _carry(x: Tensor, level: float, to: float) -> Tensor:
    """The latent of ``level`` read at another: the variance-preserving latent stays, so x is rescaled."""
    return x if level == to else x * math.sqrt((1 + to * to) / (1 + level * level))


def _euler(noise_sampler: Callable[[float, float], Tensor]) -> Callable[[Tensor, Tensor, Move], Tensor]:
    """DDIM: one Euler move (k-diffusion's sample_euler without churn)."""
    return lambda x, eps, move: x + eps * (move.sigma_to - move.sigma_from)


def _dpmpp_2m_sde(noise_sampler: Callable[[float, float], Tensor]) -> Callable[[Tensor, Tensor, Move], Tensor]:
    """SDE-DPM-Solver++(2M), midpoint, eta 1 (arXiv 2211.01095, section 5): VideoCrafter's ordinary step."""
    before: tuple[Tensor, float] | None = None

    def step(x: Tensor, eps: Tensor, move: Move) -> Tensor:
        nonlocal before
        sigma, sigma_next = move.sigma_from, move.sigma_to
        denoised = x - sigma * eps
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        weight = -math.expm1(-2 * h)
        x_next = sigma_next / sigma * math.exp(-h) * x + weight * denoised
        if before is not None:
            denoised_before, h_before = before
            x_next = x_next + 0.5 * weight * h / h_before * (denoised - denoised_before)
        before = denoised, h
        return x_next + noise_sampler(sigma, sigma_next) * (sigma_next * math.sqrt(weight))

    return step


_SOLVERS = {"euler": _euler, "dpmpp_2m_sde": _dpmpp_2m_sde}
