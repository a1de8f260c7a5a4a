"""The plan: every move of a run, known before the first evaluation, as plain immutable data.

A move is one Euler step of the latent ``x = x0 + sigma * noise`` from one noise level to another with one evaluation
of a model. An active step of the IV-Mixed Sampler (arXiv 2410.04171, algorithm 1) with a = sigma[i], b = sigma[i+1],
c = sigma[i+2] is, for the form IV-IV:

    go        image   a -> b   + gamma_go         denoise with both models ...
    go        video   b -> c   + gamma_go
    back      image   c -> b   - gamma_back       ... invert with both, guidance negative ...
    back      video   b -> a   - gamma_back
    ordinary  video   a -> b   the CFG scale      ... and take the ordinary step

The loop may also go up first, to the levels of the steps before, and come down again (``loop_order``), which is how the
paper's figure reads. The ordinary moves of the last steps may be the image model's (``finish_percent``), as in SDXL
(arXiv 2307.01952, section 2.5) a refiner ends what another model began.

`make_plan` builds it from options, `ivmixed.released` those of the authors' three released loops.
"""
from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from .options import ConflictError, Options
from .schedule import Schedule
from .untrusted import shown

SAME_LEVEL = 1e-6
"""Noise levels closer than this (relative) are one: float32 schedules meet a table's ends only up to rounding."""


SOLVERS = ("euler", "dpmpp_2m", "dpmpp_2m_sde", "lcm", "euler_ancestral")
"""How the ordinary step may be taken: Euler (DDIM), DPM-Solver++(2M), the latter's stochastic kin, that of distilled
models (LCM, AnimateLCM), and Euler ancestral (DDIM with eta 1)."""

SPACINGS = ("linspace", "trailing")
"""Where the timesteps of the steps lie: evenly from the last to the first, or each as far from the next as the last of
them from 0, a WebUI's schedule type SGM Uniform, at most one timestep beside diffusers' "trailing"."""

Model = Literal["image", "video", "noise"]
MoveKind = Literal["go", "back", "ordinary"]
Reuse = Literal["", "prediction", "features"]


@dataclass(frozen=True)
class Move:
    """One Euler step of the latent with one evaluation of a model, or with the latest one once more.

    ``sigma`` is the noise level at which the model is asked. Of an ordinary move of the video model it is
    ``sigma_from``, the level of the latent; elsewhere it may be another, and the model gets the variance-preserving
    latent unchanged, ``x * sqrt((1 + sigma^2) / (1 + sigma_from^2))``; likewise the latent is carried over where
    ``sigma_from`` is not the level that the move before left it at.
    """

    model: Model
    """"image" or "video"; of a back move also "noise": fresh Gaussian noise of the variance between the two levels."""
    kind: MoveKind
    """"go" (denoises), "back" (inverts) or "ordinary" (the outer step)."""
    sigma: float
    sigma_from: float
    sigma_to: float
    guidance: float | None
    """Signed guidance scale; None: the CFG scale the user gave the sampler, or no model to guide."""
    step: int
    """The outer step it belongs to, from 0."""
    reuse: Reuse = ""
    """What of ``model``'s latest evaluation serves again: "prediction", at this move's guidance, so that no evaluation
    is needed; "features", the deep ones of its UNet, so that only its outer layers are evaluated; "": nothing."""

    @property
    def evaluates(self) -> bool:
        """Whether a network is called for it."""
        return self.model != "noise" and self.reuse != "prediction"


@dataclass(frozen=True)
class Plan:
    """The moves of a run, in order, with how the ordinary step is taken and at which size the image model looks."""

    form: str
    steps: int
    moves: tuple[Move, ...]
    solver: str = "euler"
    """The ordinary step: one of `SOLVERS`."""
    image_size: tuple[int, int] | None = None
    """(height, width) of the latent in image evaluations, in latent pixels; None: the clip's own size."""
    image_resize: str = "nearest"
    """How the latent is brought to that size and back: one of `ivmixed.options.IMAGE_RESIZES`."""
    image_attention: str = "own"
    """Which frames the image model's self-attention sees: one of `ivmixed.options.ATTENTIONS`."""
    smoothing: float = 0.0
    """How much of the detail that the image model adds in ordinary moves is averaged over neighbouring frames, along
    the motion that the video model saw last, 0 to 1: see `ivmixed.smoothing`."""
    rescale: float = 0.0
    """How far the extra loop's moves are rescaled, 0 to 1: each asks about its latent at guidance 1 once more, which a
    denoiser can answer from memory (a move whose ``reuse`` is "prediction")."""

    @property
    def evaluations(self) -> int:
        """Guided network calls of the whole run, the unit of cost."""
        return sum(move.evaluates for move in self.moves)

    def count(self, model: Model) -> int:
        """Evaluations of ``model`` ("image" or "video")."""
        return sum(move.model == model and move.evaluates for move in self.moves)

    def reuses(self, what: Reuse) -> bool:
        """Whether any move reuses ``what``: "prediction" or "features"."""
        return (what == "prediction" and self.rescale > 0) or any(move.reuse == what for move in self.moves)

    @property
    def active_steps(self) -> int:
        """Outer steps that run the extra loop."""
        return len({move.step for move in self.moves if move.kind != "ordinary"})

    @property
    def finishing_steps(self) -> int:
        """Outer steps, the last ones, whose ordinary move is the image model's."""
        return sum(move.kind == "ordinary" and move.model == "image" for move in self.moves)

    @property
    def plain(self) -> bool:
        """Whether it is plain sampling: the video model's ordinary steps alone."""
        return not self.active_steps and not self.finishing_steps

    def describe(self) -> str:
        """The plan in a line: "IV-IV, 24 of 25 steps active, 119 evaluations (72 video, 47 image)"."""
        outer = sum(move.reuse == "features" for move in self.moves)
        last = self.finishing_steps
        return (f"{self.form}, {self.active_steps} of {self.steps} steps active, {self.evaluations} evaluations "
                f"({self.count('video')} video, {self.count('image')} image"
                + (f"; {outer} of outer layers only)" if outer else ")")
                + (f", the last {last} steps by the image model" if last else ""))

    def check_size(self, height: int, width: int) -> None:
        """Raises ConflictError where a clip of this size, in latent pixels, cannot be made.

        What the image model sees at a smaller size says nothing of the noise between its pixels, which would stay.
        """
        if self.finishing_steps and self.image_size and (self.image_size[0] < height or self.image_size[1] < width):
            raise ConflictError(
                "image_size", "x".join(map(str, self.image_size[::-1])), "finish_percent",
                because="where the image model takes the last steps, noise would stay between the pixels that it sees",
                remedy=f"take {width}x{height} in latent pixels, the clip's size, or more; or finish_percent 0")

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of `to_dict`."""
        size = data["image_size"]
        return cls(**{**data, "moves": tuple(Move(**move) for move in data["moves"]),
                      "image_size": None if size is None else (size[0], size[1])})


def image_latent(options: Options, vae_scale: int) -> tuple[int, int] | None:
    """(height, width) in latent pixels at which the image model looks, with ``vae_scale`` pixels a latent pixel."""
    if options.image_size is None:
        return None
    width, height = (max(round(side / vae_scale), 1) for side in options.image_size)
    return height, width


def spread(percent: float, count: int) -> tuple[bool, ...]:
    """``count`` flags of which ``percent`` (0 to 100) are True, evenly spread.

    Their number is rounded to the nearest whole, and any first n flags hold their share of it within one. 33.3 gives
    False, False, True, ... as the released ``zz = 3``.
    """
    chosen = round(count * percent / 100)
    return tuple((k + 1) * chosen // count > k * chosen // count for k in range(count))


def _share(steps: list[int], percent: float, pattern: str = "even") -> list[int]:
    """``percent`` of some steps: evenly spread, the first or the last of them."""
    chosen = round(len(steps) * percent / 100)
    if pattern != "even":
        return steps[:chosen] if pattern == "first" else steps[len(steps) - chosen:]
    return [step for step, chosen in zip(steps, spread(percent, len(steps))) if chosen]


FEWEST = 4
"""Steps that the image model needs to clear what the video model left, where steps are long: measured in
docs/benchmarks.md."""


def _finish(options: Options, levels: Sequence[float], schedule: Schedule | None) -> int:
    """The step from which on the image model takes the ordinary ones: as many as there are where it takes none.

    ``levels``: N + 1, at which it would be asked in each step and at the end; ``schedule``: its table, without which a
    share of the timesteps is one of the steps.
    """
    steps, percent = len(levels) - 1, options.finish_percent
    if percent == 0 or options.finish_by == "steps" or schedule is None:
        return steps - round(steps * percent / 100)
    timesteps = [schedule.sigma_to_timestep(level) for level in levels]
    nearest = min(range(steps + 1), key=lambda i: abs(timesteps[i] - len(schedule) * percent / 100))
    return min(nearest, steps - min(FEWEST, steps // 2))


def _loop(order: str, levels: Sequence[float], i: int, sigma_min: float) -> list[tuple[MoveKind, int, float, float]]:
    """The moves of the extra loop of step i: kind, which of the two models of that kind, from, to."""
    a = levels[i]
    if order == "noise-first":  # up to the levels of the two steps before
        near, far = levels[i - 1], levels[max(i - 2, 0)]
        return [("back", 0, a, near), ("back", 1, near, far), ("go", 0, far, near), ("go", 1, near, a)]
    near, far = levels[i + 1], levels[i + 2] or sigma_min
    if far > near * (1 - SAME_LEVEL):
        far = near
    go: list[tuple[MoveKind, int, float, float]] = [("go", 0, a, near), ("go", 1, near, far)]
    if order == "animatediff":  # the first model has the lower of the two moves, and is asked first all the same
        go = [("go", 0, near, far), ("go", 1, a, near)]
    return [*go, ("back", 0, far, near), ("back", 1, near, a)]


def make_plan(
    options: Options,
    sigmas: Sequence[float],
    video_schedule: Schedule | None = None,
    image_schedule: Schedule | None = None,
    *,
    solver: str = "euler",
    vae_scale: int = 8,
) -> Plan:
    """The plan of a run with ``options`` over the outer noise levels ``sigmas``.

    ``sigmas``: N + 1 levels, descending, as a k-diffusion sampler gets them (a tensor on the CPU or any sequence); the
    last may be 0. ``video_schedule``, ``image_schedule``: the noise tables of the models; without them nothing is
    clamped, and the smallest level above 0 of ``sigmas`` stands for the model's smallest. ``solver``: how the ordinary
    step is taken, one of `SOLVERS`. ``vae_scale``: pixels a latent pixel, on a side.

    No evaluation happens at sigma 0: where c would be 0 it is the smallest sigma of the video model, and the last step,
    which has no c, is inactive; with the loop order "noise-first" that is the first step, which has no level above it.
    A move of no length would leave the latent as it is, so it is left out. In the order "animatediff" the latent is
    carried over (see `Move`) to each level at which a move begins, as in the released loop. From ``finish_percent`` on,
    at the step nearest to it, the ordinary moves are the image model's, labelled as its others are. A model whose
    prediction or features are to serve again (``reuse_percent``) is asked where there are none: none in this step, or,
    where a whole loop reuses what is there, none at all. The work grows with the number of steps, no faster. Raises
    ConflictError where detail is to be averaged along the motion of a video model that makes no step, ValueError where
    the sigmas do not descend, for an unknown solver, and for less than one pixel a latent pixel.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver = {shown(solver)} is not one of {', '.join(SOLVERS)}")
    if not vae_scale >= 1:
        raise ValueError(f"vae_scale = {shown(vae_scale)} is less than one pixel a latent pixel")
    levels = _levels(sigmas)
    steps = len(levels) - 1
    positive = [level for level in levels if level > 0]
    sigma_min = video_schedule.sigma_min if video_schedule else positive[-1]

    start, end = options.interval
    may = range(1, steps) if options.loop_order == "noise-first" else range(steps - 1)
    in_loop = _share([i for i in may if start <= 100 * i / steps < end], options.active_percent)
    active = frozenset(in_loop)
    only_video = frozenset(_share(in_loop, options.z_percent, options.z_pattern))
    # of two shares of 50 %: the second halves of the loops reuse first, then the first halves too
    first_asks = frozenset(_share(in_loop, min(200 - 2 * options.reuse_percent, 100)))
    second_asks = frozenset(_share(in_loop, max(100 - 2 * options.reuse_percent, 0)))
    second_half = "go" if options.loop_order == "noise-first" else "back"

    back_form, go_form = options.form.split("-")
    models: dict[str, Model] = {"I": "image", "V": "video", "R": "noise"}
    reuse = cast(Reuse, options.reused)
    skip_above = math.inf  # at matched timesteps nothing is above the image model's table
    if image_schedule and options.above_sigma_max == "skip" and options.schedule_match == "sigma":
        skip_above = image_schedule.sigma_max

    def label(model: Model, sigma: float) -> float:
        """The level at which the model is asked for a latent at ``sigma``."""
        if model == "video" or image_schedule is None:
            return sigma
        if options.schedule_match == "timestep" and video_schedule is not None:
            return image_schedule.timestep_to_sigma(video_schedule.sigma_to_timestep(sigma))
        return min(sigma, image_schedule.sigma_max)

    def asked_model(model: Model, sigma: float) -> Model:
        """The model that makes a move from ``sigma`` which would be ``model``'s."""
        return "video" if model == "image" and sigma * (1 - SAME_LEVEL) > skip_above else model

    finish = _finish(options, [label("image", level) for level in levels], image_schedule)
    moves: list[Move] = []
    asked: set[Model] = set()  # the models whose latest prediction may serve again
    for i in range(steps):
        a, b = levels[i], levels[i + 1]
        if i in first_asks:
            asked.clear()
        if i in active:
            forms = {"go": "VV", "back": "VV"} if i in only_video else {"go": go_form, "back": back_form}
            for kind, which, at, to in _loop(options.loop_order, levels, i, sigma_min):
                if at == to:
                    continue
                model = models[forms[kind][which]]
                if model == "noise":
                    moves.append(Move(model, kind, at, at, to, None, i))
                    continue
                model = asked_model(model, at)
                gamma = options.gamma(model, kind, i / max(steps - 1, 1))
                again = i not in (second_asks if kind == second_half else first_asks)
                moves.append(Move(model, kind, label(model, at), at, to, gamma if kind == "go" else -gamma, i,
                                  reuse=reuse if again and model in asked else ""))
                asked.add(model)
        model = asked_model("image" if i >= finish else "video", a)
        moves.append(Move(model, "ordinary", label(model, a), a, b, None, i))
        asked.add(model)
    if options.finish_smoothing and next(move.model for move in moves if move.kind == "ordinary") == "image":
        raise ConflictError(
            "finish_smoothing", options.finish_smoothing, "finish_percent", options.finish_percent,
            because="no step of the video model is left whose motion could be followed",
            remedy="take finish_smoothing 0, or a smaller finish_percent")
    return Plan(options.form, steps, tuple(moves), solver, image_latent(options, vae_scale), options.image_resize,
                options.image_attention, options.finish_smoothing / 100, options.guidance_rescale)


def _levels(sigmas: Sequence[float]) -> list[float]:
    """The outer noise levels as numbers. Raises ValueError where they are no descending levels."""
    try:
        levels = [float(sigma) for sigma in sigmas]
    except (TypeError, ValueError, OverflowError):
        levels = []
    if len(levels) < 2 or not all(math.inf > a > b >= 0 for a, b in zip(levels, levels[1:])):
        raise ValueError("sigmas must be at least two finite levels that descend to 0 or above, not "
                         f"{shown(levels or sigmas)}")
    return levels
