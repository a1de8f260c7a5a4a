"""The Forge family: what its hosts share.

Their denoiser reads ``forge_objects.unet.model_options`` anew on every call, so a model is asked by replacing that
dictionary for the time of the call; nothing is loaded or cloned. The network finds its timestep in a table of its own,
beside the sampler's: ``forge_objects.unet.model.model_sampling``. Read beside ``modules_forge/forge_sampler.py``
(``forge_sample``) and ``ldm_patched/modules/samplers.py`` (``sampling_function``). `previous`, `main` and `neo`,
`reforge` and `classic` say what is other there.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from modules_forge import main_thread
from torch import Tensor

from modules import sd_models
from modules.timer import Timer

from .... import Move, NonFiniteError, OptionError, Plan, Schedule, make_plan
from ....clips.encode import Frames
from ....features import DeepFeatures, deep_blocks
from ....motion import Motion
from ....neighbours import attending
from ....patch import replaced
from ....predictions import Predictions
from ... import request
from ...builtin import forge as builtin
from ...builtin.generation import BuiltinClip
from ...errors import RefusedError
from ...extensions import animatediff, forge_animatediff, forge_controlnet
from ...image_model import checkpoints, conds, loaded
from ...image_model.conds import ImageConds
from ...image_model.loaded import LoadedImageModel
from ...motion import ClipMotion
from ...options import WebUIOptions
from ...page.panel import options_of
from ...run import dropping
from ...sampler import Sampler
from .patcher import NetworkCall, network_call, on_table

T = TypeVar("T")

MANY_STEPS = 1000
"""Enough that a plan without image evaluations has none with fewer steps either."""


class ForgeHost:
    """What all of the family do; each host says what it does otherwise."""

    animatediff_acts = False
    puts_video_table = False
    """Whether the host itself puts AnimateDiff's noise table in the place of the checkpoint's. Most note the wish for
    it and do not read that."""
    hires_cfg_wins = False
    """Whether its denoiser takes the hires pass's own CFG scale instead of the one that it is called with."""
    drops_uncond = True
    """Whether its denoiser knows settings that leave the negative prompt out."""
    early_cond_off = 0
    """The setting ``skip_early_cond`` with which the negative prompt is never left out."""
    motion_is_idle = (
        "AnimateDiff's motion module is set up, but this WebUI's UNet never calls it: all frames would be stills. "
        "Switch AnimateDiff off and tick IV-mixed motion, which works here.")
    """Said where a host does not call motion."""

    # its own ----------------------------------------------------------------------------------------------------------

    def table_of(self, unet: Any) -> Any:
        """Where a network finds the timestep of a noise level: ``sigmas`` and ``log_sigmas``, one a timestep."""
        return unet.model.model_sampling

    def checkpoint_sigmas(self, unet: Any) -> Tensor:
        """The noise levels of the checkpoint's own table, one a timestep, before the sampler puts in another."""
        return self.table_of(unet).sigmas  # type: ignore[no-any-return]

    def step_table(self, sampler: Sampler, sigmas: Tensor) -> AbstractContextManager[None]:
        """Within the block the host makes its steps on this table."""
        return on_table(sampler.model_wrap, sigmas)

    def load_checkpoint(self, info: Any) -> Any:
        """A checkpoint of the host's list, loaded as the host does it, and not chosen."""
        from modules_forge import forge_loader
        timer = Timer()
        state = dict(sd_models.get_checkpoint_state_dict(info, timer))  # the host may keep it, and the loader takes out
        return forge_loader.load_model_for_a1111(timer, info, state)

    def moved_models(self) -> list[Any]:
        """The memory manager's list of what it has moved."""
        from ldm_patched.modules import model_management
        return model_management.current_loaded_models  # type: ignore[no-any-return]

    def ngms(self, sampler: Sampler) -> float:
        """The noise level below which the host may leave the negative prompt out."""
        return sampler.s_min_uncond  # type: ignore[no-any-return]

    # what is asked of every host --------------------------------------------------------------------------------------

    def installed(self) -> AbstractContextManager[None]:
        return replaced(main_thread.Task, "work", _report_refusals(main_thread.Task.work))

    def prepare(self, p: Any) -> None:
        """Notes the noise tables: these hosts change them around ``p.sample``."""
        table = self.table_of(p.sd_model.forge_objects.unet)
        places = [(table, "sigmas"), (table, "log_sigmas"), (p.sd_model, "alphas_cumprod")]
        request.of(p).noise_tables = [(*place, getattr(*place)) for place in places if hasattr(*place)]

    def finished(self, p: Any) -> None:
        loaded.forget(p, self.moved_models())

    def failed(self, p: Any) -> None:
        for target, name, table in request.of(p).noise_tables:
            setattr(target, name, table.to(getattr(target, name).device))  # on the device where it is now
        self.finished(p)

    @contextmanager
    def strategy(self, sampler: Sampler, p: Any, motion: ClipMotion | None) -> Iterator[ForgeStrategy]:
        strategy = ForgeStrategy(self, sampler, p, motion)
        with ExitStack() as stack:
            if motion is not None:
                strategy.load_image_model()
                if (video := motion.missing_sigmas) is not None:
                    video = video.to(strategy.table.sigmas)
                    stack.enter_context(on_table(strategy.table, video))
                    stack.enter_context(self.step_table(sampler, video))
                if strategy.image_model is not None:
                    stack.enter_context(strategy.image_model.loaded_with(strategy.unet))
            yield strategy

    def attached(self, clip: BuiltinClip) -> AbstractContextManager[Motion]:
        return builtin.attached(clip, self.table_of(builtin.unet_of(clip)))

    def builtin_motion(self, sampler: Sampler, clip: BuiltinClip) -> ClipMotion:
        return builtin.ForgeBuiltinMotion(clip)

    def fed_controlnet(self, p: Any, frames: Sequence[Frames]) -> AbstractContextManager[Callable[[], None]]:
        return forge_controlnet.fed(p, frames)

    def animatediff_motion(self, sampler: Sampler, p: Any, frames: int) -> ClipMotion | None:
        unet = unet_of(sampler)
        if not forge_animatediff.is_in(unet):
            animatediff.refuse_stills(p)
            return None
        return None if frames < 2 else forge_animatediff.ForgeAnimateDiffMotion(
            unet, self.checkpoint_sigmas(unet), self.puts_video_table, self.motion_is_idle)

    def tab_title(self, name: str) -> str:
        return name

    def in_generation_thread(self, function: Callable[[], T]) -> T:
        result: list[T] = []
        raised: list[BaseException] = []

        def work() -> None:
            try:
                result.append(function())
            except BaseException as error:  # the host would only print it, or lose its thread
                raised.append(error)

        main_thread.run_and_wait_result(work)
        if raised:
            raise raised[0]
        return result[0]


def unet_of(sampler: Sampler) -> Any:
    """The host's patcher of the UNet for a sampling: motion comes in after the sampler is made."""
    return sampler.model_wrap_cfg.inner_model.inner_model.forge_objects.unet


class ForgeStrategy:
    """The models are the same network with other options and another noise table."""

    plan: Plan
    frames: int
    """Of the latent."""
    both_at_once = False
    controlled = "both"
    """The model that ControlNet acts on."""

    def __init__(self, host: ForgeHost, sampler: Sampler, p: Any, motion: ClipMotion | None):
        self.host, self.sampler, self.p, self.motion = host, sampler, p, motion
        self.unet = unet_of(sampler)
        self.table = host.table_of(self.unet)
        """Where the network finds its timestep."""
        self.image_conds: ImageConds | None = None
        self.image_model: LoadedImageModel | None = None
        """The image model, where it is not the loaded checkpoint."""
        if motion is not None:
            self.image_sigmas = motion.checkpoint_sigmas()
        self.predictions: dict[str, Predictions] = {}
        """Of each model's latest evaluation, where the plan will need them again."""
        self.features: dict[str, _Features] = {}
        """What the deep layers of the UNet gave in it, where the plan will need that again."""

    def load_image_model(self) -> None:
        """Loads the image model, where it is another, and encodes its prompts: before there is room for UNets alone."""
        p, motion = self.p, self.motion
        assert motion is not None
        try:
            options = options_of(p)
            prompt, loras = conds.without_networks(options)
            checkpoint = checkpoints.chosen(options)
            other = checkpoint is not None or loras
            # without smoothing, which may be refused of these levels and not of the clip's
            asked = other and make_plan(replace(options, finish_smoothing=0), range(MANY_STEPS, -1, -1)).count("image")
        except OptionError:
            return  # refused later, before the first evaluation
        negative = options.image_negative_prompt
        if not other:
            self.image_conds = conds.own(p, prompt, negative)
        elif asked:
            info = checkpoint or p.sd_model.sd_checkpoint_info
            image = self.image_model = LoadedImageModel.of_request(p, info, self.host.load_checkpoint)
            with image.chosen(p):
                image.patch(options, loaded.loras_of(p), loras)
                args = conds.encoded(p, prompt, negative)
            self.image_conds = ImageConds(args, None if prompt else motion.blended)
            self.image_sigmas = self.host.table_of(image.unet).sigmas

    def schedules(self) -> tuple[Schedule, Schedule]:
        return Schedule.from_sigmas(self.table.sigmas.tolist()), Schedule.from_sigmas(self.image_sigmas.tolist())

    def check(self, options: WebUIOptions) -> None:
        """Nothing more than on any host."""

    def begin(self, options: WebUIOptions, plan: Plan, frames: int) -> None:
        self.plan, self.frames, self.controlled = plan, frames, options.controlnet
        if plan.reuses("features"):
            self.features = {model: _Features(self._network(model)) for model in ("video", "image")}

    def _network(self, model: str) -> Any:
        """The UNet of one of the models."""
        own = self.image_model if model == "image" else None
        return (own or self).unet.model.diffusion_model

    def settings(self, move: Move, needs_uncond: bool) -> dict[str, Any]:
        # some hosts read NGMS from the settings instead of the sampler's argument
        return {"s_min_uncond": 0, "skip_early_cond": self.host.early_cond_off} if needs_uncond else {}

    def dropping(self) -> list[str]:
        return dropping(self.host.ngms(self.sampler)) if self.host.drops_uncond else []

    def free_vram(self) -> bool:
        return False  # the host's memory manager sees to it

    @contextmanager
    def model_of(self, move: Move) -> Iterator[None]:
        motion, unet = self.motion, self.unet
        if motion is None:
            yield
            return
        with ExitStack() as stack:
            if move.guidance is not None and self.p.is_hr_pass and self.host.hires_cfg_wins:
                stack.enter_context(replaced(self.p, "hr_cfg", move.guidance))
            if move.model == "image":
                stack.enter_context(motion.left_out())
                self._swap_in_image_model(motion, stack)
                if move.evaluates:
                    stack.enter_context(attending(self._network("image"), self.plan.image_attention, self.frames))
            elif move.evaluates:
                stack.enter_context(motion.watched())
            options = {**unet.model_options}
            if self.controlled not in ("both", move.model):
                stack.enter_context(forge_controlnet.switched_off(unet))
                options = forge_controlnet.left_out(options)
            if self.features and move.evaluates:
                options["model_function_wrapper"] = self._with_features(move, network_call(options))
            if self.plan.reuses("prediction") or self.plan.reuses("features"):
                options["disable_cfg1_optimization"] = True  # uncond is asked too where guidance is 1 now
            if not move.evaluates:
                options["model_function_wrapper"] = _recall(self.predictions[move.model])
                stack.enter_context(forge_controlnet.switched_off(unet))  # the prediction has it in
            elif self.plan.reuses("prediction"):
                kept = self.predictions[move.model] = Predictions()
                options["model_function_wrapper"] = _keep(kept, network_call(options))
            stack.enter_context(replaced(unet, "model_options", options))
            yield

    def _swap_in_image_model(self, motion: ClipMotion, stack: ExitStack) -> None:
        if self.image_model is not None:
            stack.enter_context(self.image_model.swapped_in(self.unet))
            stack.enter_context(motion.around(self.unet.model))
        stack.enter_context(on_table(self.table, self.image_sigmas.to(self.table.sigmas.device)))

    def _with_features(self, move: Move, ask: NetworkCall) -> NetworkCall:
        features = self.features[move.model]
        if not move.reuse:
            return features.recorder(ask)
        return features.replayer(ask, self.motion if move.model == "video" else None)


def _keep(predictions: Predictions, ask: NetworkCall) -> NetworkCall:
    """``ask``, whose answers are kept."""
    def call(apply_model: Callable[..., Tensor], info: dict[str, Any]) -> Tensor:
        out, marks = ask(apply_model, info), info["cond_or_uncond"]
        for mark, rows in zip(marks, out.chunk(len(marks))):
            predictions.keep(mark, rows)
        return out
    return call


def _recall(predictions: Predictions) -> NetworkCall:
    """What was kept, for one evaluation."""
    take = predictions.again()

    def call(apply_model: Callable[..., Tensor], info: dict[str, Any]) -> Tensor:
        marks = info["cond_or_uncond"]
        return torch.cat([take(mark, len(info["input"]) // len(marks)) for mark in marks])
    return call


class _Features:
    """Deep features of a network, call by call, as the host may batch cond and uncond otherwise the next time."""

    def __init__(self, network: Any):
        self.layers = [layer for block in deep_blocks(network) for layer in block]
        """Some hosts call a block's layers and not the block."""
        self.last = len(network.output_blocks) - 1
        """The number of the last output block."""
        self.calls: list[tuple[list[int], DeepFeatures]] = []
        """Of the latest evaluation: the host's marks for cond (0) and uncond (1), and what was kept."""

    def recorder(self, ask: NetworkCall) -> NetworkCall:
        """In the place of ``ask``, the host's way to call the network."""
        self.calls = []

        def call(apply_model: Callable[..., Tensor], info: dict[str, Any]) -> Tensor:
            features = DeepFeatures(self.layers)
            self.calls.append((list(info["cond_or_uncond"]), features))
            with features.recorded():
                return ask(apply_model, info)
        return call

    def replayer(self, ask: NetworkCall, motion: ClipMotion | None) -> NetworkCall:
        """The same with the features that were kept; where they are not of these rows the network runs whole.

        ``motion``: what acts behind the layers of the network.
        """
        left = iter(self.calls)

        def call(apply_model: Callable[..., Tensor], info: dict[str, Any]) -> Tensor:
            marks, features = next(left, ([], None))
            if features is None or marks != list(info["cond_or_uncond"]):
                return ask(apply_model, info)
            c = dict(info["c"])
            if c.get("control") is not None:
                c["control"] = forge_controlnet.outermost(c["control"])
            if motion is not None:
                c["transformer_options"] = motion.outermost(c["transformer_options"], self.last)
            with features.replayed():
                return ask(apply_model, {**info, "c": c})
        return call


def _report_refusals(work: Callable[[Any], None]) -> Callable[[Any], None]:
    """``main_thread.Task.work``, after which the page learns why the sampler stopped.

    Three of the hosts print what a generation of the page raises, and the page complains of an answer that is no list.
    """
    def call(task: Any) -> None:
        try:
            work(task)
        except (RefusedError, NonFiniteError) as error:
            task.result = _Raising(error)
    return call


class _Raising:
    """An answer that raises the error where the page unpacks it, which then shows it as any other."""

    def __init__(self, error: Exception):
        self.error = error

    def __iter__(self) -> Iterator[Any]:
        raise self.error
