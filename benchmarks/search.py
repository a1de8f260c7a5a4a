"""``python -m benchmarks.search``: looks for settings in some worlds, with a budget, and tells what they do in others.

The space: where the image model takes over, how (at once, in turns, with fresh noise), who has the last word, how
strong its guidance is, how much of its detail is averaged over neighbouring frames, and how many extra loops of which
gamma there are besides. Points are drawn at random and then
near the best so far: those on the front of price against one of the measures. What is reported was made with other
seeds, and in worlds that were not searched too.
"""
from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from ivmixed import Move, Options, Plan
from ivmixed.cost import work

from .analytic.__main__ import evaluate, true_rows
from .analytic.world import WORLDS, World
from .plots import front
from .report import Row, save, table
from .settings import SETTINGS, Setting, chosen, plan_of

SEARCHED = ("blur", "heavy blur", "few steps", "imperfect image")
SEED = 100
"""Seeds of the search begin here; those of the report at 1."""
MEASURES = ("joint", "frame", "surprise", "motion", "obeyed", "boil", "sway")


@dataclass(frozen=True)
class Point:
    """A place in the space."""

    finish: int = 20
    """`Options.finish_percent`."""
    turns: int = 0
    """So many steps before it takes over, every second one is the image model's."""
    last: int = 0
    """So many steps at the end are the video model's again."""
    noise: int = 0
    """Where it takes over the latent is noised by so many levels, and the image model comes down from there."""
    cfg: float = 1.0
    """Guidance of its steps, in units of the CFG scale."""
    smoothing: int = 0
    """`Options.finish_smoothing`."""
    loops: float = 0.0
    """`Options.active_percent`, of the steps before it takes over; 0 is no loop."""
    gamma: float = 4.0

    def setting(self, cfg_scale: float) -> Setting:
        """As the yardsticks take it, under a name that says what differs from a mere finish."""
        rest = ", ".join(f"{name} {value:g}" for name, value in asdict(self).items()
                         if value != getattr(Point(), name) and name != "finish" and (name != "gamma" or self.loops))
        options = Options(interval=(0, 100 - self.finish) if self.loops else (0, 0), active_percent=self.loops,
                          gamma_go=self.gamma, gamma_back=self.gamma, finish_percent=self.finish,
                          finish_smoothing=self.smoothing)
        return Setting(f"finish {self.finish} %" + f", {rest}" * bool(rest), "finish", options,
                       edit=partial(edited, self, cfg_scale))


CHOICES = {"finish": (0, 10, 15, 20, 25, 30, 40, 50), "turns": (0, 0, 2, 4, 8), "last": (0, 0, 1, 2),
           "noise": (0, 0, 1, 2), "cfg": (1.0, 1.0, 0.7, 0.4, 0.2), "smoothing": (0, 0, 25, 50, 75, 100),
           "loops": (0.0, 0.0, 12.5, 25.0, 50.0), "gamma": (1.0, 2.0, 4.0)}
"""The values of each; a value that stands twice is drawn twice as often."""


def edited(point: Point, cfg_scale: float, plan: Plan) -> Plan:
    """A plan with what of a point is no option."""
    first, n = plan.steps - plan.finishing_steps, plan.steps
    if first == n:
        return plan
    image = set(range(first, n - min(point.last, n - first - 1)))
    image |= set(range(first - 2, first - 1 - point.turns, -2))
    levels = [move.sigma_from for move in plan.moves if move.kind == "ordinary"]
    guidance = None if point.cfg == 1 else point.cfg * cfg_scale
    moves: list[Move] = []
    for move in plan.moves:
        if move.kind != "ordinary":
            moves.append(move)
            continue
        own = move.step in image
        up = max(first - point.noise, 0)
        if move.step == first and up < first:
            moves.append(Move("noise", "back", levels[first], levels[first], levels[up], None, first))
            moves += [Move("image", "go", levels[k], levels[k], levels[k + 1], guidance or cfg_scale, first)
                      for k in range(up, first)]
        moves.append(replace(move, model="image" if own else "video", guidance=guidance if own else None,
                             sigma=move.sigma if own else move.sigma_from))
    return replace(plan, moves=tuple(moves))


def badness(row: Row) -> dict[str, float]:
    """Measures of which less is better: what is to be 1 by how far it is from that; boil and sway, multiples, by their
    logarithm."""
    as_bad = {"motion": lambda value: abs(1 - value), "obeyed": lambda value: 1 - value,
              "boil": lambda value: abs(math.log(value)), "sway": lambda value: abs(math.log(value))}
    return {name: as_bad.get(name, float)(value) for name, value in row.measures.items() if name in MEASURES}


def losses(rows: Sequence[Row], plain: dict[str, dict[str, float]]) -> dict[str, float]:
    """Means over worlds; energy distances and surprise as multiples of plain's in that world."""
    own = [{name: value / plain[row.world][name] if name in ("joint", "frame", "surprise") else value
            for name, value in badness(row).items()} for row in rows]
    return {name: fmean(loss[name] for loss in own) for name in MEASURES}


@dataclass(frozen=True)
class Found:
    """A point that was tried. ``price``: times plain's arithmetic, a mean over the worlds."""

    point: Point
    price: float
    losses: dict[str, float]

    @property
    def name(self) -> str:
        """That of its setting."""
        return self.point.setting(1.0).name


def best(found: Sequence[Found]) -> list[Found]:
    """Those on the front of price and a measure, and of price and the mean of all measures."""
    names: set[str] = set()
    for measure in MEASURES:
        names |= set(front([(each.name, each.price, each.losses[measure]) for each in found], -1))
    names |= set(front([(each.name, each.price, fmean(each.losses.values())) for each in found], -1))
    return [each for each in found if each.name in names]


def neighbour(point: Point, rng: random.Random) -> Point:
    """A point that differs in one place."""
    name = rng.choice([field.name for field in fields(Point)])
    return replace(point, **{name: rng.choice(CHOICES[name])})


def search(seconds: float, clips: int, rng: random.Random) -> list[Found]:
    """Every point that was tried within ``seconds``, at least one."""
    worlds = [World(n) for n in WORLDS if n.name in SEARCHED]
    plain = {}
    for world in worlds:
        row, = evaluate(world, SETTINGS[0], 1, clips, SEED)
        plain[world.numbers.name] = badness(row)
    tried: dict[str, Found] = {}
    until = time.monotonic() + seconds
    while not tried or time.monotonic() < until:
        fresh = Point(**{name: rng.choice(values) for name, values in CHOICES.items()})
        point = fresh if len(tried) < 40 or rng.random() < 0.3 else neighbour(rng.choice(best([*tried.values()])).point,
                                                                              rng)
        if point.setting(1.0).name in tried:
            continue
        rows, prices = [], []
        for world in worlds:
            setting = point.setting(world.numbers.cfg_scale)
            rows += evaluate(world, setting, 1, clips, SEED)
            plan, _ = plan_of(setting, (world.video.schedule, world.image.schedule), world.numbers.steps)
            prices.append(work(plan) / world.numbers.steps)
        each = Found(point, fmean(prices), losses(rows, plain))
        tried[each.name] = each
    return list(tried.values())


def report(points: Sequence[Point], beside: Sequence[Setting], seeds: int, clips: int) -> list[Row]:
    """Rows of all worlds with seeds that were not searched."""
    rows: list[Row] = []
    for numbers in WORLDS:
        world = World(numbers)
        rows += true_rows(world, seeds, clips)
        for setting in [*beside, *(point.setting(numbers.cfg_scale) for point in points)]:
            rows += evaluate(world, setting, seeds, clips)
    return rows


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__.split(": ")[1])
    parser.add_argument("--minutes", type=float, default=30, help="of the search (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=60, help="for a point and world (default: %(default)s)")
    parser.add_argument("--report", type=int, default=12, help="points to report on (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="of the report (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the search itself (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report's rows as JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    found = search(60 * args.minutes, args.clips, random.Random(args.seed))
    print(f"{len(found)} points in {', '.join(SEARCHED)}; on a front, by price and mean over the worlds:\n")
    fronts = sorted(best(found), key=lambda each: each.price)
    for each in fronts:
        print(f"{each.price:5.2f}  " + "  ".join(f"{name} {value:6.3f}" for name, value in each.losses.items())
              + f"  {each.name}", flush=True)
    ranked = sorted(fronts, key=lambda each: fmean(each.losses.values()))[:args.report]
    rows = report([each.point for each in ranked], chosen(["plain", "IV-IV", "every 8th step"]), args.seeds,
                  2 * args.clips)
    for name in dict.fromkeys(row.world for row in rows):
        known = "searched, other seeds" if name in SEARCHED else "not searched"
        print(f"\n## {name} ({known})\n\n{table([row for row in rows if row.world == name])}")
    if args.out:
        save(args.out, rows)


if __name__ == "__main__":
    main()
