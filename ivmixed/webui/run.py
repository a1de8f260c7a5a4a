"""A plan run on the host's denoiser, move by move: what every host does alike, and what each does in its own way.

Read beside a host's ``modules/sd_samplers_cfg_denoiser.py`` (``CFGDenoiser.forward``). Both models are that one
denoiser: the video model as the clip's motion left it, the image model with motion out of the way and the checkpoint's
own noise table. How a host does these two is its `Strategy`, in the host's own file.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from modules import sd_samplers_cfg_denoiser, sd_samplers_common, shared

from .. import Move, Plan, Schedule
from ..patch import Overlay, replaced
from . import log
from .image_model.conds import ImageConds
from .motion import ClipMotion
from .options import WebUIOptions

if TYPE_CHECKING:
    from .sampler import Sampler


class Strategy(Protocol):
    """How one host's denoiser is asked as the video or as the image model, while one latent is sampled."""

    motion: ClipMotion | None
    """None: the latent is no clip, and all moves are ordinary ones of the host's model."""
    both_at_once: bool
    """Whether every evaluation of the video model needs the negative prompt, and of one length with the prompt."""
    image_conds: ImageConds | None
    """The image model's own, once `begin` was called."""

    def schedules(self) -> tuple[Schedule, Schedule]:
        """The noise tables of the video and the image model; asked for only where there is motion."""

    def check(self, options: WebUIOptions) -> None:
        """Raises OptionError for what a clip cannot have on this host."""

    def begin(self, options: WebUIOptions, plan: Plan, frames: int) -> None:
        """Before the first evaluation of ``plan``, for a latent of ``frames`` frames. Raises OptionError."""

    def model_of(self, move: Move) -> AbstractContextManager[None]:
        """Within the block, which is one evaluation, the host's denoiser is the move's model, or what that predicted.
        """

    def settings(self, move: Move, needs_uncond: bool) -> dict[str, Any]:
        """The host's settings that are others during an evaluation, by name: those that leave the negative prompt out
        where it is needed, and what else this host needs."""

    def dropping(self) -> list[str]:
        """The user's settings that would leave the negative prompt out of evaluations which need it, see `dropping`."""

    def free_vram(self) -> bool:
        """Where an evaluation ran out of memory: whether there is more now, so that it may be tried again."""


def dropping(ngms: float) -> list[str]:
    """The user's settings that leave the negative prompt out: of the hosts that have such.

    ``ngms``: the noise level below which the host may do that.
    """
    return [name for name, value in (
        ("'Negative Guidance minimum sigma' (NGMS)", ngms),
        ("'Ignore negative prompt during early sampling'", shared.opts.skip_early_cond)) if value]


class Run:
    """The evaluations of a plan, which move is due, and what the host shows of it.

    Each evaluation changes the host for its own time only. ``host_callback`` is the host's for a step.
    """

    def __init__(self, sampler: Sampler, strategy: Strategy, plan: Plan,
                 host_callback: Callable[[dict[str, Any]], None]):
        self.sampler, self.strategy, self.plan, self.host_callback = sampler, strategy, plan, host_callback
        self.move = plan.moves[0]
        """The move that is due."""
        self.done = 0
        """Evaluations that were made."""
        self.reuses = plan.reuses("prediction") or plan.reuses("features")
        self._store_latent = sd_samplers_common.store_latent
        self._begin = sd_samplers_cfg_denoiser.cfg_denoiser_callback
        self._announce()

    def on_move(self, move: Move) -> None:
        self.move = move

    def evaluate(self, x: Tensor, sigma: Tensor, **args: Any) -> Tensor:
        """The denoised latent of the move that is due; k-diffusion's denoiser signature."""
        move, last_latent = self.move, self.sampler.last_latent
        if self._needs_uncond():
            args["s_min_uncond"] = 0
        for last in (False, True):
            try:
                denoised = self._ask(x, sigma, args)
                break
            except torch.cuda.OutOfMemoryError:
                if last or not self.strategy.free_vram():
                    raise
        resized = x.shape != last_latent.shape
        if move.kind == "back" or (move.kind == "go" and move.step > 0) or resized:
            # an interrupt leaves the last ordinary prediction; before the first, that of a go move, not the noise
            self.sampler.last_latent = last_latent
        if move.evaluates:
            self._count()
        return denoised

    def callback(self, data: dict[str, Any]) -> None:
        """k-diffusion's, after an ordinary evaluation."""
        self.host_callback(data)
        shared.state.sampling_step = self.done

    def _ask(self, x: Tensor, sigma: Tensor, args: dict[str, Any]) -> Tensor:
        denoiser = self.sampler.model_wrap_cfg
        denoiser.step = self.move.step
        begin, conds = self._begin, self.strategy.image_conds
        if self.move.model == "image" and conds is not None:
            begin = conds.wrap_callback(begin, args)
            args = {**args, **conds.args}
        with ExitStack() as stack:
            stack.enter_context(replaced(sd_samplers_cfg_denoiser, "cfg_denoiser_callback", begin))
            for target, name, value in self._changes():
                stack.enter_context(replaced(target, name, value))
            stack.enter_context(self.strategy.model_of(self.move))
            return denoiser(x, sigma, **args)  # type: ignore[no-any-return]

    def _changes(self) -> Iterator[tuple[Any, str, Any]]:
        """What is other in the host during this evaluation: (object, attribute, value)."""
        # extensions time themselves by the step they are told (ControlNet's start and end), the progress bar by ours;
        # the host tells the step before, since its callback comes after the evaluation
        state = Overlay(shared.state, sampling_step=max(self.move.step - 1, 0), sampling_steps=self.plan.steps)
        opts = Overlay(shared.opts, **self.strategy.settings(self.move, self._needs_uncond()))
        seen = {"state": state, "opts": opts, "shared": Overlay(shared, state=state, opts=opts)}
        for name, value in seen.items():
            if hasattr(sd_samplers_cfg_denoiser, name):  # each host's file imports others of them
                yield sd_samplers_cfg_denoiser, name, value
        yield sd_samplers_common, "store_latent", self._preview

    def _needs_uncond(self) -> bool:
        """Guidance needs uncond, now or later, or the motion does."""
        if self.strategy.motion is None:
            return False
        return (self.reuses or self.move.kind != "ordinary"
                or (self.strategy.both_at_once and self.move.model == "video"))

    def _announce(self) -> None:
        """The host's progress counts evaluations; the total in the console too."""
        state, bar = shared.state, shared.total_tqdm
        state.sampling_steps = self.plan.evaluations
        if getattr(self.sampler.p, "enable_hr", False) and bar._tqdm is not None:
            bar.updateTotal(bar._tqdm.total + self.plan.evaluations - self.plan.steps)
        needs = self.strategy.motion is not None and (self.plan.active_steps or self._needs_uncond())
        if needs and (settings := self.strategy.dropping()):
            held_off = ("held off: the extra moves and AnimateDiff need the negative prompt"
                        if self.strategy.both_at_once else
                        "held off in the extra moves: they need the negative prompt")
            log.info(f"{' and '.join(settings)} {held_off}")

    def _count(self) -> None:
        self.done += 1
        shared.state.sampling_step = self.done
        if self.move.kind != "ordinary":
            shared.state.current_image_sampling_step += 1  # "a preview every n steps" means outer steps
            shared.total_tqdm.update()  # the host's callback does it for the ordinary move

    def _preview(self, latent: Tensor) -> None:
        """The live preview: of ordinary moves only, timed by outer steps."""
        if self.move.kind == "ordinary":
            with replaced(shared.state, "sampling_step", self.move.step):
                self._store_latent(latent)
