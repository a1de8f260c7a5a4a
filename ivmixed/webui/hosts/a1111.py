"""The sampler in AUTOMATIC1111 1.10: the two models in its ``CFGDenoiser``, with motion of
sd-webui-animatediff or built in.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from modules import shared

from ... import ConflictError, Options, Plan, Schedule
from ...features import DeepFeatures
from ...patch import replaced
from ...untrusted import shown
from .. import log
from ..builtin import a1111
from ..extensions import animatediff, controlnet, lora
from ..image_model import checkpoints, conds, swapped
from ..image_model.conds import Words
from ..image_model.swapped import ImageModel
from ..page import settings
from ..sampler import Run, Sampler


class Motion(Protocol):
    """The motion in the UNet while a clip is sampled, AnimateDiff's or the built-in one."""

    context: int
    """Frames that are evaluated at a time."""

    needs_both: bool
    """Whether it needs the prompt's and the negative prompt's rows in one call, of one length, where the host puts them
    into one batch."""
    modules: Iterable[torch.nn.Module]
    """What motion has put between the layers of the UNet."""

    def checkpoint_alphas_cumprod(self) -> Tensor:
        """The checkpoint's own noise table, with the host's settings for it: motion has another."""

    def travelled(self, cond: Any) -> Any:
        """The prompts of a step, (frames, ...), as they change along the clip."""

    def left_out(self, *others: torch.nn.Module) -> AbstractContextManager[None]:
        """Within the block the UNet is the checkpoint's own, to the bit.

        ``others``: networks that have motion of the same make (SparseCtrl) and do without it too.
        """


def motion_of_clip(p: Any, frames: int) -> Motion | None:
    """The motion for a latent of ``frames`` frames; None where the UNet has none, or the latent is no clip."""
    return a1111.Motion.of_clip(p, frames) or animatediff.Motion.of_clip(p, frames)


class IVMixedSampler(Sampler):
    """The sampler of a generation in AUTOMATIC1111."""

    @classmethod
    def finished(cls, p: Any) -> None:
        swapped.forget(p)

    @classmethod
    def failed(cls, p: Any) -> None:
        super().failed(p)
        # AnimateDiff takes it out only where sampling succeeds, and the next still image would be made with motion
        animatediff.remove(shared.sd_model)

    def run_of_clip(self, frames: int) -> Run:
        return _Run(self, motion_of_clip(self.p, frames))


class _Run(Run):
    """The image model is a denoiser beside the host's, and motion is out of the UNet while it is asked."""

    def __init__(self, sampler: Sampler, motion: Motion | None):
        super().__init__(sampler, motion)
        self.both_at_once = motion is not None and motion.needs_both and shared.opts.batch_cond_uncond
        """Every evaluation needs the negative prompt, and of one length with the prompt."""
        if self.both_at_once:
            self.held_off = "held off: the extra moves and AnimateDiff need the negative prompt"
        if motion is not None:
            self.image = _image_denoiser(sampler.model_wrap_cfg.inner_model, motion, sampler.p.scripts)
        self.answers: dict[str, list[Tensor]] = {}
        """What the network gave in each model's latest evaluation, where the plan will need it again."""
        self.image_model: ImageModel | None = None
        """The image model, where it is not the loaded checkpoint."""
        self.features: dict[str, DeepFeatures] = {}
        """What the deep layers of the UNet gave in it, where the plan will need that again."""

    def check(self, options: Options, frames: int) -> None:
        super().check(options, frames)
        if options.image_size is not None and controlnet.controls(self.sampler.p.scripts):
            raise ConflictError("image_size", options.image_size, "ControlNet",
                                because="its images have the clip's size", remedy="leave it empty")

    def start(self, plan: Plan, host_callback: Callable[[dict[str, Any]], None]) -> None:
        super().start(plan, host_callback)
        if plan.reuses("features"):
            layers = _deep_layers(self.sampler.model_wrap.inner_model.model.diffusion_model)
            self.features = {model: DeepFeatures(layers) for model in ("video", "image")}

    def words_of(self, options: Options) -> Words | None:
        p, checkpoint = self.sampler.p, checkpoints.chosen(options)
        prompt, networks = conds.without_networks(options)
        negative = options.image_negative_prompt
        if checkpoint is None and not networks:
            own = conds.own(p, prompt, negative)
            return own and Words(controlnet.marked(p.scripts, own.given))
        with ExitStack() as stack:
            in_force = stack.enter_context(lora.of_image(options, networks)) if networks else lora.in_force()
            self.image_model = ImageModel.of_request(p, checkpoint or p.sd_model.sd_checkpoint_info,
                                                     self.motion.modules, in_force)
            stack.enter_context(self.image_model.encoding())
            given = controlnet.marked(p.scripts, conds.encoded(p, prompt, negative))
            return Words(given, None if prompt else self.motion.travelled)

    def begun(self, host: Callable[[Any], None]) -> Callable[[Any], None]:
        if self.controlled in ("both", self.move.model):
            return host

        def call(params: Any) -> None:
            host(params)
            controlnet.switch_off(self.sampler.p.scripts)
        return call

    def make_room(self) -> bool:
        return self.image_model is not None and self.image_model.make_room()

    def end(self) -> None:
        if self.image_model is None:
            return
        try:
            self.image_model.rest()
        except Exception as error:  # the clip is made
            log.warning(f"the image model could not be kept in memory: {type(error).__name__} {shown(str(error))}")
            swapped.forget(self.sampler.p)

    def schedules(self) -> tuple[Schedule, Schedule]:
        denoisers = self.sampler.model_wrap_cfg.inner_model, self.image
        video, image = (Schedule.from_sigmas(denoiser.sigmas.tolist()) for denoiser in denoisers)
        return video, image

    @contextmanager
    def model_of_move(self) -> Iterator[None]:
        denoiser, move = self.sampler.model_wrap_cfg, self.move
        with ExitStack() as stack:
            if not move.evaluates:
                stack.enter_context(replaced(denoiser, "model_wrap", _Answers(self.answers[move.model])))
            elif move.model == "image":
                stack.enter_context(replaced(denoiser, "model_wrap", self.image))
                stack.enter_context(self.motion.left_out(*controlnet.networks(self.sampler.p.scripts)))
                if self.image_model is not None:
                    stack.enter_context(self.image_model.acting())
            if self.features and move.evaluates:
                features = self.features[move.model]
                stack.enter_context(features.replayed() if move.reuse else features.recorded())
            if self.plan.reuses("prediction") and move.evaluates:
                answers = self.answers[move.model] = []
                hook = denoiser.inner_model.register_forward_hook(lambda *call: answers.append(call[-1].clone()))
                stack.callback(hook.remove)
            yield

    def needs_uncond(self) -> bool:
        return super().needs_uncond() or (self.both_at_once and self.move.model == "video")

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        if self.both_at_once:
            settings["pad_cond_uncond"] = True
        if self.cond_alone():
            settings["skip_early_cond"] = 1.0
        return settings

    def changes(self) -> Iterator[tuple[Any, str, Any]]:
        yield from super().changes()
        if self.cond_alone():  # the host notes that setting in the infotext
            p = self.sampler.p
            yield p, "extra_generation_params", dict(p.extra_generation_params)

    def cond_alone(self) -> bool:
        """Guidance is 1, so that the negative prompt says nothing, and none needs its rows: one network pass."""
        if self.motion is None or self.reuses or self.plan.plain:
            return False
        guidance = self.move.guidance
        if guidance is None:
            guidance = self.sampler.sampler_extra_args["cond_scale"]
        return (guidance == 1 and (self.move.model == "image" or not self.motion.needs_both)
                and not controlnet.controls(self.sampler.p.scripts))


def _deep_layers(unet: torch.nn.Module) -> list[torch.nn.Module]:
    """All blocks of Stable Diffusion's own UNet (``openaimodel.UNetModel``) but the first and the last."""
    return [*unet.input_blocks[1:], unet.middle_block, *unet.output_blocks[:-1]]


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
            size = settings.chunk(motion.context) * (2 if shared.opts.batch_cond_uncond else 1)
            if total <= size:
                with controlnet.rows(scripts, slice(0, total), total):
                    return base.forward(self, x, sigma, cond=cond)
            out = None
            for start in range(0, total, size):
                end = min(start + size, total)
                part_cond = {key: [value[0][start:end]] if isinstance(value, list) else value[start:end]
                             for key, value in cond.items()}
                with controlnet.rows(scripts, slice(start, end), total):
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
