"""What the yardsticks compare: settings of the sampler, and what a user would pick instead."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ivmixed import Move, Options, Plan, Schedule, make_plan, sample_iv_mixed, spread
from ivmixed.standalone.denoiser import Denoiser as UNetDenoiser

from .rivals import RIVALS, Ask, run

Denoiser = Callable[..., Tensor]


@dataclass(frozen=True)
class Setting:
    """One way to make a clip."""

    name: str
    group: str
    """"plain"; "forms": which models; "where": in which steps; "reuse": fewer evaluations; "finish": the image model
    takes the last ordinary steps; "instead": other methods."""
    options: Options = field(default_factory=lambda: Options().plain())
    cfg: float = 1.0
    """CFG scale of the ordinary step, in units of the yardstick's own."""
    steps: float = 1.0
    """Outer steps, likewise."""
    method: str = ""
    """"FreeInit", see `sample`, or one of `rivals.RIVALS`; else the moves of a plan."""
    edit: Callable[[Plan], Plan] | None = None
    """What is other in the plan than the options make it."""


def _every_second_loop(plan: Plan) -> Plan:
    """Whole loops reuse predictions, but for every second one, which asks for all of its moves."""
    loops = sorted({move.step for move in plan.moves if move.kind != "ordinary"})
    asks = {step for step, chosen in zip(loops, spread(50, len(loops))) if chosen}
    known: set[str] = set()
    moves = []
    for move in plan.moves:
        again = move.kind != "ordinary" and move.step not in asks and move.model in known
        moves.append(replace(move, reuse="prediction" if again else ""))
        known.add(move.model)
    return replace(plan, moves=tuple(moves))


def _settings() -> Iterator[Setting]:
    def late(start: float, **options: Any) -> Options:
        return Options(interval=(start, 100), **options)

    yield Setting("plain", "plain")
    for form in ("IV-IV", "VI-IV", "IV-VI", "VV-VV", "II-II", "RR-IV", "RR-VV", "RR-II", "RV-IV", "IR-IV"):
        yield Setting(form, "forms", Options(form=form))
    yield Setting("z 66.7 %", "forms", Options(z_percent=66.7))
    yield Setting("first 40 %", "where", Options(interval=(0, 40)))
    for count, share in (("2nd", 50), ("4th", 25), ("8th", 12.5)):
        yield Setting(f"every {count} step", "where", Options(active_percent=share))
    for share in (50, 40, 30, 20, 15, 10):
        yield Setting(f"last {share} %", "where", late(100 - share))
    yield Setting("last 40 %, every 2nd step", "where", late(60, active_percent=50))
    yield Setting("reuse", "reuse", Options(reuse_percent=50))
    for share in (50, 40, 30, 25, 20, 10):
        yield Setting(f"reuse, last {share} %", "reuse", late(100 - share, reuse_percent=50))
    yield Setting("fresh 25 %, reuse", "reuse", Options(reuse_percent=87.5))
    for share in (50, 30):
        yield Setting(f"fresh 50 %, last {share} %", "reuse", late(100 - share), edit=_every_second_loop)
        yield Setting(f"fresh 50 %, reuse, last {share} %", "reuse", late(100 - share, reuse_percent=75))
    yield Setting("deep features", "reuse", Options(reuse_percent=50, reused="features"))
    for share in (30, 20):
        yield Setting(f"deep features, last {share} %", "reuse",
                      late(100 - share, reuse_percent=50, reused="features"))
    yield Setting("deep features, fresh 33 %, last 40 %", "reuse",
                  late(60, reuse_percent=83.35, reused="features"))
    for share in (10, 15, 20, 25, 30, 40):
        yield Setting(f"finish {share} %", "finish", Options(interval=(0, 0), finish_percent=share))
    for share in (25, 50, 75, 100):
        yield Setting(f"finish 15 %, smoothed {share} %", "finish",
                      Options(interval=(0, 0), finish_percent=15, finish_smoothing=share))
    for share in (20, 40):
        yield Setting(f"finish {share} %, smoothed 100 %", "finish",
                      Options(interval=(0, 0), finish_percent=share, finish_smoothing=100))
    for sees in ("neighbours", "first"):
        yield Setting(f"finish 15 %, {sees} seen", "finish",
                      Options(interval=(0, 0), finish_percent=15, image_attention=sees))
    yield Setting("finish 15 %, smoothed 100 %, neighbours seen", "finish",
                  Options(interval=(0, 0), finish_percent=15, finish_smoothing=100, image_attention="neighbours"))
    yield Setting("every 8th step, finish 15 %, smoothed 100 %", "finish",
                  Options(active_percent=12.5, finish_percent=15, finish_smoothing=100))
    yield Setting("every 8th step, gamma 1 and 0, finish 15 %, smoothed 100 %", "finish",
                  Options(active_percent=12.5, gamma_go=1, gamma_back=0, finish_percent=15, finish_smoothing=100))
    for count, share in (("8th", 12.5), ("4th", 25)):
        yield Setting(f"every {count} step, finish 20 %", "finish", Options(active_percent=share, finish_percent=20))
    yield Setting("stills", "finish", Options(interval=(0, 0), finish_percent=100))
    yield Setting("1.5 times the steps", "instead", steps=1.5)
    yield Setting("5 times the steps", "instead", steps=5)
    yield Setting("1.5 times the CFG scale", "instead", cfg=1.5)
    yield Setting("3 times the CFG scale", "instead", cfg=3)
    yield Setting("FreeInit, 3 iterations", "instead", method="FreeInit")
    yield Setting("IV-IV, rescaled", "instead", Options(guidance_rescale=0.7))
    for name in RIVALS:
        yield Setting(name, "instead", method=name)


SETTINGS = tuple(_settings())


def chosen(names: Sequence[str]) -> tuple[Setting, ...]:
    """The settings of these names; all where none is named. Raises SystemExit for an unknown name."""
    known = {setting.name: setting for setting in SETTINGS}
    for name in names:
        if name not in known:
            raise SystemExit(f"{name!r} is no setting; there are: {'; '.join(known)}")
    return tuple(known[name] for name in names) or SETTINGS


def sample(
    setting: Setting,
    models: tuple[Denoiser, Denoiser],
    tables: tuple[Schedule, Schedule],
    noise: Tensor,
    steps: int,
    extra_args: dict[str, Any],
    seed: int,
) -> tuple[Tensor, dict[str, int]]:
    """A clip (frames, channels, height, width), or several (frames, clips, ...), and the evaluations of one, by model.

    ``models``, ``tables``: the denoisers and the noise tables of the video and the image model; the outer steps are
    those of the WebUI's schedule "Automatic". ``noise``: what to begin with, of variance 1; ``seed``: of the noise that
    is added on the way. ``extra_args``: of the denoisers, with the yardstick's ``cond_scale``.
    """
    video, image = models
    plan, sigmas = plan_of(setting, tables, steps)
    extra_args = {**extra_args, "cond_scale": extra_args["cond_scale"] * setting.cfg}
    generator = torch.Generator().manual_seed(seed)

    def fresh(*levels: float) -> Tensor:
        return torch.randn(noise.shape, generator=generator).to(noise.device)

    def on_move(move: Move) -> None:
        model = image if move.model == "image" else video
        if isinstance(model, UNetDenoiser):
            model.expect(move, plan)

    def made_of(start: Tensor) -> Tensor:
        return sample_iv_mixed(video, start * math.sqrt(1 + sigmas[0]**2), sigmas, extra_args, disable=True,
                               image_model=image, plan=plan, on_move=on_move, noise_sampler=fresh)

    if setting.method in RIVALS:
        asks = [Ask(model, table, name, extra_args) for model, table, name in zip(models, tables, ("video", "image"))]
        start = noise * math.sqrt(1 + sigmas[0]**2)
        x = run(RIVALS[setting.method], *asks, start, sigmas.tolist(), extra_args["cond_scale"], fresh)
        return x, {**dict.fromkeys(KINDS, 0), **{ask.model: ask.evaluations for ask in asks}}
    x = made_of(noise)
    if setting.method == "FreeInit":
        for _ in range(2):
            x = made_of(freeinit(x, noise, fresh(), float(sigmas[0])))
    return x, evaluations(plan, times=3 if setting.method == "FreeInit" else 1)


def plan_of(setting: Setting, tables: tuple[Schedule, Schedule], steps: int) -> tuple[Plan, Tensor]:
    """The moves of a setting, and the outer levels: evenly spaced timesteps from the last of the table to its first."""
    count, last = round(steps * setting.steps), len(tables[0]) - 1
    levels = [tables[0].timestep_to_sigma(last * (1 - k / max(count - 1, 1))) for k in range(count)]
    plan = make_plan(setting.options, [*levels, 0.0], *tables)
    return setting.edit(plan) if setting.edit else plan, torch.tensor([*levels, 0.0])


KINDS = ("video", "image", "outer video", "outer image")
"""Of evaluations: of each model, and of its outer layers alone."""


def evaluations(plan: Plan, times: int = 1) -> dict[str, int]:
    """How often each of `KINDS` is made where a plan is run so many times, and how often each kind of those in which
    the image model sees other frames, as in "image, neighbours"."""
    kinds = ["outer " * (move.reuse == "features") + move.model
             + f", {plan.image_attention}" * (move.model == "image" and plan.image_attention != "own")
             for move in plan.moves if move.evaluates]
    return {kind: times * kinds.count(kind) for kind in dict.fromkeys([*KINDS, *kinds])}


def freeinit(x: Tensor, noise: Tensor, fresh: Tensor, sigma: float) -> Tensor:
    """Noise of variance 1 to begin again with: low frequencies of the finished clip, noised as before, the rest fresh.

    The filter is Butterworth's of order 4 that ends at a quarter of the highest frequency, in space and time. Source:
    FreeInit, Wu et al., ECCV 2024, arXiv 2312.07537, section 4 and its released defaults.
    """
    noised = (x + sigma * noise) / math.sqrt(1 + sigma**2)
    axes = [axis for axis in (0, x.ndim - 2, x.ndim - 1) if x.shape[axis] > 1]
    distance = sum((2 * torch.fft.fftfreq(x.shape[axis])).square().view([-1 if k == axis else 1 for k in range(x.ndim)])
                   for axis in axes)
    keep = 1 / (1 + (distance / 0.25**2) ** 4)
    low, high = torch.fft.fftn(noised, dim=axes), torch.fft.fftn(fresh, dim=axes)
    return torch.fft.ifftn(low * keep + high * (1 - keep), dim=axes).real
