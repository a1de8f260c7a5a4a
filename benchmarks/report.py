"""Rows of measures, as JSON, as tables and as plots."""
from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OUTER = 0.08
"""An evaluation of the outer layers alone, as a share of a whole one: what `cost.work` counts for SD 1.5 at 512x512."""


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
        """The evaluations, those of outer layers alone for what they cost."""
        return sum(count * (OUTER if kind.startswith("outer") else 1) for kind, count in self.evaluations.items())


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
    """A Markdown table: mean and standard deviation over the seeds, the price also as a multiple of plain's."""
    groups = by_setting(rows)
    plain = groups["plain"][0].price if "plain" in groups else 0
    names = list(rows[0].measures)
    lines = ["| | Evaluations | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for setting, own in groups.items():
        price = own[0].price
        cost = "" if not price else f"{price:g} ({price / plain:.2f})" if plain else f"{price:g}"
        cells = [spread([row.measures[name] for row in own]) for name in names]
        lines.append(f"| {setting} | {cost} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{statistics.fmean(values):.3g} ± {statistics.stdev(values):.1g}"
