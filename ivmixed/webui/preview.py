"""The plan of a run before it is run: no model is asked. For the API, and for the picture in the panel.

The noise tables are AnimateDiff's for the video model and Stable Diffusion 1.5's for the image model.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from modules import sd_samplers, sd_samplers_common

from ..cost import times_plain
from ..options import Option, OptionError, Options
from ..plan import Move, Plan, make_plan
from ..schedule import Schedule
from . import NAME, SAMPLERS, timing

VIDEO, IMAGE = Schedule.linear(), Schedule.scaled_linear()
AUTOMATIC = "Automatic"
MOST_STEPS = 1000
STEPS = Option("steps", "whole", 25, "", "Sampling steps", minimum=1, maximum=MOST_STEPS)
FRAMES = Option("frames", "whole", None, "", "Of the clip; with width and height the time is estimated", minimum=1,
                maximum=10_000)
WIDTH, HEIGHT = (Option(name, "whole", None, "", "In pixels", minimum=8, maximum=8192) for name in ("width", "height"))
CFG_SCALE = Option("cfg_scale", "number", 7.0, "", "Of the ordinary steps", minimum=0, maximum=100)
"""The host's settings that a plan, its price and its picture ask for."""


def plan_of(options: Options, steps: int, scheduler: str | None = None, denoising_strength: float | None = None,
            sigmas: Sequence[float] | None = None, sampler: str = NAME) -> Plan:
    """The plan of a clip of ``steps`` steps, in img2img with a denoising strength; or over ``sigmas``.

    ``sampler``: one of `SAMPLERS`. Raises OptionError.
    """
    if sampler not in SAMPLERS:
        raise OptionError("sampler", sampler, "one of " + ", ".join(SAMPLERS))
    if sigmas is not None and len(sigmas) > MOST_STEPS + 1:
        raise OptionError("sigmas", list(sigmas), f"at most {MOST_STEPS + 1} levels of noise")
    given = sigmas
    if sigmas is None:
        if scheduler in (None, AUTOMATIC):
            own = sd_samplers.all_samplers_map[sampler].options.get("scheduler")
            scheduler = next((label for label, data in schedulers().items() if data and data.name == own), AUTOMATIC)
        sigmas = levels(steps, scheduler, denoising_strength)
    try:
        return make_plan(options, sigmas, VIDEO, IMAGE, solver=SAMPLERS[sampler])
    except ValueError:
        if given is None:
            raise OptionError("scheduler", scheduler, "one whose levels of noise descend") from None
        raise OptionError("sigmas", list(given), "two or more levels of noise that descend, to 0 or above") from None


def levels(steps: int, scheduler: str = AUTOMATIC, denoising_strength: float | None = None) -> list[float]:
    """The noise levels over which the host will sample. Raises OptionError.

    Source: ``KDiffusionSampler.get_sigmas`` and ``sample_img2img`` of the hosts, where their settings are at default.
    """
    last = steps = STEPS.check(steps)
    if denoising_strength is not None:
        p = SimpleNamespace(steps=steps, denoising_strength=denoising_strength)
        steps, last = sd_samplers_common.setup_img2img_steps(p)
        last += 1
        if not 1 <= steps <= MOST_STEPS:
            raise OptionError("denoising_strength", denoising_strength, "a number above 0, to 1")
    return _all_levels(steps, scheduler)[steps - last:]


def _all_levels(steps: int, scheduler: str) -> list[float]:
    known = schedulers()
    if scheduler not in known:
        raise OptionError("scheduler", scheduler, "one of " + ", ".join(known))
    data = known[scheduler]
    if data is None or data.function is None:
        return TABLE.get_sigmas(steps).tolist()
    more = {"inner_model": TABLE} if data.need_inner_model else {}
    try:
        made = data.function(
            n=steps, sigma_min=VIDEO.sigma_min, sigma_max=VIDEO.sigma_max, device=torch.device("cpu"), **more)
    except AttributeError as error:  # it looks for more of the model than there is of `TABLE`
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
    """AnimateDiff's noise table as k-diffusion's ``DiscreteSchedule``, which the host's schedules ask."""

    def __init__(self) -> None:
        self.sigmas = torch.tensor(VIDEO.sigmas)
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
        return torch.tensor(VIDEO.sigma_to_timestep(float(sigma)))

    def t_to_sigma(self, t: Any) -> torch.Tensor:
        return torch.tensor(VIDEO.timestep_to_sigma(float(t)))

    def sigma(self, timesteps: torch.Tensor) -> torch.Tensor:
        return torch.tensor([VIDEO.timestep_to_sigma(t) for t in timesteps.tolist()])

    def get_sigmas(self, n: int) -> torch.Tensor:
        steps = torch.linspace(len(self.sigmas) - 1, 0, n).tolist()
        return torch.tensor([*(VIDEO.timestep_to_sigma(t) for t in steps), 0.0])


TABLE = _Table()


def price(plan: Plan, frames: int | None = None, width: int | None = None, height: int | None = None) -> dict[str, Any]:
    """What a plan costs. ``seconds`` is None where the size is not given, or no clip was timed on this machine.

    Raises OptionError where a clip of this size cannot be made so.
    """
    if width and height:
        plan.check_size(height // 8, width // 8)
    return {
        "evaluations": plan.evaluations, "video": plan.count("video"), "image": plan.count("image"),
        "times_plain": round(times_plain(plan, (height // 8, width // 8) if width and height else None), 2),
        "seconds": timing.estimate(plan, frames, width, height) if frames and width and height else None,
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
