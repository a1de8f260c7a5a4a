"""The sampler on the host's denoiser: registration, and a plan run evaluation by evaluation. What every host does.

Read beside a host's ``modules/sd_samplers_kdiffusion.py`` (``KDiffusionSampler``) and
``modules/sd_samplers_cfg_denoiser.py`` (``CFGDenoiser.forward``). Both models are that one denoiser: the video model as
AnimateDiff left it, the image model with motion out of the way and the checkpoint's own noise table. How a host does
these two is in its own file: `a1111`, and `forge` with those that build on it.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from fastapi import HTTPException
from torch import Tensor

from modules import sd_samplers, sd_samplers_cfg_denoiser, sd_samplers_common, shared
from modules.sd_samplers_kdiffusion import KDiffusionSampler

from .. import ConflictError, Move, OptionError, Options, Plan, Schedule, make_plan, sample_iv_mixed
from ..motion import MotionError, TravelError
from ..patch import Overlay, replaced
from . import NAME, SAMPLERS, log, timing
from .image_model import checkpoints, conds
from .image_model.conds import Words
from .page.panel import options_of

NO_MOTION = "off - no motion module in the UNet"
HIRES, IGNORED = f"{NAME} hires", f"{NAME} ignored"
"""Keys of the infotext, beside `NAME`: the second pass, and what of the request has no effect."""


class RefusedError(HTTPException):
    """Wrong input, refused: status 422 with the message, from the API and in the page."""

    def __init__(self, message: str):
        super().__init__(status_code=422, detail=message)

    def __str__(self) -> str:
        return self.detail


@contextmanager
def refusing() -> Iterator[None]:
    """Within the block wrong input is refused: whatever of ours says so becomes RefusedError."""
    try:
        yield
    except (OptionError, MotionError, TravelError) as error:
        raise RefusedError(str(error)) from None


def register(sampler: type[Sampler]) -> None:
    """Puts the samplers where the dropdowns and the API look. Any number of times: they replace themselves."""
    # other modules hold this very list, and "Reload UI" runs the scripts again while it stays
    sd_samplers.all_samplers[:] = [x for x in sd_samplers.all_samplers if x.name not in SAMPLERS]
    for name, solver in SAMPLERS.items():
        # the host's own sampler of this step says which schedule "Automatic" is, and that it has Brownian noise
        own = sd_samplers.all_samplers_map.get(name.removeprefix(f"{NAME} "))
        kind = type(sampler.__name__, (sampler,), {"solver": solver})
        aliases = ["iv_mixed", "ivmixed"] if name == NAME else [f"iv_mixed_{solver}"]
        options = {} if own is None or name == NAME else dict(own.options)
        data = sd_samplers_common.SamplerData(name, kind, aliases, options)
        sd_samplers.all_samplers.append(data)
        sd_samplers.all_samplers_map[name] = data
    sd_samplers.set_samplers()
    if hasattr(sd_samplers, "get_sampler_and_scheduler"):
        sd_samplers.get_sampler_and_scheduler.cache_clear()  # it remembers a miss
    sampler.registered()


def prepare(p: Any) -> None:
    """Called before the host changes anything for a request with our sampler or our motion; the checkpoint is loaded.

    Forge main loads it only after the hooks ``before_process``, and other hosts may load another then.
    """
    kind = sd_samplers.all_samplers_map[NAME].constructor
    kind.prepare(p)
    # a script may ask with one request many times
    sample, close = (getattr(method, "unguarded", method) for method in (p.sample, p.close))
    p.iv_mixed_finished = False

    def guarded_sample(*args: Any, **kwargs: Any) -> Any:
        with kind.put_back_after_errors(p):
            return sample(*args, **kwargs)

    def guarded_close() -> None:
        if not p.iv_mixed_finished:  # an error after the sampling, in the decoder say
            kind.failed(p)
        close()
    guarded_sample.unguarded, guarded_close.unguarded = sample, close  # type: ignore[attr-defined]
    p.sample, p.close = guarded_sample, guarded_close


def finished(p: Any) -> None:
    """Called at the end of any request; not after an error."""
    p.iv_mixed_finished = True
    sd_samplers.all_samplers_map[NAME].constructor.finished(p)


def failed(p: Any) -> None:
    """Called where a request stops before its sampling, after extensions have changed the host for it."""
    sd_samplers.all_samplers_map[NAME].constructor.failed(p)


class Sampler(KDiffusionSampler):
    """What the host makes for a generation with this sampler; schedules, hires, img2img are the host's own."""

    solver = "euler"
    """How the ordinary step is taken."""

    def __init__(self, sd_model: Any):
        super().__init__(self._sample, sd_model)

    @classmethod
    def registered(cls) -> None:
        """Called when the host has the sampler: for what else it needs until the scripts are unloaded."""

    @classmethod
    def prepare(cls, p: Any) -> None:
        """What a host needs of `prepare`."""

    @classmethod
    def finished(cls, p: Any) -> None:
        """What a host needs of `finished`."""

    @classmethod
    def failed(cls, p: Any) -> None:
        """Puts back what a request leaves in the host where it is not finished."""
        cls.finished(p)

    @classmethod
    @contextmanager
    def put_back_after_errors(cls, p: Any) -> Iterator[None]:
        """After an error within the block, of whatever kind, the host is as before the request: hosts and extensions
        only think of success."""
        try:
            yield
        except BaseException:
            cls.failed(p)
            raise

    def sample(self, p: Any, *args: Any, **kwargs: Any) -> Tensor:
        with self.put_back_after_errors(p):  # where our script does not run, in ADetailer's own pass say
            return super().sample(p, *args, **kwargs)

    def sample_img2img(self, p: Any, *args: Any, **kwargs: Any) -> Tensor:
        with self.put_back_after_errors(p):
            return super().sample_img2img(p, *args, **kwargs)

    def run_of_clip(self, frames: int) -> Run:
        """The run of a latent of ``frames`` frames on this host."""
        raise NotImplementedError

    def _plan(self, options: Options, sigmas: Tensor, schedules: tuple[Schedule, ...]) -> Plan:
        try:
            return make_plan(options, sigmas.tolist(), *schedules, solver=self.solver)
        except OptionError:
            raise
        except ValueError as error:  # the host has schedules whose levels rise again, reForge's "Karras Dynamic" say
            raise RefusedError(f"{NAME}: this schedule type does not suit it, choose another: {error}") from None

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
        with refusing():
            run = self.run_of_clip(x.shape[0])
            options = options_of(self.p)
            if run.motion is None:
                options, schedules = options.plain(), ()
            else:
                run.check(options, x.shape[0])
                schedules = run.schedules()
            plan = self._plan(options, sigmas, schedules)
            plan.check_size(*x.shape[-2:])
            self.p.iv_mixed_asks_video = plan.count("video") > 0
            if plan.count("image"):
                run.words = run.words_of(options)
        said = NO_MOTION if run.motion is None else f"{plan.evaluations} evaluations"
        self._note(said)
        log.info(said if run.motion is None else plan.describe())
        if ignored := self.p.extra_generation_params.get(IGNORED):
            log.info(f"{ignored} ignored: the steps of {NAME} add no noise by these settings")

        run.start(plan, callback)
        started = time.monotonic()
        try:
            clip = sample_iv_mixed(
                run.evaluate, x, sigmas, extra_args, run.callback, disable, plan=plan, on_move=run.on_move,
                noise_sampler=lambda *levels: self.p.rng.next(),  # a generator for each row: batches and devices agree
                step_noise_sampler=noise_sampler)
        except sd_samplers_common.InterruptedException:
            if run.motion is not None:
                how = "skipped" if shared.state.skipped else "interrupted"
                self._note(f"{how} after {run.done} of {plan.evaluations} evaluations")
            raise
        finally:
            run.end()
            seconds = time.monotonic() - started
            self.p.iv_mixed_took = run.done, plan.evaluations, seconds
        if run.motion is not None:
            frames, _, height, width = clip.shape
            timing.note(self.p.sd_model, plan, frames, 8 * width, 8 * height, seconds)
        return clip

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


class Run:
    """A plan's evaluations on the host's denoiser. Each changes the host for its own time only."""

    plan: Plan
    move: Move
    """The move that is due."""
    held_off = "held off in the extra moves: they need the negative prompt"

    def __init__(self, sampler: Sampler, motion: Any):
        self.sampler, self.motion = sampler, motion
        self.words: Words | None = None
        """What the image model is told in the place of the clip's prompts."""
        self.controlled = "both"
        """The model that ControlNet acts on."""
        self.reuses = False
        self.done = 0
        self.host_store_latent = sd_samplers_common.store_latent
        self.host_begin = sd_samplers_cfg_denoiser.cfg_denoiser_callback

    # what a host does in its own way -------------------------------------------------------------------------------

    def schedules(self) -> tuple[Schedule, Schedule]:
        """The noise tables of the video and the image model; asked for only where there is motion."""
        raise NotImplementedError

    def check(self, options: Options, frames: int) -> None:
        """Raises OptionError for what a clip of ``frames`` frames cannot have, here or on this host."""
        if options.image_size is not None and self.sampler.model_wrap_cfg.mask is not None:
            raise ConflictError("image_size", options.image_size, "inpainting", because="the mask has the clip's size",
                                remedy="leave it empty")
        checkpoints.chosen(options)
        conds.without_networks(options)
        if frames > self.motion.context and options.reused == "features" and options.reuse_percent > 50:
            raise ConflictError(
                "reuse_percent", options.reuse_percent, "reused", options.reused,
                because=f"the clip is longer than the context of {self.motion.context} frames, whose windows lie "
                        "elsewhere in every step, so that a step's features serve that step alone",
                remedy="take 50 or less, or reuse predictions")
        self.controlled = options.controlnet

    def words_of(self, options: Options) -> Words | None:
        """The image model's own words; called before the first evaluation, where it will be asked at all."""
        raise NotImplementedError

    def model_of_move(self) -> AbstractContextManager[None]:
        """Within the block the host's denoiser is the model of the move that is due, or its memory."""
        raise NotImplementedError

    def begun(self, host: Callable[[Any], None]) -> Callable[[Any], None]:
        """The host's callback at the start of an evaluation, with what is to be done then for the move that is due."""
        return host

    def make_room(self) -> bool:
        """Called where an evaluation ran out of memory: whether there is more now, so that it may be tried again."""
        return False

    def end(self) -> None:
        """After the last evaluation, also after an error or an interrupt."""

    def needs_uncond(self) -> bool:
        """Guidance needs uncond, now or later."""
        return self.motion is not None and (self.reuses or self.move.kind != "ordinary")

    def settings(self) -> dict[str, Any]:
        """The host's settings that are others during this evaluation."""
        return {"skip_early_cond": 0} if self.needs_uncond() else {}

    def dropping(self) -> list[str]:
        """The user's settings that would leave the negative prompt out of evaluations which need it."""
        return [name for name, value in (
            ("'Negative Guidance minimum sigma' (NGMS)", self.ngms()),
            ("'Ignore negative prompt during early sampling'", shared.opts.skip_early_cond)) if value]

    def ngms(self) -> float:
        """The noise level below which the host may leave the negative prompt out."""
        return self.sampler.s_min_uncond

    # what all do alike ---------------------------------------------------------------------------------------------

    def start(self, plan: Plan, host_callback: Callable[[dict[str, Any]], None]) -> None:
        """Before the first evaluation of ``plan``; ``host_callback`` is the host's for a step."""
        self.plan, self.host_callback = plan, host_callback
        self.move = plan.moves[0]
        self.reuses = plan.reuses("prediction") or plan.reuses("features")
        self._announce()

    def on_move(self, move: Move) -> None:
        self.move = move

    def evaluate(self, x: Tensor, sigma: Tensor, **args: Any) -> Tensor:
        """The denoised latent of the move that is due; k-diffusion's denoiser signature."""
        move, last_latent = self.move, self.sampler.last_latent
        if self.needs_uncond():
            args["s_min_uncond"] = 0
        for last in (False, True):
            try:
                denoised = self._ask(x, sigma, args)
                break
            except torch.cuda.OutOfMemoryError:
                if last or not self.make_room():
                    raise
        resized = x.shape != last_latent.shape
        if move.kind == "back" or (move.kind == "go" and move.step > 0) or resized:
            # an interrupt leaves the last ordinary prediction; before the first, that of a go move, not the noise
            self.sampler.last_latent = last_latent
        if move.evaluates:
            self._count()
        return denoised

    def _ask(self, x: Tensor, sigma: Tensor, args: dict[str, Any]) -> Tensor:
        denoiser = self.sampler.model_wrap_cfg
        denoiser.step = self.move.step
        with ExitStack() as stack:
            begin = self.host_begin
            if self.move.model == "image" and self.words is not None:
                begin = self.words.told(begin, args)
                args = {**args, **self.words.given}
            begin = self.begun(begin)
            stack.enter_context(replaced(sd_samplers_cfg_denoiser, "cfg_denoiser_callback", begin))
            for target, name, value in self.changes():
                stack.enter_context(replaced(target, name, value))
            stack.enter_context(self.model_of_move())
            return denoiser(x, sigma, **args)

    def changes(self) -> Iterator[tuple[Any, str, Any]]:
        """What is other in the host during this evaluation: (object, attribute, value)."""
        # extensions time themselves by the step they are told (ControlNet's start and end), the progress bar by ours;
        # the host tells the step before, since its callback comes after the evaluation
        state = Overlay(shared.state, sampling_step=max(self.move.step - 1, 0), sampling_steps=self.plan.steps)
        opts = Overlay(shared.opts, **self.settings())
        seen = {"state": state, "opts": opts, "shared": Overlay(shared, state=state, opts=opts)}
        for name, value in seen.items():
            if hasattr(sd_samplers_cfg_denoiser, name):  # each host's file imports others of them
                yield sd_samplers_cfg_denoiser, name, value
        yield sd_samplers_common, "store_latent", self._store_latent

    def callback(self, data: dict[str, Any]) -> None:
        self.host_callback(data)
        shared.state.sampling_step = self.done

    def _announce(self) -> None:
        """The host's progress counts evaluations; the total in the console too."""
        state, bar = shared.state, shared.total_tqdm
        state.sampling_steps = self.plan.evaluations
        if getattr(self.sampler.p, "enable_hr", False) and bar._tqdm is not None:
            bar.updateTotal(bar._tqdm.total + self.plan.evaluations - self.plan.steps)
        needs = self.motion is not None and (self.plan.active_steps or self.needs_uncond())
        if needs and (dropping := self.dropping()):
            log.info(f"{' and '.join(dropping)} {self.held_off}")

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
