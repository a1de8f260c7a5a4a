"""``python -m benchmarks.analytic``: what the settings do in worlds whose truth is known."""
from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..report import Row, save, table
from ..settings import SETTINGS, Setting, chosen, sample
from .measures import measure
from .world import WORLDS, World


def evaluate(world: World, setting: Setting, seeds: int, clips: int, first: int = 1) -> list[Row]:
    """A row for each seed from ``first`` on: ``clips`` clips, evenly over the classes, against four times as many true
    ones."""
    n, per_class = world.numbers, clips // world.numbers.classes
    labels = torch.arange(n.classes).repeat_interleave(per_class)
    true_labels = torch.arange(n.classes).repeat_interleave(4 * per_class)
    truth = world.clips.sample(true_labels, torch.Generator().manual_seed(0)).view(-1, n.frames, n.size)
    rows = []
    for seed in range(first, first + seeds):
        noise = torch.randn(n.frames, len(labels), 1, 1, n.size, generator=torch.Generator().manual_seed(seed))
        x, count = sample(setting, (world.video, world.image), (world.video.schedule, world.image.schedule), noise,
                          n.steps, {"labels": labels, "cond_scale": n.cfg_scale}, seed)
        made = x.flatten(2).transpose(0, 1)
        rows.append(Row(n.name, setting.name, seed, count, measure(world, made, labels, truth, true_labels)))
    return rows


def true_rows(world: World, seeds: int, clips: int) -> list[Row]:
    """The same measures of true clips: what a perfect sampler would get."""
    n = world.numbers
    labels, true_labels = (torch.arange(n.classes).repeat_interleave(k * clips // n.classes) for k in (1, 4))
    draw = [world.clips.sample(which, torch.Generator().manual_seed(seed)).view(-1, n.frames, n.size)
            for which, seed in [(true_labels, 0), *((labels, 100 + seed) for seed in range(seeds))]]
    return [Row(n.name, "true clips", seed, {}, measure(world, made, labels, draw[0], true_labels))
            for seed, made in enumerate(draw[1:], 1)]


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.analytic", description=__doc__.split(": ")[1])
    parser.add_argument("--world", action="append", choices=[n.name for n in WORLDS], help="only this; may be repeated")
    parser.add_argument("--setting", action="append", metavar="NAME", default=[],
                        help=f"only this; may be repeated: {'; '.join(s.name for s in SETTINGS)}".replace("%", "%%"))
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--clips", type=int, default=400, help="clips for each seed (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every row as JSON")
    args = parser.parse_args(argv)
    rows = []
    for numbers in WORLDS:
        if args.world and numbers.name not in args.world:
            continue
        world = World(numbers)
        own = true_rows(world, args.seeds, args.clips)
        for setting in chosen(args.setting):
            if setting.options.reused == "features" or setting.options.image_attention != "own":
                continue  # there is no network here that has any
            own += evaluate(world, setting, args.seeds, args.clips)
        print(f"\n{numbers}\n\n{table(own)}", flush=True)
        rows += own
    if args.out:
        save(args.out, rows)


if __name__ == "__main__":
    main()
