"""``ivmixed bench report``: plain against IV-mixed, with the published figures beside them, as Markdown and JSON.

No value stands without the number of clips that it is of: where these are fewer than the suite asks for, it says so in
the row and above the table, as such a value does not compare with published ones.
"""
from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...untrusted import JsonError, Refusal, parse_object, shown
from ..batch import store
from .make import manifest_of
from .measure import measures_of
from .suites import SUITES, VARIANTS, as_text

NAMES = ("report.md", "report.json")


def report(args: argparse.Namespace) -> int:
    """Writes and prints the report; returns the exit code. Raises Refusal."""
    found = tabulate(measures_of(args.out), _vbench(args.out), manifest_of(args.out).suite)
    text = markdown(found)
    try:
        with store.hidden(args.out) as own:
            for name, content in zip(NAMES, (text, as_text(found))):
                (own / name).write_text(content, "utf-8")
                os.replace(own / name, args.out / name)
    except OSError as error:
        raise Refusal(f"{shown(str(args.out))} cannot be written to: {error.strerror}") from None
    print(as_text(found) if args.json else text, end="")
    return 0


def tabulate(measured: Mapping[str, Any], vbench: Sequence[Mapping[str, Any]], suite_name: str) -> dict[str, Any]:
    """The report as data: ``rows``, one for each measure, ``published`` figures, ``incomplete`` and ``notes``."""
    suite = SUITES[suite_name]
    figures = [*measured["figures"], *vbench]
    rows = []
    for measure in dict.fromkeys(figure["measure"] for figure in figures):
        of = {figure["variant"]: figure for figure in figures if figure["measure"] == measure}
        values = {variant: of.get(variant) for variant in VARIANTS}
        one = next(iter(of.values()))
        rows.append({"measure": measure, "better": one["better"], "rests_on": one["rests_on"], **values,
                     "incomplete": any(figure["clips"] != figure["of"] for figure in of.values())})
    clips = measured["clips"]
    incomplete = ""
    if any(clips[variant] != suite.clips for variant in VARIANTS) or measured["prompts"] != suite.prompts:
        said = " and ".join(f"{clips[variant]} {variant}" for variant in VARIANTS)
        incomplete = (f"These are not the figures of {suite.title}: they are of {said} clips, and it asks for "
                      f"{suite.clips} each. They do not compare with published ones.")
    published = [{"measure": figure.measure, "of": figure.of, "value": figure.value, "source": figure.source}
                 for figure in suite.figures]
    return {"suite": suite_name, "title": suite.title, "prompts": measured["prompts"], "clips": clips,
            "incomplete": incomplete, "rows": rows, "published": published, "notes": list(suite.notes)}


def markdown(found: Mapping[str, Any]) -> str:
    """The report as a page."""
    lines = [f"# {found['title']}: plain against IV-mixed", ""]
    if found["incomplete"]:
        lines += [f"**{found['incomplete']}**", ""]
    lines += ["| Measure | plain | IV-mixed | Change | Better |", "|---|---|---|---|---|"]
    for row in found["rows"]:
        cells = [_value(row[variant]) for variant in VARIANTS]
        lines.append(f"| {row['measure']} | {cells[0]} | {cells[1]} | {_change(row)} | {row['better']} |")
    lines += [""]
    if found["published"]:
        lines += ["Published, each by its own clips:", "", "| Measure | Of | Value | Source |", "|---|---|---|---|"]
        lines += [f"| {one['measure']} | {one['of'] or 'another model'} | {one['value']:g} | {one['source']} |"
                  for one in found["published"]]
        lines += [""]
    alike: dict[str, list[str]] = {}  # measures by what is said of them
    for row in found["rows"]:
        alike.setdefault(f"{row['rests_on']}.{_spread(row)}", []).append(row["measure"])
    lines += [f"- {', '.join(measures)}: {said}" for said, measures in alike.items()]
    lines += [f"- {note}" for note in found["notes"]]
    return "\n".join(lines) + "\n"


def _value(figure: Mapping[str, Any] | None) -> str:
    """With its number of clips wherever that is not the suite's."""
    if figure is None:
        return "-"
    few = f" ({figure['clips']} of {figure['of']} clips)" if figure["clips"] != figure["of"] else ""
    error = figure["spread"].get("standard_error")
    return f"{figure['value']:.4g}" + (f" ± {error:.2g}" if error else "") + few


def _change(row: Mapping[str, Any]) -> str:
    before, after = (row[variant] for variant in VARIANTS)
    if before is None or after is None or not before["value"]:
        return "-"
    return f"{100 * (after['value'] / before['value'] - 1):+.1f} %"


def _spread(row: Mapping[str, Any]) -> str:
    """Over generations and subsets, where there are some."""
    said = []
    for variant in VARIANTS:
        spread = (row[variant] or {}).get("spread", {})
        if spread.get("generations"):
            generations = ", ".join(f"{value:.4g}" for value in spread["generations"])
            sizes = ", ".join(f"{size}: {value:.4g}" for size, value in spread["subsets"].items())
            said.append(f" {variant}: by generation {generations}; by seed {min(spread['seeds']):.4g} to "
                        f"{max(spread['seeds']):.4g}; by size of the subset {sizes}.")
    return "".join(said)


def _vbench(folder: Path) -> list[dict[str, Any]]:
    """The values of VBench's own results, where they lie in the folder. Raises Refusal for a file that is none."""
    rows = []
    for variant in VARIANTS:
        file = folder / "vbench" / f"{variant}.json"
        if not file.exists():
            continue
        try:
            results = parse_object(file.read_bytes(), most=1 << 26)
            for dimension, result in results.items():
                value, details = result
                rows.append({"measure": f"VBench {shown(dimension, 60)}", "variant": variant, "value": float(value),
                             "clips": len(details), "of": len(details), "better": "more", "spread": {},
                             "rests_on": "VBench's own results"})
        except (OSError, JsonError, ValueError, TypeError) as error:
            raise Refusal(f"{shown(str(file))} is no file of VBench's results ({shown(str(error), 100)})") from None
    return rows
