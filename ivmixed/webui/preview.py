"""The plan of a run before it is run: no model is asked. For the API, and for the picture in the panel.

The image model's noise table is Stable Diffusion 1.5's; the video model's is AnimateDiff's, or that of another video
model of `VIDEO_TABLES`, which no WebUI runs but `ivmixed.standalone` does.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

from modules import sd_samplers, sd_samplers_common

from ..cost import times_plain
from ..kinds import Choice, Kind, Nested, NotAllowed, Number, Schema, Text, Whole
from ..options import Option, OptionError, Options, OptionSet, declare
from ..plan import Move, Plan, make_plan
from ..schedule import Schedule
from . import NAME, SAMPLERS, timing
from .options import WebUIOptions

IMAGE = Schedule.scaled_linear()
ANIMATEDIFF = "animatediff"
VIDEO_TABLES: Mapping[str, Schedule] = {
    ANIMATEDIFF: Schedule.linear(), "modelscope": Schedule.scaled_linear(), "videocrafter2": Schedule.videocrafter2()}
"""The noise tables of video models, by their names."""
AUTOMATIC = "Automatic"
MOST_STEPS = 1000
CFG_SCALE = Option("cfg_scale", Number(0, 100), 7.0, "", "Of the ordinary steps")
"""The host's setting that the picture asks for besides."""


@dataclass(frozen=True)
class Levels(Kind):
    """Levels of noise that descend, a tuple of floats."""

    noun = "levels of noise"

    def _allowed(self) -> str:
        return f"2 to {MOST_STEPS + 1} levels of noise that descend, to 0 or above"

    def check(self, value: Any) -> tuple[float, ...]:
        numbers = isinstance(value, (list, tuple)) and len(value) <= MOST_STEPS + 1 and all(
            isinstance(sigma, (int, float)) and not isinstance(sigma, bool) for sigma in value)
        if not numbers:
            raise NotAllowed
        return tuple(map(float, value))

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 2, "maxItems": MOST_STEPS + 1}


@dataclass(frozen=True)
class PlanRequest(OptionSet):
    """What a plan may be asked for. Raises OptionError."""

    word = "field"

    steps: int = declare(Whole(1, MOST_STEPS), 25, help="Sampling steps")
    sampler: str = declare(Choice(tuple(SAMPLERS)), NAME, help="One of the samplers of this extension")
    scheduler: str = declare(Text(), AUTOMATIC, help="Schedule type, by the name in the page's list")
    denoising_strength: float | None = declare(Number(0, 1), None, help="Of img2img, which leaves steps out")
    frames: int | None = declare(
        Whole(1, 10_000), None, help="Of the clip; with width and height the time is estimated")
    width: int | None = declare(Whole(8, 8192), None, help="Of the clip, in pixels")
    height: int | None = declare(Whole(8, 8192), None, help="Of the clip, in pixels")
    free_init: int = declare(
        Whole(1, 5), 1, help="How many times the clip is sampled, by the option of built-in motion")
    video_table: str = declare(
        Choice(tuple(VIDEO_TABLES)), ANIMATEDIFF, help="The video model whose noise table the plan is made with")
    sigmas: tuple[float, ...] | None = declare(
        Levels(), None, help="Levels of noise instead of steps and scheduler")
    options: WebUIOptions = declare(
        Nested(WebUIOptions), WebUIOptions(), help="Of the sampler, by name; the rest has its default")


def plan_of(options: Options, steps: int, scheduler: str | None = None, denoising_strength: float | None = None,
            sigmas: Sequence[float] | None = None, sampler: str = NAME, video_table: str = ANIMATEDIFF) -> Plan:
    """The plan of a clip of ``steps`` steps, in img2img with a denoising strength; or over ``sigmas``.

    ``sampler``: one of `SAMPLERS`; ``video_table``: of `VIDEO_TABLES`. Raises OptionError.
    """
    given = sigmas
    if sigmas is None:
        if scheduler in (None, AUTOMATIC):
            own = sd_samplers.all_samplers_map[sampler].options.get("scheduler")
            scheduler = next((label for label, data in schedulers().items() if data and data.name == own), AUTOMATIC)
        sigmas = levels(steps, scheduler, denoising_strength, video_table)
    try:
        return make_plan(options, sigmas, VIDEO_TABLES[video_table], IMAGE, solver=SAMPLERS[sampler])
    except OptionError:
        raise
    except ValueError:
        if given is None:
            raise OptionError("scheduler", scheduler, "one whose levels of noise descend") from None
        raise OptionError("sigmas", list(given), PlanRequest.option("sigmas").allowed) from None


def levels(steps: int, scheduler: str = AUTOMATIC, denoising_strength: float | None = None,
           video_table: str = ANIMATEDIFF) -> list[float]:
    """The noise levels over which the host will sample. Raises OptionError.

    Source: ``KDiffusionSampler.get_sigmas`` and ``sample_img2img`` of the hosts, where their settings are at default.
    """
    last = steps = PlanRequest.option("steps").check(steps)
    if denoising_strength is not None:
        p = SimpleNamespace(steps=steps, denoising_strength=denoising_strength)
        steps, last = sd_samplers_common.setup_img2img_steps(p)
        last += 1
        if not 1 <= steps <= MOST_STEPS:
            raise OptionError("denoising_strength", denoising_strength, "a number above 0, to 1")
    return _all_levels(steps, scheduler, _table(video_table))[steps - last:]


def _all_levels(steps: int, scheduler: str, table: _Table) -> list[float]:
    known = schedulers()
    if scheduler not in known:
        raise OptionError("scheduler", scheduler, "one of " + ", ".join(known))
    data = known[scheduler]
    if data is None or data.function is None:
        return table.get_sigmas(steps).tolist()
    more = {"inner_model": table} if data.need_inner_model else {}
    ends = {"sigma_min": table.schedule.sigma_min, "sigma_max": table.schedule.sigma_max}
    try:
        made = data.function(n=steps, device=torch.device("cpu"), **ends, **more)
    except (AttributeError, TypeError) as error:  # it wants more of the model than `_Table`, or more than a model has
        raise OptionError("scheduler", scheduler, "one that can be made before a model is asked") from error
    return made.tolist()  # type: ignore[no-any-return]


def schedulers() -> dict[str, Any]:
    """The host's schedule types by the names of its dropdown; older hosts have the automatic one alone."""
    try:
        from modules.sd_schedulers import schedulers
    except ImportError:
        return {AUTOMATIC: None}
    return {data.label: data for data in schedulers}


class _Table:
    """A noise table as k-diffusion's ``DiscreteSchedule``, which the host's schedules ask."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.sigmas = torch.tensor(schedule.sigmas)
        self.inner_model = self
        # where the Forge family's "Turbo" looks, in ``modules/sd_schedulers.py``
        network = SimpleNamespace(predictor=self, model_sampling=self)
        self.forge_objects = SimpleNamespace(unet=SimpleNamespace(model=network))

    @property
    def sigma_min(self) -> torch.Tensor:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> torch.Tensor:
        return self.sigmas[-1]

    def sigma_to_t(self, sigma: Any, quantize: bool | None = None) -> torch.Tensor:
        return torch.tensor(self.schedule.sigma_to_timestep(float(sigma)))

    def t_to_sigma(self, t: Any) -> torch.Tensor:
        return torch.tensor(self.schedule.timestep_to_sigma(float(t)))

    def sigma(self, timesteps: torch.Tensor) -> torch.Tensor:
        return torch.tensor([self.schedule.timestep_to_sigma(t) for t in timesteps.tolist()])

    def get_sigmas(self, n: int) -> torch.Tensor:
        steps = torch.linspace(len(self.sigmas) - 1, 0, n).tolist()
        return torch.tensor([*(self.schedule.timestep_to_sigma(t) for t in steps), 0.0])


@cache
def _table(video_table: str) -> _Table:
    return _Table(VIDEO_TABLES[video_table])


def price(plan: Plan, frames: int | None = None, width: int | None = None, height: int | None = None,
          passes: int = 1) -> dict[str, Any]:
    """What a plan costs that is run ``passes`` times (FreeInit). ``seconds`` is None where the size is not given, or no
    clip was timed on this machine.

    Raises OptionError where a clip of this size cannot be made so.
    """
    if width and height:
        plan.check_size(height // 8, width // 8)
    times = times_plain(plan, (height // 8, width // 8) if width and height else None)
    seconds = timing.estimate(plan, frames, width, height) if frames and width and height else None
    return {
        "evaluations": passes * plan.evaluations, "video": passes * plan.count("video"),
        "image": passes * plan.count("image"), "times_plain": round(passes * times, 2),
        "seconds": None if seconds is None else passes * seconds,
    }


def in_words(cost: dict[str, Any]) -> str:
    """The price in a line: "119 evaluations, about 4.2 times plain AnimateDiff"."""
    times = cost["times_plain"]
    words = "the price of plain AnimateDiff" if times == 1 else (
        f"about {times:.{2 if times < 1 else 1}f} times plain AnimateDiff")
    words = f"{evaluations(cost['evaluations'])}, {words}"
    return words + (f", about {_duration(cost['seconds'])} a clip" if cost["seconds"] is not None else "")


def evaluations(count: int) -> str:
    """So many, in words."""
    return f"{count} evaluation{'s' * (count != 1)}"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def steps_in_words(plan: Plan) -> str:
    """What the steps run: "24 of 25 steps run the loop (16 VV-VV, 8 IV-IV); the image model takes the last 5"."""
    loops = Counter(_loop(moves) or plan.form for moves in _moves_of_steps(plan) if len(moves) > 1)
    kinds = ", ".join(f"{count} {form}" for form, count in loops.items())
    said = [f"{sum(loops.values())} of {plan.steps} steps run the loop ({kinds})"] if loops else []
    if plan.finishing_steps:
        said.append(f"the image model takes the ordinary step of the last {plan.finishing_steps} of {plan.steps} steps")
    return "; ".join(said) or f"All {plan.steps} steps are plain"


def _loop(moves: list[Move]) -> str | None:
    """The form that a step runs where it is not the chosen one: that of the video model alone."""
    return "VV-VV" if {move.model for move in moves if move.kind != "ordinary"} == {"video"} else None


def _moves_of_steps(plan: Plan) -> list[list[Move]]:
    steps: list[list[Move]] = [[] for _ in range(plan.steps)]
    for move in plan.moves:
        steps[move.step].append(move)
    return steps


def picture(plan: Plan, options: Options, cfg_scale: float) -> dict[str, Any]:
    """What the page draws: the signed guidance of both models over the steps, and the moves of each step.

    ``curves``: by model and direction ("image go"), a value a step. ``steps``: for each its moves in order, each in the
    words that the page's style sheet knows: model, kind, and "reused prediction" or "reused features".
    """
    ends = max(plan.steps - 1, 1)
    curves = {f"{model} {kind}": [round(sign * options.gamma(model, kind, i / ends), 3) for i in range(plan.steps)]
              for model in ("image", "video") for kind, sign in (("go", 1), ("back", -1))}
    steps = [[f"{move.model} {move.kind}" + (f" reused {move.reuse}" if move.reuse else "") for move in moves]
             for moves in _moves_of_steps(plan)]
    return {"cfg": cfg_scale, "curves": curves, "steps": steps}
