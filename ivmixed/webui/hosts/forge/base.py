"""The sampler on the Forge family: what its hosts share.

Their denoiser reads ``forge_objects.unet.model_options`` anew on every call, so a model is asked by replacing that
dictionary for the time of the call; nothing is loaded or cloned. The network finds its timestep in a table of its own,
beside the sampler's: ``forge_objects.unet.model.model_sampling``. Read beside ``modules_forge/forge_sampler.py``
(``forge_sample``) and ``ldm_patched/modules/samplers.py`` (``sampling_function``). `forge_previous`, `forge_main`
and `forge_neo`, `reforge` and `classic` say what is other there.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from typing import Any

import torch
from modules_forge import main_thread
from torch import Tensor

from modules import script_callbacks, sd_models
from modules.timer import Timer

from .... import NonFiniteError, OptionError, Options, Plan, Schedule, make_plan
from ....features import DeepFeatures
from ....patch import replaced
from ...builtin import forge
from ...extensions import forge_controlnet
from ...image_model import beside, checkpoints, conds
from ...image_model.beside import ImageModel, loras_of
from ...image_model.conds import Words
from ...page.panel import options_of
from ...sampler import RefusedError, Run, Sampler, refusing
from .motion import Motion, motion_schedule, network_call, note_tables, on_table, put_back_tables

NetworkCall = Callable[[Callable[..., Tensor], dict[str, Any]], Tensor]
"""How the host calls the network, ``call(apply_model, info)``: its ``model_function_wrapper``."""
MANY_STEPS = 1000
"""Enough that a plan without image evaluations has none with fewer steps either."""


class ForgeRun(Run):
    """The models are the same network with other options and another noise table."""

    motion_is_idle = (
        "AnimateDiff's motion module is set up, but this WebUI's UNet never calls it: all frames would be stills. "
        "Switch AnimateDiff off and tick IV-mixed motion, which works here.")
    """Said where a host does not call motion."""

    sampler: ForgeSampler
    motion: Motion | forge.Motion | None

    def __init__(self, sampler: ForgeSampler, motion: Motion | forge.Motion | None):
        super().__init__(sampler, motion)
        if motion is not None:
            self.image_sigmas = sampler.image_sigmas.to(sampler.network_table.sigmas.device)
        self.remembered: dict[str, _Memory] = {}
        """Of each model's latest evaluation, where the plan will need it again."""
        self.features: dict[str, _Features] = {}
        """What the deep layers of the UNet gave in it, where the plan will need that again."""

    def schedules(self) -> tuple[Schedule, Schedule]:
        video = self.sampler.network_table.sigmas
        return Schedule.from_sigmas(video.tolist()), Schedule.from_sigmas(self.image_sigmas.tolist())

    def words_of(self, options: Options) -> Words | None:
        return self.sampler.image_words

    def start(self, plan: Plan, host_callback: Callable[[dict[str, Any]], None]) -> None:
        super().start(plan, host_callback)
        if plan.reuses("features"):
            network = self.sampler.unet.model
            own = network if self.sampler.image_model is None else self.sampler.image_model.unet.model
            self.features = {"video": _Features(network.diffusion_model), "image": _Features(own.diffusion_model)}

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
                self._ask_image_model(unet, stack)
            if self.controlled not in ("both", move.model):
                stack.enter_context(forge_controlnet.switched_off(unet))
                options = forge_controlnet.left_out(options)
            if self.features and move.evaluates:
                options = self._with_features(options)
            if self.reuses:
                options["disable_cfg1_optimization"] = True  # uncond is asked too where guidance is 1 now
            if self.plan.reuses("prediction"):
                self._remember(options, stack)
            stack.enter_context(replaced(unet, "model_options", options))
            yield
        if watching and not self.motion.seen:
            raise RefusedError(self.motion_is_idle)

    def _ask_image_model(self, unet: Any, stack: ExitStack) -> None:
        image = self.sampler.image_model
        if image is not None:
            stack.enter_context(image.acting(unet))
            stack.enter_context(self.motion.around(unet.model))
        stack.enter_context(on_table(self.sampler.network_table, self.image_sigmas))

    def _with_features(self, options: dict[str, Any]) -> dict[str, Any]:
        move, features = self.move, self.features[self.move.model]
        if not move.reuse:
            return {**options, "model_function_wrapper": features.recorder(network_call(options))}
        shallow = self.motion.outermost(options, features.last) if move.model == "video" else options
        return {**shallow, "model_function_wrapper": features.replayer(network_call(shallow), network_call(options))}

    def _remember(self, options: dict[str, Any], stack: ExitStack) -> None:
        move = self.move
        if not move.evaluates:
            options["model_function_wrapper"] = self.remembered[move.model].answers()
            stack.enter_context(forge_controlnet.switched_off(self.sampler.unet))  # the answer has it in
        else:
            memory = self.remembered[move.model] = _Memory()
            options["model_function_wrapper"] = memory.recorder(network_call(options))


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
    """The image model's own."""
    image_model: ImageModel | None = None
    """The image model, where it is not the loaded checkpoint."""
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

    @staticmethod
    def load_checkpoint(info: Any) -> Any:
        """A checkpoint of the host's list, loaded as the host does it, and not chosen."""
        timer = Timer()
        state = dict(sd_models.get_checkpoint_state_dict(info, timer))  # the host may keep it, and the loader takes out
        forge_loader = import_module("modules_forge.forge_loader")
        return forge_loader.load_model_for_a1111(timer, info, state)

    @staticmethod
    def moved_models() -> list[Any]:
        """The memory manager's list of what it has moved."""
        return import_module("ldm_patched.modules.model_management").current_loaded_models  # type: ignore[no-any-return]

    @classmethod
    def finished(cls, p: Any) -> None:
        beside.forget(p, cls.moved_models())

    @classmethod
    def failed(cls, p: Any) -> None:
        put_back_tables(p)
        super().failed(p)

    @classmethod
    def prepare(cls, p: Any) -> None:
        note_tables(p, cls.table_of(p.sd_model.forge_objects.unet))

    def run_of_clip(self, frames: int) -> Run:
        return self.run_type(self, self.motion_of_clip(self.p, frames))

    def motion_of_clip(self, p: Any, frames: int) -> Motion | forge.Motion | None:
        """The motion for a latent of ``frames`` frames; None where the UNet has none, or the latent is no clip."""
        return forge.Motion.of_clip(p, frames) or Motion.of_clip(p, self.unet, frames)

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
        with ExitStack() as stack:
            stack.enter_context(refusing())
            stack.enter_context(self.put_back_after_errors(p))
            motion = self.motion_of_clip(p, frames)
            if motion is not None:
                self._tell_image_model(p, motion)
                if isinstance(motion, forge.Motion):
                    self.image_sigmas = motion.checkpoint_sigmas
                else:
                    stack.enter_context(self.video_table())
                if self.image_model is not None:
                    self.image_sigmas = self.table_of(self.image_model.unet).sigmas
                    stack.enter_context(self.image_model.beside(self.unet))
            yield

    def _tell_image_model(self, p: Any, motion: Motion | forge.Motion) -> None:
        """Loads the image model, where it is another, and encodes its words: before there is room for UNets alone."""
        try:
            options = options_of(p)
            prompt, loras = conds.without_networks(options)
            checkpoint = checkpoints.chosen(options)
        except OptionError:
            return  # refused later, before the first evaluation
        negative = options.image_negative_prompt
        if checkpoint is None and not loras:
            self.image_words = conds.own(p, prompt, negative)
        elif make_plan(options, range(MANY_STEPS, -1, -1)).count("image"):
            info = checkpoint or p.sd_model.sd_checkpoint_info
            image = self.image_model = ImageModel.of_request(p, info, self.load_checkpoint)
            with image.chosen(p):
                image.patch(options, loras_of(p), loras)
                given = conds.encoded(p, prompt, negative)
            self.image_words = Words(given, None if prompt else motion.travelled)

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

    def recorder(self, ask: NetworkCall) -> NetworkCall:
        """In the place of ``ask``, the host's way to call the network."""
        def call(apply_model: Callable[..., Tensor], info: dict[str, Any]) -> Tensor:
            out = ask(apply_model, info)
            for mark, rows in zip(info["cond_or_uncond"], out.chunk(len(info["cond_or_uncond"]))):
                self.rows.setdefault(mark, []).append(rows.clone())
            return out
        return call

    def answers(self) -> NetworkCall:
        """The same, from memory."""
        left = {mark: iter(rows) for mark, rows in self.rows.items()}
        return lambda apply_model, info: torch.cat([next(left[mark]) for mark in info["cond_or_uncond"]])


class _Features:
    """Deep features of a network, call by call, as the host may batch cond and uncond otherwise the next time."""

    def __init__(self, network: Any):
        inner = (*network.input_blocks[1:], network.middle_block, *network.output_blocks[:-1])
        self.layers = [layer for block in inner for layer in block]
        """Without the first and the last block. Some hosts call a block's layers and not the block."""
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

    def replayer(self, ask: NetworkCall, ask_whole: NetworkCall) -> NetworkCall:
        """The same with the features that were kept; where they are not of these rows the network runs whole."""
        left = iter(self.calls)

        def call(apply_model: Callable[..., Tensor], info: dict[str, Any]) -> Tensor:
            marks, features = next(left, ([], None))
            if features is None or marks != list(info["cond_or_uncond"]):
                return ask_whole(apply_model, info)
            c = info["c"]
            if c.get("control") is not None:
                c = {**c, "control": forge_controlnet.outermost(c["control"])}
            with features.replayed():
                return ask(apply_model, {**info, "c": c})
        return call
