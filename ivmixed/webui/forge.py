"""The sampler on the Forge family: what its four hosts share.

Their denoiser reads ``forge_objects.unet.model_options`` anew on every call, so a model is asked by replacing that
dictionary for the time of the call; nothing is loaded or cloned. The network finds its timestep in a table of its own,
beside the sampler's: ``forge_objects.unet.model.model_sampling``. Read beside ``modules_forge/forge_sampler.py``
(``forge_sample``) and ``ldm_patched/modules/samplers.py`` (``sampling_function``). `forge_previous`, `forge_main`,
`reforge` and `classic` say what is other there.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from modules_forge import main_thread
from torch import Tensor

from modules import script_callbacks

from .. import NonFiniteError, OptionError, Options, Schedule
from ..patch import replaced
from . import built_in_forge, words
from .forge_motion import Motion, motion_schedule, note_tables, on_table, tables_after_errors
from .panel import options_of
from .sampler import RefusedError, Run, Sampler
from .words import Words


class ForgeRun(Run):
    """The models are the same network with other options and another noise table."""

    held_off = "held off in the extra moves: they need the negative prompt"
    motion_is_idle = (
        "AnimateDiff's motion module is set up, but this WebUI's UNet never calls it: all frames would be stills. "
        "Switch AnimateDiff off and tick IV-mixed motion, which works here.")
    """Said where a host does not call motion."""

    sampler: ForgeSampler
    motion: Motion | built_in_forge.Motion | None

    def __init__(self, sampler: ForgeSampler, motion: Motion | built_in_forge.Motion | None):
        super().__init__(sampler, motion)
        if motion is not None:
            self.image_sigmas = sampler.image_sigmas.to(sampler.network_table.sigmas.device)
        self.remembered: dict[str, _Memory] = {}
        """Of each model's latest evaluation, where the plan will need it again."""

    def schedules(self) -> tuple[Schedule, Schedule]:
        video = self.sampler.network_table.sigmas
        return Schedule.from_sigmas(video.tolist()), Schedule.from_sigmas(self.image_sigmas.tolist())

    def check(self, options: Options, frames: int) -> None:
        super().check(options, frames)
        if options.reused == "features":
            raise OptionError("reused", options.reused, "'prediction' on this WebUI: features are AUTOMATIC1111's only")
        if options.image_checkpoint:
            raise OptionError("image_checkpoint", options.image_checkpoint, "nothing on this WebUI: another checkpoint "
                              "is AUTOMATIC1111's only")
        if options.controlnet != "both":
            raise OptionError("controlnet", options.controlnet, "'both' on this WebUI")
        if words.without_networks(options)[1]:
            raise OptionError("image_prompt", options.image_prompt, "no <lora:...> on this WebUI: LoRAs for the image "
                              "model alone are AUTOMATIC1111's only")

    def words_of(self, options: Options) -> Words | None:
        return self.sampler.image_words

    def settings(self) -> dict[str, Any]:
        # where a host reads NGMS from the settings instead of the sampler's argument
        return {**super().settings(), "s_min_uncond": 0} if self.needs_uncond() else {}

    @contextmanager
    def model_of_move(self) -> Iterator[None]:
        if self.motion is None:
            yield
            return
        unet, move = self.sampler.unet, self.move
        options = {**unet.model_options}
        watching = move.model == "video" and move.evaluates and not self.motion.seen
        if move.model == "image":
            options = self.motion.left_out(options)
        elif watching:
            options = self.motion.watched(options)
        with ExitStack() as stack:
            if move.model == "image":
                stack.enter_context(on_table(self.sampler.network_table, self.image_sigmas))
            if self.reuses:
                options["disable_cfg1_optimization"] = True  # uncond is asked too where guidance is 1 now
                self._remember(options, stack)
            stack.enter_context(replaced(unet, "model_options", options))
            yield
        if watching and not self.motion.seen:
            raise RefusedError(self.motion_is_idle)

    def _remember(self, options: dict[str, Any], stack: ExitStack) -> None:
        wrapper, move = options.get("model_function_wrapper"), self.move
        if not move.evaluates:
            options["model_function_wrapper"] = self.remembered[move.model].answers()
            stack.enter_context(replaced(self.sampler.unet, "controlnet_linked_list", None))  # the answer has it in
        else:
            memory = self.remembered[move.model] = _Memory()
            options["model_function_wrapper"] = memory.recorder(wrapper)


class HiresRun(ForgeRun):
    """Where the denoiser takes the hires pass's own CFG scale instead of the one that it is called with."""

    def changes(self) -> Iterator[tuple[Any, str, Any]]:
        yield from super().changes()
        if self.move.guidance is not None and self.sampler.p.is_hr_pass:
            yield self.sampler.p, "hr_cfg", self.move.guidance


class ForgeSampler(Sampler):
    """The sampler of a generation on the Forge family."""

    image_sigmas: Tensor
    """The noise levels of the checkpoint's own table, one a timestep; while a clip is sampled."""
    image_words: Words | None = None
    """The image model's own, encoded before the host has made room for the UNet alone."""
    run_type = ForgeRun

    @staticmethod
    def table_of(unet: Any) -> torch.nn.Module:
        """Where a network finds the timestep of a noise level: ``sigmas`` and ``log_sigmas``, one a timestep."""
        return unet.model.model_sampling

    @classmethod
    def registered(cls) -> None:
        telling = ExitStack()
        telling.enter_context(replaced(main_thread.Task, "work", _telling(main_thread.Task.work)))
        script_callbacks.on_script_unloaded(telling.close)

    @classmethod
    def prepare(cls, p: Any) -> None:
        note_tables(p, cls.table_of(p.sd_model.forge_objects.unet))

    def run_of_clip(self, frames: int) -> Run:
        return self.run_type(self, self.motion_of_clip(self.p, frames))

    def motion_of_clip(self, p: Any, frames: int) -> Motion | built_in_forge.Motion | None:
        """The motion for a latent of ``frames`` frames; None where the UNet has none, or the latent is no clip."""
        return built_in_forge.Motion.of_clip(p, frames) or Motion.of_clip(self.unet, frames)

    @property
    def unet(self) -> Any:
        """The host's patcher of the UNet as it is now: motion comes in after the sampler is made."""
        return self.model_wrap_cfg.inner_model.inner_model.forge_objects.unet

    @property
    def network_table(self) -> torch.nn.Module:
        return self.table_of(self.unet)

    def sample(self, p: Any, x: Tensor, conditioning: Any, unconditional_conditioning: Any, **kwargs: Any) -> Tensor:
        with self._tables(p, x.shape[0]):
            return super().sample(p, x, conditioning, unconditional_conditioning, **kwargs)

    def sample_img2img(self, p: Any, x: Tensor, noise: Tensor, conditioning: Any, unconditional_conditioning: Any,
                       **kwargs: Any) -> Tensor:
        with self._tables(p, x.shape[0]):
            return super().sample_img2img(p, x, noise, conditioning, unconditional_conditioning, **kwargs)

    @contextmanager
    def _tables(self, p: Any, frames: int) -> Iterator[None]:
        """Within the block the noise tables are those of a latent of ``frames`` frames; after an error, the host's."""
        with tables_after_errors(p):
            motion = self.motion_of_clip(p, frames)
            if motion is not None:
                self.image_words = _words_of(p)
            if motion is None:
                yield
            elif isinstance(motion, built_in_forge.Motion):
                self.image_sigmas = motion.checkpoint_sigmas
                yield
            else:
                with self.video_table():
                    yield

    @contextmanager
    def video_table(self) -> Iterator[None]:
        """Within the block the network and the host's schedule of steps are on the motion module's noise table.

        Most of these hosts note AnimateDiff's wish for another table and do not read it.
        """
        self.image_sigmas = own = self.network_table.sigmas
        video = torch.tensor(motion_schedule().sigmas, dtype=own.dtype, device=own.device)
        with on_table(self.network_table, video), self.step_table(video):
            yield

    def step_table(self, sigmas: Tensor) -> AbstractContextManager[None]:
        """Within the block the host makes its steps on this table."""
        return on_table(self.model_wrap, sigmas)


def _words_of(p: Any) -> Words | None:
    """The image model's own prompts. Wrong options are refused later, before the first evaluation."""
    try:
        options = options_of(p)
        prompt = words.without_networks(options)[0]
    except OptionError:
        return None
    return words.own(p, prompt, options.image_negative_prompt)


def _telling(work: Callable[[Any], None]) -> Callable[[Any], None]:
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


class _Memory:
    """What the network gave for cond and uncond, to be given again, however the host batches them."""

    def __init__(self) -> None:
        self.rows: dict[int, list[Tensor]] = {}
        """By the host's mark for cond (0) and uncond (1): the answers in the order of its calls."""

    def recorder(self, wrapper: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        """In the place of the host's ``model_function_wrapper``, or of the one there."""
        def call(apply_model: Callable[..., Tensor], info: dict[str, Any]) -> Tensor:
            if wrapper is None:
                out = apply_model(info["input"], info["timestep"], **info["c"])
            else:
                out = wrapper(apply_model, info)
            for mark, rows in zip(info["cond_or_uncond"], out.chunk(len(info["cond_or_uncond"]))):
                self.rows.setdefault(mark, []).append(rows.clone())
            return out
        return call

    def answers(self) -> Callable[..., Tensor]:
        """The same, from memory."""
        left = {mark: iter(rows) for mark, rows in self.rows.items()}
        return lambda apply_model, info: torch.cat([next(left[mark]) for mark in info["cond_or_uncond"]])
