"""``python -m benchmarks.plots ROWS.json``: quality against price, a panel for each measure."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox

from .report import Row, by_setting, load
from .settings import SETTINGS

BETTER = {"joint": -1, "frame": -1, "surprise": -1, "motion": 0, "obeyed": 1, "sharpness": 0, "distance": -1,
          "frechet": -1, "flicker": 0, "warping": 0, "boil": 0, "sway": 0}
"""Which way is better: -1 less, 1 more, 0 nearer to true clips."""

PRESETS = {"plain": "plain", "IV-IV": "paper", "finish 15 %, smoothed 100 %": "fast",
           "every 8th step, gamma 1 and 0, finish 15 %, smoothed 100 %": "balanced",
           "every 8th step, finish 15 %, smoothed 100 %": "quality"}
"""Settings that are presets, which are named in any case."""

RATIOS = ("boil", "sway")
"""Measures that are multiples of what true clips have."""

ACROSS = 3
"""Panels in a row."""

COLOURS = {"plain": "black", "forms": "tab:purple", "where": "tab:blue", "reuse": "tab:green", "finish": "tab:red",
           "instead": "tab:orange"}


def front(points: Sequence[tuple[str, float, float]], better: int) -> list[str]:
    """The settings that no other beats in price and value: ``points`` are (setting, price, value)."""
    best: list[str] = []
    reached = float("inf")
    for name, _, value in sorted(points, key=lambda point: (point[1], -better * point[2])):
        if -better * value < reached:
            reached = -better * value
            best.append(name)
    return best


def panel(axes: Axes, rows: Sequence[Row], measure: str) -> None:
    """One measure of one world against the price, as a multiple of plain's."""
    groups = {setting.name: setting.group for setting in SETTINGS}
    settings = by_setting(rows)
    true = [row.measures[measure] for row in rows if row.setting not in groups]
    plain = settings["plain"][0].price
    points = []
    for name, own in settings.items():
        if name not in groups:
            continue
        values = [row.measures[measure] for row in own]
        price = own[0].price / plain
        axes.errorbar(price, fmean(values), stdev(values) if len(values) > 1 else 0, fmt="o", markersize=4,
                      color=COLOURS[groups[name]], elinewidth=1)
        points.append((name, price, fmean(values)))
    target = fmean(true) if true else 0.0
    way = BETTER[measure]
    scored = points if way else [(name, price, abs(value - target)) for name, price, value in points]
    chosen = front(scored, way or -1)
    line = [point for point in sorted(points, key=lambda point: point[1]) if point[0] in chosen]
    axes.plot([price for _, price, _ in line], [value for *_, value in line], color="grey", linewidth=0.8, zorder=0)
    if true:
        axes.axhline(target, color="tab:red", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    if measure in RATIOS:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    ticks = [0.7, 1, 1.5, 2, 3, 5]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title({-1: f"{measure} (less is better)", 1: f"{measure} (more is better)",
                    0: f"{measure} (true clips: dotted)"}[way], fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_xlim(0.65, 6.5)
    label(axes, sorted({*points}, key=lambda point: (point[0] not in PRESETS, point not in line, point[1]))[
        :len(PRESETS) + len(line)])


def label(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Names (setting, price, value) where there is room, presets in bold; a name that would lie on another is left
    out."""
    figure = axes.get_figure(root=True)
    figure.canvas.draw()  # lays the panels out, so that room can be measured
    taken: list[Bbox] = []
    for name, price, value in points:
        for across, up in ((5, 4), (5, -9), (-5, 4), (-5, -9), (5, 13), (5, -18)):
            text = axes.annotate(PRESETS.get(name, name), (price, value), (across, up), textcoords="offset points",
                                 fontsize=6, ha="left" if across > 0 else "right",
                                 weight="bold" if name in PRESETS else "normal")
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken) and axes.bbox.containsx(box.x1):
                taken.append(box)
                break
            text.remove()


def draw(rows: Sequence[Row], measures: Sequence[str], path: Path) -> None:
    """The panels of each world, a few in a row, written to ``path``."""
    worlds = list(dict.fromkeys(row.world for row in rows))
    across = min(len(measures), ACROSS)
    down = -(-len(measures) // across)
    figure = plt.figure(figsize=(5.2 * across, 4.0 * down * len(worlds)), layout="constrained")
    for part, world in zip(figure.subfigures(len(worlds), 1, squeeze=False)[:, 0], worlds):
        part.suptitle(world, fontsize=10)
        for k, measure in enumerate(measures, 1):
            axes = part.add_subplot(down, across, k)
            panel(axes, [row for row in rows if row.world == world], measure)
            axes.set_xlabel("arithmetic, times plain's", fontsize=8)
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=colour, label=group)
               for group, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__.split(": ")[1])
    parser.add_argument("rows", type=Path, help="what --out of a yardstick wrote")
    parser.add_argument("--measure", action="append", help="default: all that the rows have; may be repeated")
    parser.add_argument("--world", action="append", help="default: all; may be repeated")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".png, .svg or .pdf")
    args = parser.parse_args(argv)
    rows = [row for row in load(args.rows) if not args.world or row.world in args.world]
    draw(rows, args.measure or [name for name in rows[0].measures if name in BETTER], args.out)


if __name__ == "__main__":
    main()
