"""What each benchmark asks for: prompts, clips of each, their names, and what has been published.

Sources: the repositories named in each suite's ``source``, and arXiv 2410.04171 for the paper's figures. No prompts
come along: they are read from the benchmark's own file.
"""
from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...untrusted import JsonError, Refusal, parse, shown

VARIANTS = ("plain", "iv-mixed")
"""What is made from each prompt and seed."""
_MOST_BYTES = 1 << 26


@dataclass(frozen=True)
class Prompt:
    """A prompt of a suite. ``key``: what its clips are named after; ``clips``: how many; ``line``: where it stands."""

    key: str
    text: str
    clips: int
    line: int
    dimensions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A published value of a measure. ``of``: the variant that it is of, or "" for another model's."""

    measure: str
    of: str
    value: float
    source: str


@dataclass(frozen=True)
class Suite:
    """One benchmark."""

    title: str
    prompts: int
    clips: int
    """Of each variant, in all."""
    source: str
    """Where the file of prompts is from, and what it has to be."""
    read: Callable[[Path], list[Prompt]]
    name: Callable[[Prompt, int], str]
    """The file of the k-th clip of a prompt (from 0), without its ending, in the folder of its variant."""
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(_text(file).split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise Refusal(f"{shown(str(file))} is larger than {_MOST_BYTES >> 20} MiB")
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise Refusal(f"{shown(str(file))} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Refusal(f"{shown(str(file))} is no UTF-8") from None


def _tabbed(clips: int) -> Callable[[Path], list[Prompt]]:
    """``key<TAB>prompt`` on each line."""
    def read(file: Path) -> list[Prompt]:
        found = []
        for number, line in _lines(file):
            key, tab, text = line.partition("\t")
            if not tab or not text.strip():
                raise Refusal(f"{shown(str(file))} line {number} is no name, a tab and a prompt")
            found.append(Prompt(key.strip(), text.strip(), clips, number))
        return found

    return read


def _chronomagic(file: Path) -> list[Prompt]:
    """The bench's CSV: ``videoid`` and ``name``, which is the caption."""
    reader = csv.DictReader(io.StringIO(_text(file), newline=""), strict=True)
    try:
        if not {"videoid", "name"} <= set(reader.fieldnames or ()):
            raise Refusal(f"{shown(str(file))} has no columns videoid and name")
        return [Prompt(str(row["videoid"]), str(row["name"]), 3, reader.line_num) for row in reader]
    except csv.Error as error:
        raise Refusal(f"{shown(str(file))} line {reader.line_num} is no CSV ({shown(str(error))})") from None


def _vbench(file: Path) -> list[Prompt]:
    """VBench_full_info.json: a prompt may be of several dimensions, and stands in it once or twice."""
    try:
        entries: Any = parse(_text(file), most=_MOST_BYTES)
    except JsonError as error:
        raise Refusal(f"{shown(str(file))} {error}") from None
    dimensions: dict[str, list[str]] = {}
    for entry in entries if isinstance(entries, list) else [None]:
        if not isinstance(entry, dict) or not isinstance(entry.get("prompt_en"), str):
            raise Refusal(f"{shown(str(file))} is no list of objects with prompt_en and dimension")
        dimensions.setdefault(entry["prompt_en"], []).extend(map(str, entry.get("dimension") or ()))
    return [Prompt(text, text, 25 if "temporal_flickering" in of else 5, k, tuple(dict.fromkeys(of)))
            for k, (text, of) in enumerate(dimensions.items(), 1)]


def _numbered(prompt: Prompt, k: int) -> str:
    return f"{prompt.key}-{k}"


def _in_generations(prompt: Prompt, k: int) -> str:
    return f"{k + 1}/{prompt.key}"


_PAPER = "arXiv 2410.04171"
_LEADERBOARD = "ChronoMagic-Bench's own leaderboard (results_ChronoMagic-Bench-150.csv at e6b75ffc)"

SUITES = {
    "ucf101": Suite(
        "UCF-101-FVD", 101, 505,
        "class<TAB>prompt on each line, the 101 prompts of Ge et al. 2023 (no public file of them is known)",
        _tabbed(5), _numbered,
        notes=("Prompts that are templates, such as the class's name in a sentence, are not the paper's.",
               "The reference is 505 clips of UCF-101, five of each class; which ones the paper does not say.")),
    "msrvtt": Suite(
        "MSR-VTT-FVD", 497, 1491,
        "videoid<TAB>caption on each line, of MSR-VTT's 497 validation clips", _tabbed(3), _numbered,
        notes=("Which of a clip's twenty captions the paper takes it does not say.",)),
    "chronomagic-150": Suite(
        "ChronoMagic-Bench-150", 150, 450,
        "prompts/Captions_ChronoMagic-Bench-150.csv of PKU-YuanGroup/ChronoMagic-Bench", _chronomagic, _in_generations,
        figures=(Figure("UMT-FVD", "plain", 275.2, _PAPER), Figure("UMT-FVD", "iv-mixed", 228.6, _PAPER),
                 Figure("UMT-FVD", "", 239.31, f"AnimateDiff-V3 in {_LEADERBOARD}"),
                 Figure("UMT-FVD", "", 223.05, f"Pika-1.0 in {_LEADERBOARD}; the paper calls it Pika-2.0")),
        notes=("The paper has plain AnimateDiff at 275.2, the bench's own leaderboard AnimateDiff-V3 at 239.31.",)),
    "chronomagic-1649": Suite(
        "ChronoMagic-Bench-1649", 1649, 4947,
        "prompts/Captions_ChronoMagic-Bench.csv of PKU-YuanGroup/ChronoMagic-Bench", _chronomagic, _in_generations),
    "vbench": Suite(
        "VBench", 944, 6220, "vbench/VBench_full_info.json of Vchitect/VBench", _vbench, _numbered,
        notes=("VBench's own measures are read from vbench/plain.json and vbench/iv-mixed.json in the folder of the "
               "bench, where its results are put.",
               "Temporal flickering is computed here without VBench's filter for clips that stand still.")),
}


def read_prompts(suite: Suite, file: Path) -> list[Prompt]:
    """The prompts of a suite's file. Raises Refusal: it is none, or holds none."""
    prompts = suite.read(file)
    if not prompts:
        raise Refusal(f"{shown(str(file))} holds no prompts; needed: {suite.source}")
    return prompts


def as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
