"""Rows of measures, as JSON, as tables and as plots."""
from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ivmixed.cost import of_evaluation


@dataclass(frozen=True)
class Row:
    """What was measured of a setting with one seed."""

    world: str
    setting: str
    seed: int
    evaluations: Mapping[str, int]
    """By kind, see `settings.evaluations`; empty for true clips."""
    measures: Mapping[str, float]

    @property
    def price(self) -> float:
        """The evaluations for what they cost in arithmetic, in evaluations of the video model."""
        price = 0.0
        for kind, count in self.evaluations.items():
            model, _, attention = kind.removeprefix("outer ").partition(", ")
            price += count * of_evaluation(model, kind.startswith("outer"), attention or "own")
        return price


def save(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as JSON, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows))


def load(path: Path) -> list[Row]:
    """The inverse of `save`."""
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()]


def by_setting(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each setting, in order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.setting, []).append(row)
    return groups


def table(rows: Sequence[Row]) -> str:
    """A Markdown table: the evaluations, in brackets the price as a multiple of plain's, and of every measure mean and
    standard deviation over the seeds."""
    groups = by_setting(rows)
    plain = groups["plain"][0].price if "plain" in groups else 0
    names = list(rows[0].measures)
    lines = ["| | Evaluations | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for setting, own in groups.items():
        count, price = sum(own[0].evaluations.values()), own[0].price
        cost = "" if not count else f"{count} ({price / plain:.2f})" if plain else f"{count}"
        cells = [spread([row.measures[name] for row in own]) for name in names]
        lines.append(f"| {setting} | {cost} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{statistics.fmean(values):.3g} ± {statistics.stdev(values):.1g}"
