"""Runs a plan on a video and an image denoiser: a k-diffusion sampler by signature and manner.

Everything happens in k-diffusion's coordinates, ``x = x0 + sigma * noise``, where a deterministic DDIM step and a DDIM
inversion are the same Euler move (arXiv 2410.04171, equations 4 to 6):

    eps = (x - denoised(x, sigma, guidance)) / sigma
    x  <- x + (sigma_to - sigma_from) * eps
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .options import Options
from .plan import Move, Plan, make_plan
from .schedule import Schedule
from .smoothing import smoothed
from .solvers import SOLVERS, NoiseSampler

Denoiser = Callable[..., Tensor]


class NonFiniteError(ArithmeticError):
    """The latent became NaN or infinite. ``move`` is the move after which it was seen."""

    def __init__(self, move: Move, steps: int):
        self.move = move
        guidance = "" if move.guidance is None else f" with guidance {move.guidance:+g}"
        super().__init__(
            f"IV-mixed: the latent became NaN or infinite in step {move.step + 1} of {steps}, after the {move.kind} "
            f"move of the {move.model} model at sigma {move.sigma:.3g}{guidance}. The usual cures: run the model in "
            "full precision (AUTOMATIC1111: --no-half, Forge: --all-in-fp32, Forge Neo: --force-fp32, ivmixed: "
            "--precision fp32), lower the gammas, or try another checkpoint or motion module."
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
    noise_sampler: NoiseSampler | None = None,
    step_noise_sampler: NoiseSampler | None = None,
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
    denoised. ``on_move``: before every move and every question about guidance 1 (`Plan.rescale`), with
    it. ``on_step_end``: after an outer step, with its
    ordinary move and the new latent (float32 at least); returns the latent to go on with. ``disable``: no progress bar;
    it counts evaluations.
    ``options`` or ``plan``: what to run; tables for matching noise levels are the models' ``schedule``, a `Schedule`,
    or are made of their ``sigmas``, where they have one of the two.
    ``noise_sampler(sigma_from, sigma_to)``: noise like ``x``, of variance 1, for moves that add fresh
    noise; torch's default generator where not given. ``step_noise_sampler``: the same for the ordinary step of the
    solvers euler_ancestral, dpmpp_2m_sde and lcm, such as k-diffusion's Brownian tree, which gives the same noise for
    the same two levels and so is no fresh noise; ``noise_sampler`` where not given. A move that reuses a prediction
    asks its model about the latent and level of its latest evaluation, so that a denoiser that is told so by
    ``on_move`` can give what it has, see `ivmixed.predictions`.

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
    size = tuple(x.shape[-2:])
    plan.check_size(*size)
    x = x.to(torch.promote_types(dtype, torch.float32))
    ones = x.new_ones([x.shape[0]])
    watch = _FiniteWatch(plan, x.device)
    noise = noise_sampler or (lambda sigma, sigma_next: torch.randn_like(x))
    solver = SOLVERS[plan.solver](step_noise_sampler or noise, sigmas.dtype, _table(model))
    level = float(sigmas[0])
    settled: Tensor | None = None  # what the video model saw last in an ordinary move
    asked: dict[str, tuple[Tensor, Tensor, float]] = {}  # of each model's latest evaluation: x, x in its dtype, sigma

    def ask(move: Move, x: Tensor) -> tuple[Tensor, Tensor]:
        """The denoised latent and eps of the model of a move. For a reused one: about the very latent it last saw."""
        if move.reuse != "prediction":
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
            if move.model == "noise":
                x = x + noise(move.sigma_from, move.sigma_to) * math.sqrt(move.sigma_to**2 - move.sigma_from**2)
            else:
                whole, away = x, move.model == "image" and plan.image_size not in (None, size)
                if away:
                    x = _resized(x, plan.image_size, plan.image_resize)
                denoised, eps = ask(move, x)
                if move.kind == "ordinary":
                    if move.sigma != move.sigma_from:  # what was found at another level, at the latent's own
                        denoised = x - move.sigma_from * eps
                    if away:
                        denoised = _brought_back(whole, x, denoised - x, plan.image_resize)
                    if move.model == "video":
                        settled = denoised
                    elif plan.smoothing and settled is not None:
                        denoised = settled + smoothed(denoised - settled, settled, plan.smoothing)
                    if callback is not None:
                        sigma = sigmas[move.step]
                        callback({"x": whole, "i": move.step, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
                    x = solver(whole, denoised, move)
                else:
                    if plan.rescale:
                        unguided = replace(move, guidance=1.0, reuse="prediction")
                        if on_move is not None:
                            on_move(unguided)
                        eps = _rescaled(eps, ask(unguided, x)[1], plan.rescale)
                    change = eps * (move.sigma_to - move.sigma_from)
                    x = _brought_back(whole, x, change, plan.image_resize) if away else x + change
            level = move.sigma_to
            watch.check(index, x)
            if move.kind == "ordinary" and on_step_end is not None:
                x = on_step_end(move, x)
            progress.update(move.evaluates)
    watch.finish(x)
    return x.to(dtype)


def _table(model: Denoiser) -> Schedule | None:
    own, sigmas = getattr(model, "schedule", None), getattr(model, "sigmas", None)
    if isinstance(own, Schedule):
        return own
    return None if sigmas is None else Schedule.from_sigmas(sigmas.tolist())


def _resized(x: Tensor, size: tuple[int, ...] | None, way: str) -> Tensor:
    """The latent at another size. The way "change" goes there by nearest neighbours, which alone leave noise as strong
    as the image model expects it: averages of neighbours would weaken it."""
    return torch.nn.functional.interpolate(x, size, mode="nearest" if way == "change" else way)


def _brought_back(whole: Tensor, x: Tensor, change: Tensor, way: str) -> Tensor:
    """The latent ``whole`` after the image model changed ``x``, the same at another size.

    The way "change" brings back the change alone: averages where the clip's size is smaller, else bilinear.
    """
    size = tuple(whole.shape[-2:])
    if way != "change":
        return _resized(x + change, size, way)
    mode = "area" if size[-1] < change.shape[-1] else "bilinear"
    return whole + torch.nn.functional.interpolate(change, size, mode=mode)


def _rescaled(eps: Tensor, cond: Tensor, share: float) -> Tensor:
    """``share`` of the way to an eps of the deviation that ``cond`` has (arXiv 2305.08891, equations 15 and 16).

    One factor for all frames of a clip, so that none flickers beside the others.
    """
    of_clip = [0, -3, -2, -1]
    goal, own = (value.std(of_clip, correction=0, keepdim=True) for value in (cond, eps))
    return eps * (1 - share + share * goal / own.clamp(min=1e-12))


def _carry(x: Tensor, level: float, to: float) -> Tensor:
    """The latent of ``level`` read at another: the variance-preserving latent stays, so x is rescaled."""
    return x if level == to else x * math.sqrt((1 + to * to) / (1 + level * level))
