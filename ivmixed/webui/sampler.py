"""The sampler that the host makes for a generation: from its options to a plan, and the plan run.

Read beside a host's ``modules/sd_samplers_kdiffusion.py`` (``KDiffusionSampler``); schedules, hires and img2img are the
host's own. `run` asks the models, `register` puts the samplers into the host's lists.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from modules import sd_samplers_common, shared
from modules.sd_samplers_kdiffusion import KDiffusionSampler

from .. import ConflictError, OptionError, Plan, Schedule, make_plan, sample_iv_mixed
from ..controls import check_reuse
from ..neighbours import check_attention
from ..patch import replaced
from . import NAME, hosts, log, request, timing
from .errors import RefusedError, refusing
from .image_model import checkpoints, conds
from .motion import ClipMotion
from .options import WebUIOptions
from .page.panel import options_of
from .request import Sampled, put_back_after_errors
from .run import Run, Strategy

NO_MOTION = "off - no motion module in the UNet"
HIRES, IGNORED = f"{NAME} hires", f"{NAME} ignored"
"""Keys of the infotext, beside `NAME`: the second pass, and what of the request has no effect."""


class Sampler(KDiffusionSampler):
    """A sampler of one generation. ``solver``: how the ordinary step is taken, one of `ivmixed.plan.SOLVERS`."""

    strategy: Strategy
    """How the host asks the two models; while it samples."""

    def __init__(self, solver: str, sd_model: Any):
        super().__init__(self._sample, sd_model)
        self.solver = solver

    def sample(self, p: Any, x: Tensor, conditioning: Any, unconditional_conditioning: Any, **kwargs: Any) -> Tensor:
        with self._sampling(p, x.shape[0]):
            uncond = self._uncond(p, unconditional_conditioning)
            return super().sample(p, x, conditioning, uncond, **kwargs)  # type: ignore[no-any-return]

    def sample_img2img(self, p: Any, x: Tensor, noise: Tensor, conditioning: Any, unconditional_conditioning: Any,
                       **kwargs: Any) -> Tensor:
        with self._sampling(p, x.shape[0]):
            uncond = self._uncond(p, unconditional_conditioning)
            return super().sample_img2img(p, x, noise, conditioning, uncond, **kwargs)  # type: ignore[no-any-return]

    @contextmanager
    def _sampling(self, p: Any, frames: int) -> Iterator[None]:
        """Around the sampling of a latent of ``frames`` frames."""
        with ExitStack() as stack:
            stack.enter_context(refusing())
            stack.enter_context(put_back_after_errors(p))  # where our scripts do not run, in ADetailer's own pass say
            motion = self._motion_of(p, frames)
            self.strategy = stack.enter_context(hosts.find().strategy(self, p, motion))
            stack.callback(delattr, self, "strategy")  # the request has the sampler longer than the image model
            yield

    def _motion_of(self, p: Any, frames: int) -> ClipMotion | None:
        """The motion for a latent of ``frames`` frames; None where the UNet has none, or the latent is no clip."""
        clip = request.of(p).clip
        if clip is not None and clip.motion is not None and frames == clip.frames:
            return hosts.find().builtin_motion(self, clip)
        return hosts.find().animatediff_motion(self, p, frames)

    def _uncond(self, p: Any, uncond: Any) -> Any:
        """The negative prompt, which some hosts do not encode where their CFG scale is 1: extra moves guide too."""
        if uncond is not None or self.strategy.motion is None:
            return uncond
        with replaced(p, "hr_cfg" if p.is_hr_pass else "cfg_scale", 2):
            p.setup_conds()
        return p.get_conds()[1]

    def _sample(
        self,
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[[dict[str, Any]], None],
        disable: bool | None = None,
        noise_sampler: Callable[[float, float], Tensor] | None = None,
    ) -> Tensor:
        """The host calls it as it calls k-diffusion's samplers; ``model`` is its ``CFGDenoiser``."""
        strategy, kept = self.strategy, request.of(self.p)
        with refusing():
            options, plan = self._planned(x, sigmas)
            kept.asks_video = plan.count("video") > 0
            strategy.begin(options, plan, len(x))
        has_motion = strategy.motion is not None
        said = f"{plan.evaluations} evaluations" if has_motion else NO_MOTION
        self._note(said)
        log.info(plan.describe() if has_motion else said)
        if ignored := self.p.extra_generation_params.get(IGNORED):
            log.info(f"{ignored} ignored: the steps of {NAME} add no noise by these settings")

        run = Run(self, strategy, plan, callback)
        started = time.monotonic()
        try:
            clip = sample_iv_mixed(
                run.evaluate, x, sigmas, extra_args, run.callback, disable, plan=plan, on_move=run.on_move,
                noise_sampler=lambda *levels: self.p.rng.next(),  # a generator for each row: batches and devices agree
                step_noise_sampler=noise_sampler)
        except sd_samplers_common.InterruptedException:
            if has_motion:
                how = "skipped" if shared.state.skipped else "interrupted"
                self._note(f"{how} after {run.done} of {plan.evaluations} evaluations")
            raise
        finally:
            seconds = time.monotonic() - started
            kept.sampled = Sampled(run.done, plan.evaluations, seconds)
        if has_motion:
            frames, _, height, width = clip.shape
            timing.note(self.p.sd_model, plan, frames, 8 * width, 8 * height, seconds)
        return clip

    def _planned(self, x: Tensor, sigmas: Tensor) -> tuple[WebUIOptions, Plan]:
        """The options and the plan over ``sigmas`` of the latent ``x``. Raises OptionError, RefusedError."""
        options = options_of(self.p)
        strategy = self.strategy
        schedules: tuple[Schedule, ...] = ()
        if strategy.motion is None:
            options = options.plain()
        else:
            self._check(options, x.shape[0], strategy.motion)
            strategy.check(options)
            schedules = strategy.schedules()
        try:
            plan = make_plan(options, sigmas.tolist(), *schedules, solver=self.solver)
        except OptionError:
            raise
        except ValueError as error:  # the host has schedules whose levels rise again, reForge's "Karras Dynamic" say
            raise RefusedError(f"{NAME}: this schedule type does not suit it, choose another: {error}") from None
        plan.check_size(*x.shape[-2:])
        if strategy.motion is not None:
            check_attention(plan, len(x), strategy.motion.image_context)
        return options, plan

    def _check(self, options: WebUIOptions, frames: int, motion: ClipMotion) -> None:
        """Raises OptionError for what a clip of ``frames`` frames cannot have on any host."""
        if options.image_size is not None and self.model_wrap_cfg.mask is not None:
            raise ConflictError("image_size", options.image_size, "inpainting", because="the mask has the clip's size",
                                remedy="leave it empty")
        checkpoints.chosen(options)
        conds.without_networks(options)
        check_reuse(options, frames, motion.context)

    def _note(self, said: str) -> None:
        """Notes in the infotext what a pass took, and what of the request had no effect on it."""
        infotext = self.p.extra_generation_params
        if not self.p.is_hr_pass:
            infotext.pop(HIRES, None)  # the second of several batches may end before its second pass
        infotext[HIRES if self.p.is_hr_pass else NAME] = said
        if ignored := self._ignored():
            infotext[IGNORED] = ", ".join(ignored)

    def _ignored(self) -> list[str]:
        """The request's settings that the host's own sampler of this step would obey, and this one does not.

        Source: ``sampler_extra_params`` and ``Sampler.initialize`` of the hosts, where the settings win.
        """
        def value(name: str, default: float) -> float:
            chosen, given = getattr(shared.opts, name, default), getattr(self.p, name, None)
            return float(given if chosen == default and given is not None else chosen)

        found = {}
        if self.solver == "euler":
            found["sigma churn"] = value("s_churn", 0.0), 0.0
        elif self.solver == "dpmpp_2m_sde":
            found["eta"] = 1.0 if self.eta is None else float(self.eta), 1.0
            found["sigma noise"] = value("s_noise", 1.0), 1.0
        return [f"{name} {given:g}" for name, (given, default) in found.items() if given != default]
