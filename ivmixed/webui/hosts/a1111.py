"""AUTOMATIC1111 1.10: the two models in its ``CFGDenoiser``, with motion of sd-webui-animatediff or built in."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from modules import sd_samplers_cfg_denoiser, shared

from ... import ConflictError, Move, Plan, Schedule
from ...clips.encode import Frames
from ...features import DeepFeatures, deep_blocks
from ...motion import Motion
from ...neighbours import attending
from ...patch import replaced
from ...predictions import Predictions
from ...untrusted import shown
from .. import log
from ..builtin import a1111 as builtin
from ..builtin.generation import BuiltinClip, BuiltinMotion
from ..extensions import animatediff, controlnet, lora
from ..image_model import checkpoints, conds, swapped
from ..image_model.conds import ImageConds
from ..image_model.swapped import SwappedImageModel
from ..motion import ClipMotion
from ..options import WebUIOptions
from ..run import dropping
from ..sampler import Sampler

T = TypeVar("T")


class A1111:
    """AUTOMATIC1111."""

    animatediff_acts = True

    def installed(self) -> AbstractContextManager[None]:
        return nullcontext()

    def prepare(self, p: Any) -> None:
        """Nothing: what a request changes here is put back by `failed` without a note of it."""

    def finished(self, p: Any) -> None:
        swapped.forget(p)

    def failed(self, p: Any) -> None:
        self.finished(p)
        # AnimateDiff takes it out only where sampling succeeds, and the next still image would be made with motion
        animatediff.remove(shared.sd_model)

    @contextmanager
    def strategy(self, sampler: Sampler, p: Any, motion: ClipMotion | None) -> Iterator[A1111Strategy]:
        strategy = A1111Strategy(sampler, p, motion)
        try:
            yield strategy
        finally:
            strategy.offload()

    def attached(self, clip: BuiltinClip) -> AbstractContextManager[Motion]:
        return builtin.attached(clip)

    def builtin_motion(self, sampler: Sampler, clip: BuiltinClip) -> ClipMotion:
        return BuiltinMotion(clip)

    def fed_controlnet(self, p: Any, frames: Sequence[Frames]) -> AbstractContextManager[Callable[[], None]]:
        return controlnet.fed(p, frames)

    def animatediff_motion(self, sampler: Sampler, p: Any, frames: int) -> ClipMotion | None:
        return animatediff.AnimateDiffMotion.of_clip(p, frames)

    def tab_title(self, name: str) -> str:
        return name

    def in_generation_thread(self, function: Callable[[], T]) -> T:
        return function()


class A1111Strategy:
    """The image model is a denoiser beside the host's, and motion is out of the UNet while it is asked."""

    plan: Plan
    frames: int
    """Of the latent."""
    image_conds: ImageConds | None = None
    controlled = "both"
    """The model that ControlNet acts on."""

    def __init__(self, sampler: Sampler, p: Any, motion: ClipMotion | None):
        self.sampler, self.p, self.motion = sampler, p, motion
        self.both_at_once = motion is not None and motion.needs_both and shared.opts.batch_cond_uncond
        if motion is not None:
            self.image = _image_denoiser(sampler.model_wrap_cfg.inner_model, motion, self.p.scripts)
        self.predictions: dict[str, Predictions] = {}
        """Of each model's latest evaluation, where the plan will need them again."""
        self.features: dict[str, DeepFeatures] = {}
        """What the deep layers of the UNet gave in it, where the plan will need that again."""
        self.image_model: SwappedImageModel | None = None
        """The image model, where it is not the loaded checkpoint."""

    @property
    def unet(self) -> Any:
        return self.sampler.model_wrap.inner_model.model.diffusion_model

    def schedules(self) -> tuple[Schedule, Schedule]:
        denoisers = self.sampler.model_wrap_cfg.inner_model, self.image
        video, image = (Schedule.from_sigmas(denoiser.sigmas.tolist()) for denoiser in denoisers)
        return video, image

    def check(self, options: WebUIOptions) -> None:
        if options.image_size is not None and controlnet.controls(self.p.scripts):
            raise ConflictError("image_size", options.image_size, "ControlNet",
                                because="its images have the clip's size", remedy="leave it empty")
        if options.image_attention != "own" and re.search(r"\bAND\b", options.image_prompt):
            raise ConflictError("image_attention", options.image_attention, "image_prompt", options.image_prompt,
                                because="AND puts rows between the frames", remedy="take own, or write one prompt")

    def begin(self, options: WebUIOptions, plan: Plan, frames: int) -> None:
        self.plan, self.frames, self.controlled = plan, frames, options.controlnet
        if plan.count("image"):
            self.image_conds = self._image_conds(options)
        if plan.reuses("features"):
            blocks = deep_blocks(self.unet)
            self.features = {model: DeepFeatures(blocks) for model in ("video", "image")}

    def _image_conds(self, options: WebUIOptions) -> ImageConds | None:
        p, motion, checkpoint = self.p, self.motion, checkpoints.chosen(options)
        assert motion is not None
        prompt, networks = conds.without_networks(options)
        negative = options.image_negative_prompt
        if checkpoint is None and not networks:
            own = conds.own(p, prompt, negative)
            return own and ImageConds(controlnet.marked(self.p.scripts, own.args))
        with ExitStack() as stack:
            in_force = stack.enter_context(lora.of_image(options, networks)) if networks else lora.in_force()
            self.image_model = SwappedImageModel.of_request(p, checkpoint or p.sd_model.sd_checkpoint_info,
                                                            motion.modules, in_force)
            stack.enter_context(self.image_model.encoding())
            args = controlnet.marked(self.p.scripts, conds.encoded(p, prompt, negative))
            return ImageConds(args, None if prompt else motion.blended)

    @contextmanager
    def model_of(self, move: Move) -> Iterator[None]:
        denoiser = self.sampler.model_wrap_cfg
        with ExitStack() as stack:
            if self._cond_alone(move):  # the host notes in the infotext the setting that does it
                noted = dict(self.p.extra_generation_params)
                stack.enter_context(replaced(self.p, "extra_generation_params", noted))
            if self.controlled not in ("both", move.model):
                stack.enter_context(self._without_controlnet())
            if not move.evaluates:
                stack.enter_context(replaced(denoiser, "model_wrap", _Recall(self.predictions[move.model])))
            elif move.model == "image":
                assert self.motion is not None
                stack.enter_context(replaced(denoiser, "model_wrap", self.image))
                stack.enter_context(self.motion.left_out())
                if self.image_model is not None:
                    stack.enter_context(self.image_model.swapped_in())
                stack.enter_context(attending(self.unet, self.plan.image_attention, self.frames))
            elif self.motion is not None:
                stack.enter_context(self.motion.watched())
            if self.features and move.evaluates:
                features = self.features[move.model]
                stack.enter_context(features.replayed() if move.reuse else features.recorded())
            if self.plan.reuses("prediction") and move.evaluates:
                kept = self.predictions[move.model] = Predictions()
                hook = denoiser.inner_model.register_forward_hook(lambda *call: kept.keep("rows", call[-1]))
                stack.callback(hook.remove)
            yield

    @contextmanager
    def _without_controlnet(self) -> Iterator[None]:
        """Within the block an evaluation is without ControlNet, which comes in at its start."""
        begin = sd_samplers_cfg_denoiser.cfg_denoiser_callback

        def call(params: Any) -> None:
            begin(params)
            controlnet.switch_off(self.p.scripts)
        with replaced(sd_samplers_cfg_denoiser, "cfg_denoiser_callback", call):
            yield

    def settings(self, move: Move, needs_uncond: bool) -> dict[str, Any]:
        settings: dict[str, Any] = {"skip_early_cond": 0} if needs_uncond else {}
        if self.both_at_once:
            settings["pad_cond_uncond"] = True
        if self._cond_alone(move):
            settings["skip_early_cond"] = 1.0
        return settings

    def _cond_alone(self, move: Move) -> bool:
        """Guidance is 1, so that the negative prompt says nothing, and none needs its rows: one network pass."""
        if self.motion is None or self.plan.reuses("prediction") or self.plan.reuses("features") or self.plan.plain:
            return False
        guidance = self.sampler.sampler_extra_args["cond_scale"] if move.guidance is None else move.guidance
        return (guidance == 1 and (move.model == "image" or not self.motion.needs_both)
                and not controlnet.controls(self.p.scripts))

    def dropping(self) -> list[str]:
        return dropping(self.sampler.s_min_uncond)

    def free_vram(self) -> bool:
        return self.image_model is not None and self.image_model.free_vram()

    def offload(self) -> None:
        """After the last evaluation, also after an error or an interrupt."""
        if self.image_model is None:
            return
        try:
            self.image_model.offload()
        except Exception as error:  # the clip is made
            log.warning(f"the image model could not be kept in memory: {type(error).__name__} {shown(str(error))}")
            swapped.forget(self.p)


class _Recall(torch.nn.Module):
    """In the place of a denoiser: what it predicted before. Its rows are in the order of the host's calls, whichever of
    cond and uncond come first, so they are one part."""

    def __init__(self, predictions: Predictions):
        super().__init__()
        self.take = predictions.again()

    def __call__(self, x: Tensor, sigma: Tensor, cond: dict[str, Any]) -> Tensor:
        return self.take("rows", len(x))  # not in `forward`, where AnimateDiff puts its windows


def _image_denoiser(video: Any, motion: ClipMotion, scripts: Any) -> Any:
    """The host's denoiser (k-diffusion's ``CompVisDenoiser`` kind) on the checkpoint's own noise table.

    Frames are independent to it, so it takes them in plain chunks of the size of AnimateDiff's windows: no overlap, and
    no more memory.
    """
    base = type(video)

    class ImageDenoiser(base):  # type: ignore[misc,valid-type]
        @property
        def forward(self) -> Callable[..., Tensor]:
            return self._in_chunks

        @forward.setter
        def forward(self, windows: Any) -> None:
            """AnimateDiff puts its windows into whichever denoiser the first evaluation uses; here without effect."""

        def _in_chunks(self, x: Tensor, sigma: Tensor, cond: dict[str, Any]) -> Tensor:
            total = x.shape[0]
            size = motion.image_context * (2 if shared.opts.batch_cond_uncond else 1)
            if total <= size:
                with controlnet.rows(scripts, slice(0, total), total):
                    return base.forward(self, x, sigma, cond=cond)  # type: ignore[no-any-return]
            out: Tensor | None = None
            for start in range(0, total, size):
                end = min(start + size, total)
                part_cond = {key: [value[0][start:end]] if isinstance(value, list) else value[start:end]
                             for key, value in cond.items()}
                with controlnet.rows(scripts, slice(start, end), total):
                    part = base.forward(self, x[start:end], sigma[start:end], cond=part_cond)
                if out is None:
                    out = part.new_empty((total, *part.shape[1:]))
                out[start:end] = part
            assert out is not None
            return out

    denoiser = ImageDenoiser(video.inner_model, quantize=video.quantize)
    denoiser.sigmas = motion.checkpoint_sigmas()
    denoiser.log_sigmas = denoiser.sigmas.log()
    return denoiser
