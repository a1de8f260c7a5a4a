"""The sampler in AUTOMATIC1111 1.10: registration, and a plan run on the host's denoiser.

Read beside the host's ``modules/sd_samplers_kdiffusion.py`` (``KDiffusionSampler``) and
``modules/sd_samplers_cfg_denoiser.py`` (``CFGDenoiser.forward``). Both models are that one denoiser: the video model as
AnimateDiff left it, the image model with motion out of the way and the checkpoint's own noise table.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from fastapi import HTTPException
from torch import Tensor

from modules import sd_samplers, sd_samplers_cfg_denoiser, sd_samplers_common, shared
from modules.sd_samplers_kdiffusion import KDiffusionSampler

from .. import Move, OptionError, Plan, Schedule, make_plan, sample_iv_mixed
from . import NAME, animatediff, controlnet, log
from .animatediff import Motion
from .panel import options_of
from .patch import Overlay, replaced

NO_MOTION = "off - no AnimateDiff motion module in the UNet"


class RefusedError(HTTPException):
    """Wrong input, refused before the first evaluation: status 422 with the message, from the API and in the page."""

    def __init__(self, message: str):
        super().__init__(status_code=422, detail=message)

    def __str__(self) -> str:
        return self.detail


def register() -> None:
    """Puts the sampler where the dropdowns and the API look. Any number of times: it replaces itself."""
    data = sd_samplers_common.SamplerData(NAME, IVMixedSampler, ["iv_mixed", "ivmixed"], {})
    # other modules hold this very list, and "Reload UI" runs the scripts again while it stays
    sd_samplers.all_samplers[:] = [x for x in sd_samplers.all_samplers if x.name != NAME] + [data]
    sd_samplers.all_samplers_map[NAME] = data
    sd_samplers.set_samplers()
    sd_samplers.get_sampler_and_scheduler.cache_clear()


class IVMixedSampler(KDiffusionSampler):
    """What the host makes for a generation with this sampler; schedules, hires, img2img are the host's own."""

    def __init__(self, sd_model: Any):
        super().__init__(self._sample, sd_model)

    def launch_sampling(self, steps: int, func: Callable[[], Tensor]) -> Tensor:
        try:
            return super().launch_sampling(steps, func)
        except Exception:
            # AnimateDiff cleans up only where sampling succeeds, and the next still image would be made with motion
            animatediff.remove(shared.sd_model)
            raise

    def _sample(
        self,
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[[dict[str, Any]], None],
        disable: bool | None = None,
    ) -> Tensor:
        """The host calls it as it calls k-diffusion's samplers; ``model`` is its ``CFGDenoiser``."""
        try:
            options = options_of(self.p)
        except OptionError as error:
            raise RefusedError(str(error)) from None
        motion = Motion.of_clip(x.shape[0])
        if motion is None:
            plan, image = make_plan(replace(options, interval=(0, 0)), sigmas.tolist()), None
        else:
            image = _image_denoiser(model.inner_model, motion, self.p.scripts)
            tables = (Schedule.from_sigmas(denoiser.sigmas.tolist()) for denoiser in (model.inner_model, image))
            plan = make_plan(options, sigmas.tolist(), *tables)
        said = NO_MOTION if motion is None else f"{plan.evaluations} evaluations"
        self.p.extra_generation_params[f"{NAME} hires" if self.p.is_hr_pass else NAME] = said
        log.info(said if motion is None else plan.describe())

        run = _Run(self, plan, motion, image, callback)
        return sample_iv_mixed(
            run.evaluate, x, sigmas, extra_args, run.callback, disable, plan=plan, on_move=run.on_move,
            noise_sampler=lambda *levels: self.p.rng.next())  # a generator for each row: batches and devices agree


class _Run:
    """A plan's evaluations on the host's denoiser. Each changes the host for its own time only."""

    def __init__(
        self,
        sampler: IVMixedSampler,
        plan: Plan,
        motion: Motion | None,
        image: torch.nn.Module | None,
        host_callback: Callable[[dict[str, Any]], None],
    ):
        self.sampler, self.plan, self.motion, self.image = sampler, plan, motion, image
        self.host_callback = host_callback
        self.move = plan.moves[0]
        self.reuses = any(move.reuse for move in plan.moves)
        self.done = 0
        self.answers: dict[str, list[Tensor]] = {}
        """What the network gave in each model's latest evaluation, where the plan will need it again."""
        self.host_store_latent = sd_samplers_common.store_latent
        self._announce()

    def on_move(self, move: Move) -> None:
        self.move = move

    def evaluate(self, x: Tensor, sigma: Tensor, **args: Any) -> Tensor:
        """The denoised latent of the move that is due; k-diffusion's denoiser signature."""
        denoiser, move = self.sampler.model_wrap_cfg, self.move
        denoiser.step = move.step
        last_latent = self.sampler.last_latent
        if self._needs_uncond():
            args["s_min_uncond"] = 0
        with ExitStack() as stack:
            for target, name, value in self._changes():
                stack.enter_context(replaced(target, name, value))
            if move.model == "image" and not move.reuse:
                stack.enter_context(self.motion.left_out(*controlnet.networks(self.sampler.p.scripts)))
            if self.reuses and not move.reuse:
                answers = self.answers[move.model] = []
                hook = denoiser.inner_model.register_forward_hook(lambda *call: answers.append(call[-1].clone()))
                stack.callback(hook.remove)
            denoised = denoiser(x, sigma, **args)
        if move.kind == "back" or (move.kind == "go" and move.step > 0):
            # an interrupt leaves the last ordinary prediction; before the first, that of a go move, not the noise
            self.sampler.last_latent = last_latent
        if not move.reuse:
            self._count()
        return denoised

    def _needs_uncond(self) -> bool:
        """Guidance needs uncond, now or later, and so do AnimateDiff's windows where it is in one batch with cond."""
        return self.motion is not None and (
            self.reuses or self.move.kind != "ordinary" or shared.opts.batch_cond_uncond)

    def _changes(self) -> Iterator[tuple[Any, str, Any]]:
        """What is other in the host during this evaluation: (object, attribute, value)."""
        move, state = self.move, shared.state
        # extensions time themselves by the step they are told (ControlNet's start and end), the progress bar by ours;
        # the host tells the step before, since its callback comes after the evaluation
        told = Overlay(state, sampling_step=max(move.step - 1, 0), sampling_steps=self.plan.steps)
        yield sd_samplers_cfg_denoiser, "state", told
        yield sd_samplers_common, "store_latent", self._store_latent
        if self.motion is None:
            return
        options = {}
        if shared.opts.batch_cond_uncond:
            options["pad_cond_uncond"] = True  # AnimateDiff's windows then take cond and uncond of one length
        if self._needs_uncond():
            options["skip_early_cond"] = 0
        yield sd_samplers_cfg_denoiser, "shared", Overlay(shared, opts=Overlay(shared.opts, **options))
        if move.reuse:
            yield self.sampler.model_wrap_cfg, "model_wrap", _Answers(self.answers[move.model])
        elif move.model == "image":
            yield self.sampler.model_wrap_cfg, "model_wrap", self.image

    def callback(self, data: dict[str, Any]) -> None:
        self.host_callback(data)
        shared.state.sampling_step = self.done

    def _announce(self) -> None:
        """The host's progress counts evaluations; the total in the console too."""
        state, bar = shared.state, shared.total_tqdm
        state.sampling_steps = self.plan.evaluations
        if getattr(self.sampler.p, "enable_hr", False) and bar._tqdm is not None:
            bar.updateTotal(bar._tqdm.total + self.plan.evaluations - self.plan.steps)
        dropped = [name for name, value in (
            ("'Negative Guidance minimum sigma' (NGMS)", self.sampler.s_min_uncond),
            ("'Ignore negative prompt during early sampling'", shared.opts.skip_early_cond)) if value]
        if self.motion is not None and dropped:
            log.info(f"{' and '.join(dropped)} held off: the extra moves and AnimateDiff need the negative prompt")

    def _count(self) -> None:
        self.done += 1
        shared.state.sampling_step = self.done
        if self.move.kind != "ordinary":
            shared.state.current_image_sampling_step += 1  # "a preview every n steps" means outer steps
            shared.total_tqdm.update()  # the host's callback does it for the ordinary move

    def _store_latent(self, latent: Tensor) -> None:
        """The live preview: of ordinary moves only, timed by outer steps."""
        if self.move.kind == "ordinary":
            with replaced(shared.state, "sampling_step", self.move.step):
                self.host_store_latent(latent)


class _Answers(torch.nn.Module):
    """In the place of a denoiser: gives what the network gave before, row by row, whatever rows a call asks for."""

    def __init__(self, answers: list[Tensor]):
        super().__init__()
        self.rows = torch.cat(answers)  # a copy, as what follows may write into it

    def __call__(self, x: Tensor, sigma: Tensor, cond: dict[str, Any]) -> Tensor:
        given, self.rows = self.rows[:len(x)], self.rows[len(x):]
        return given


def _image_denoiser(video: torch.nn.Module, motion: Motion, scripts: Any) -> torch.nn.Module:
    """The host's denoiser (k-diffusion's ``CompVisDenoiser`` kind) on the checkpoint's own noise table.

    Frames are independent to it, so it takes them in plain chunks of the size of AnimateDiff's windows: no overlap, and
    no more memory.
    """
    base = type(video)

    class ImageDenoiser(base):
        @property
        def forward(self) -> Callable[..., Tensor]:
            return self._in_chunks

        @forward.setter
        def forward(self, windows: Any) -> None:
            """AnimateDiff puts its windows into whichever denoiser the first evaluation uses; here without effect."""

        def _in_chunks(self, x: Tensor, sigma: Tensor, cond: dict[str, Any]) -> Tensor:
            total = x.shape[0]
            size = motion.context * (2 if shared.opts.batch_cond_uncond else 1)
            if total <= size:
                with controlnet.rows(scripts, 0, total, total):
                    return base.forward(self, x, sigma, cond=cond)
            out = None
            for start in range(0, total, size):
                end = min(start + size, total)
                part_cond = {key: [value[0][start:end]] if isinstance(value, list) else value[start:end]
                             for key, value in cond.items()}
                with controlnet.rows(scripts, start, end, total):
                    part = base.forward(self, x[start:end], sigma[start:end], cond=part_cond)
                if out is None:
                    out = part.new_empty((total, *part.shape[1:]))
                out[start:end] = part
            return out

    denoiser = ImageDenoiser(video.inner_model, quantize=video.quantize)
    abar = motion.checkpoint_alphas_cumprod()
    denoiser.sigmas = ((1 - abar) / abar) ** 0.5
    denoiser.log_sigmas = denoiser.sigmas.log()
    return denoiser
