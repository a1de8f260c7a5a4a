"""``ivmixed bench make``: the clips of a suite, plain and IV-mixed from the same seeds, through a batch.

    FOLDER/clips/plain/...  FOLDER/clips/iv-mixed/...    in the suite's own layout, and nothing else in them
    FOLDER/sidecars/...     FOLDER/bench.json            settings of each clip; what was asked for
"""
from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...untrusted import JsonError, Refusal, parse_object, shown
from ..batch import store
from ..batch.command import make_rows
from ..batch.rows import MOST_BYTES, Row, RowsError, check_id, plain
from ..settings import Settings
from .suites import SUITES, VARIANTS, Prompt, as_text, read_prompts

NAME = "bench.json"
ENDING = "mp4"


@dataclass(frozen=True)
class SuiteClip:
    """One clip that a suite asks for, of each variant."""

    name: str
    """Its file in the folder of a variant, without the ending."""
    prompt: str
    generation: int
    """0 for the first clip of each prompt."""
    dimensions: tuple[str, ...] = ()

    def clip(self, variant: str) -> str:
        """Its file in the folder of the bench."""
        return f"clips/{variant}/{self.name}.{ENDING}"


@dataclass(frozen=True)
class Manifest:
    """What ``bench.json`` says."""

    suite: str
    file: str
    sha256: str
    prompts: int
    clips: tuple[SuiteClip, ...]


def make(args: argparse.Namespace, defaults: Callable[[Any], Settings]) -> int:
    """Makes the clips; returns the exit code. Raises Refusal."""
    suite, settings = SUITES[args.suite], defaults(args)
    if settings.options == settings.options.plain():
        raise Refusal("the options leave nothing of IV-mixed: a bench makes the plain clips by itself")
    prompts = read_prompts(suite, args.prompts)
    wanted, rows = rows_of(args.suite, prompts, args.prompts.name, settings)
    if len(prompts) != suite.prompts:
        print(f"{shown(str(args.prompts))} has {len(prompts)} prompts, {suite.title} {suite.prompts}: what is measured "
              "of them is not its figure", file=sys.stderr)
    if not args.plan:
        _keep(args.out, Manifest(args.suite, args.prompts.name, hashlib.sha256(args.prompts.read_bytes()).hexdigest(),
                                 len(prompts), tuple(wanted)))
    return make_rows(args, rows, ENDING, _place)


def rows_of(suite: str, prompts: Sequence[Prompt], file: str, settings: Settings) -> tuple[list[SuiteClip], list[Row]]:
    """The clips that are asked for, and a row of each variant of each, one after the other.

    Every clip of a suite has a seed of its own, from that of ``settings`` (0) on. Raises RowsError.
    """
    wanted: list[SuiteClip] = []
    rows: list[Row] = []
    problems = []
    options = {"plain": settings.options.plain(), "iv-mixed": settings.options}
    for prompt in prompts:
        where = f"{shown(file, 60)} line {prompt.line}"
        try:
            for k in range(prompt.clips):
                clip = SuiteClip(check_id(SUITES[suite].name(prompt, k)), prompt.text, k, prompt.dimensions)
                seed = (settings.seed or 0) + len(wanted)
                wanted.append(clip)
                rows += [Row(where, replace(settings, prompt=prompt.text, seed=seed, options=options[variant]),
                             f"{variant}/{clip.name}") for variant in VARIANTS]
        except Refusal as error:
            problems.append(f"{where}: {plain(error)}")
    if problems:
        raise RowsError(problems)
    return wanted, rows


def _place(clip: str) -> tuple[str, str]:
    return f"clips/{clip}", f"sidecars/{clip}.json"


def _keep(folder: Path, manifest: Manifest) -> None:
    """Writes ``bench.json``. Raises Refusal where the folder holds another suite, or cannot be written to."""
    if (folder / NAME).exists():
        there = manifest_of(folder)
        if there != manifest:
            raise Refusal(f"{shown(str(folder))} holds {there.suite} of {there.prompts} prompts, or other ones of the "
                          "same number; choose another --out")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with store.hidden(folder) as own:
            (own / NAME).write_text(as_text(asdict(manifest)), "utf-8")
            os.replace(own / NAME, folder / NAME)
    except OSError as error:
        raise Refusal(f"out = {shown(str(folder))} is no folder that can be written to: {error.strerror}") from None


def manifest_of(folder: Path) -> Manifest:
    """What was asked for in a folder. Raises Refusal where there is no bench in it."""
    try:
        if (folder / NAME).stat().st_size > 4 * MOST_BYTES:
            raise JsonError("is too large")
        values = parse_object((folder / NAME).read_bytes(), most=4 * MOST_BYTES)
        clips = tuple(SuiteClip(check_id(clip["name"]), str(clip["prompt"]), int(clip["generation"]),
                             tuple(map(str, clip["dimensions"]))) for clip in values["clips"])
        if values["suite"] not in SUITES:
            raise JsonError(f"is of the suite {shown(values['suite'])}, which is not known")
        return Manifest(values["suite"], str(values["file"]), str(values["sha256"]), int(values["prompts"]), clips)
    except OSError:
        raise Refusal(f"{shown(str(folder))} holds no clips of a bench: begin with ivmixed bench make") from None
    except (JsonError, KeyError, TypeError, ValueError) as error:
        raise Refusal(f"{shown(str(folder / NAME))} is damaged ({shown(plain(error), 100)})") from None
