"""``ivmixed bench measure``: features of all clips, kept beside them, and what follows from them.

Each network looks at each clip once. What it saw lies in FOLDER/features/<network>/ and is used again as long as the
clip and the network's file are the same. The features are computed by the workers that make clips, see `batch.engine`.
The figures go to FOLDER/measures.json, from which `report` makes its table.
"""
from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...clips import media
from ...clips.encode import Frames, MediaError
from ...measures import fvd, neural, table, umt
from ...options import OptionError
from ...untrusted import JsonError, Refusal, parse_object, shown
from .. import txt2vid
from ..batch import store
from ..batch.command import engine_of, whole
from ..batch.engine import EngineError, Lost
from ..batch.progress import Progress
from ..batch.rows import plain
from .make import Manifest, SuiteClip, manifest_of
from .suites import SUITES, VARIANTS, as_text

NAME = "measures.json"
TOGETHER = 8
"""Clips that a network is given at once."""
PIXELS, UMT, I3D, CLIP = "pixels", "umt", "i3d", "clip"

Features = dict[str, NDArray[np.float64]]
Network = Callable[[Sequence[Frames], Sequence[str]], list[Features]]
"""Takes clips of one shape and their prompts."""


@dataclass(frozen=True)
class Look:
    """One clip for one network. ``kept``: where what it sees goes; ``key``: what of clip and network it is of."""

    clip: Path
    prompt: str
    kept: Path
    key: str


@dataclass(frozen=True)
class Task:
    """Clips that a network looks at together."""

    network: str
    looks: tuple[Look, ...]


class FeatureWorker:
    """``FeatureWorker(files, device)(task)``: looks at the clips and keeps the features; says what went wrong, of each
    clip a line. ``files``: the weights of each network."""

    def __init__(self, files: Mapping[str, Path], device: str = "auto"):
        self.files, self.device = dict(files), device
        self._networks: dict[str, Network] = {}

    def __call__(self, task: Task) -> list[str]:
        problems, clips, looks = [], [], []
        for look in task.looks:
            try:
                clips.append(media.read(look.clip).frames)
                looks.append(look)
            except MediaError as error:
                problems.append(plain(error))
        network = self.network(task.network)
        for part in _alike(clips):
            try:
                seen = network([clips[k] for k in part], [looks[k].prompt for k in part])
            except (ValueError, RuntimeError) as error:  # a clip that is too short or too large, say
                if "CUDA error" in str(error):
                    raise Lost(plain(error)) from error
                problems += [f"{shown(str(looks[k].clip))}: {shown(plain(error))}" for k in part]
                continue
            for k, features in zip(part, seen):
                keep(looks[k], features)
        return problems

    def network(self, name: str) -> Network:
        """Loaded where it is not. Raises OptionError."""
        if name not in self._networks:
            self._networks[name] = self._load(name)
        return self._networks[name]

    def _load(self, network: str) -> Network:
        device = txt2vid.choose_device(self.device)
        if network == UMT:
            tower = umt.UMTFeatures(self.files[UMT], device)
            return lambda clips, _: [{"features": one} for one in tower(clips)]
        if network == I3D:
            cut = fvd.CutFeatures(self.files[I3D], device)
            return lambda clips, _: [{"features": one} for one in cut.of_all(clips)]
        if network == CLIP:
            score = neural.ClipScore(self.files[CLIP], device)
            return lambda clips, prompts: [{"clip": np.array(score(clip, prompt))}
                                           for clip, prompt in zip(clips, prompts)]
        return lambda clips, _: [_pixels(clip) for clip in clips]


def _pixels(clip: Frames) -> Features:
    row, _ = table.measure(clip)
    return {name: np.array(math.nan if value is None else value) for name, value in row.items()}


def _alike(clips: Sequence[Frames]) -> list[list[int]]:
    """Clips of one shape together."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    for k, clip in enumerate(clips):
        shapes.setdefault(clip.shape, []).append(k)
    return list(shapes.values())


# --- what was seen

def keep(look: Look, features: Features) -> None:
    """Writes features, whole or not at all."""
    look.kept.parent.mkdir(parents=True, exist_ok=True)
    with store.hidden(look.kept.parent) as own:
        np.savez(own / "features.npz", key=np.array(look.key), **features)
        os.replace(own / "features.npz", look.kept)


def kept(look: Look) -> Features | None:
    """What is kept of a look; None where there is nothing, or of another clip or network."""
    try:
        with np.load(look.kept, allow_pickle=False) as found:
            if str(found["key"]) != look.key:
                return None
            return {name: found[name].astype(np.float64) for name in found.files if name != "key"}
    except Exception:  # of any kind: what a damaged archive raises is up to numpy and zipfile
        return None


def _stat(path: Path) -> list[Any]:
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]


def _look(folder: Path, network: str, file: Path | None, clip: Path, name: str, prompt: str = "") -> Look:
    said = [network, _stat(file) if file else None, _stat(clip), prompt if network == CLIP else ""]
    return Look(clip.absolute(), prompt, (folder / "features" / network / f"{name}.npz").absolute(),
                hashlib.sha256(json.dumps(said).encode()).hexdigest())


# --- the command

def measure(args: argparse.Namespace) -> int:
    """Looks at what has not been looked at, and writes the figures; returns the exit code. Raises Refusal."""
    folder, manifest = args.out, manifest_of(args.out)
    files = {network: file for network, file in ((UMT, args.umt), (I3D, args.i3d), (CLIP, args.clip)) if file}
    batch = whole("fvd_batch", args.fvd_batch, 1, 100_000)
    engine, _ = engine_of(args)
    real_features = _check(args, files)
    there = {variant: [wanted for wanted in manifest.clips if (folder / wanted.clip(variant)).is_file()]
             for variant in VARIANTS}
    if not any(there.values()):
        raise Refusal(f"{shown(str(folder))} holds no finished clips: begin with ivmixed bench make")
    looks: dict[tuple[str, str], list[Look]] = {
        (network, variant): [_look(folder, network, files.get(network), folder / wanted.clip(variant),
                                   f"{variant}/{wanted.name}", wanted.prompt) for wanted in there[variant]]
        for network in (PIXELS, *files) for variant in VARIANTS}
    if I3D in files:
        clips = [clip for path in args.real for clip in media.clips_at(path)]
        looks[I3D, "real"] = [_look(folder, I3D, files[I3D], clip, f"real/{k:06d}-{clip.stem}")
                              for k, clip in enumerate(clips)]
    tasks = [Task(network, tuple(left[start:start + TOGETHER]))
             for (network, _), all_of in looks.items() if (left := [look for look in all_of if kept(look) is None])
             for start in range(0, len(left), TOGETHER)]
    for network in {task.network for task in tasks}:  # a file that is none is refused here, and not by a worker
        FeatureWorker(files, "cpu").network(network)
    problems = _run(tasks, engine, files, args)
    for problem in problems[:20]:
        print(f"ivmixed: {problem}", file=sys.stderr)
    seen = {side: [kept(look) for look in all_of] for side, all_of in looks.items()}
    figures = _figures(manifest, there, seen, real_features, batch)
    found = {"suite": manifest.suite, "file": manifest.file, "sha256": manifest.sha256, "prompts": manifest.prompts,
             "clips": {variant: len(there[variant]) for variant in VARIANTS}, "figures": figures,
             "not_measured": len(problems)}
    with store.hidden(folder) as own:
        (own / NAME).write_text(as_text(found), "utf-8")
        os.replace(own / NAME, folder / NAME)
    print(as_text(found) if args.json else folder / NAME)
    return 1 if problems else 0


def _check(args: argparse.Namespace, files: Mapping[str, Path]) -> neural.Features | None:
    """Refuses what cannot be measured, before the first clip is looked at; the features of UMT's reference."""
    for name, file in (("umt", args.umt), ("i3d", args.i3d), ("clip", args.clip)):
        if file is not None and not file.exists():
            raise OptionError(name, str(file), "a file that is there")
    if (args.umt is None) != (args.umt_reference is None):
        raise OptionError("umt_reference", args.umt_reference and str(args.umt_reference),
                          "--umt and --umt-reference together")
    if (args.i3d is None) != (not args.real):
        raise OptionError("real", [str(path) for path in args.real], "--i3d and --real together")
    return umt.reference(args.umt_reference) if UMT in files else None


def _run(tasks: Sequence[Task], engine: Any, files: Mapping[str, Path], args: argparse.Namespace) -> list[str]:
    """Does the tasks; what went wrong, in lines."""
    problems: list[str] = []
    if not tasks:
        return problems
    absolute = {network: file.absolute() for network, file in files.items()}
    factory = functools.partial(FeatureWorker, absolute, args.device)
    try:
        with engine as pool:
            progress = Progress(sum(len(task.looks) for task in tasks), 0, pool.workers, quiet=args.quiet, unit="looks")
            with closing(progress), closing(pool.run(tasks, factory)) as work:
                for done in work:
                    lost = [f"{shown(str(look.clip))}: its worker was lost ({done.lost})" for look in done.task.looks]
                    problems += lost if done.result is None else done.result
                    for _ in done.task.looks:
                        progress.update(0, made=False)
    except EngineError as error:
        problems.append(str(error))
    finally:
        store.sweep(args.out)
    return problems


# --- figures

def _figures(
    manifest: Manifest, there: Mapping[str, Sequence[SuiteClip]],
    seen: Mapping[tuple[str, str], Sequence[Features | None]], reference: neural.Features | None, batch: int,
) -> list[dict[str, Any]]:
    """A row of each measure and variant: ``measure``, ``variant``, ``value``, ``clips`` of ``of``, ``better``,
    ``spread`` and ``rests_on``."""
    suite = SUITES[manifest.suite]
    rows = []
    for variant in VARIANTS:
        def add(measure: str, value: float, clips: int, better: str, rests_on: str, spread: Mapping[str, Any],
                of: int = suite.clips, variant: str = variant) -> None:
            if math.isfinite(value):
                rows.append({"measure": measure, "variant": variant, "value": value, "clips": clips, "of": of,
                             "better": better, "spread": dict(spread), "rests_on": rests_on})

        if reference is not None:
            _add_umt(add, there[variant], seen[UMT, variant], reference)
        if (I3D, variant) in seen:
            _add_fvd(add, seen[I3D, variant], seen[I3D, "real"], batch)
        for network in (CLIP, PIXELS):
            _add_means(add, [one for one in seen.get((network, variant), ()) if one is not None])
        if manifest.suite == "vbench":
            _add_flickering(add, there[variant], seen[PIXELS, variant])
    return rows


def _add_umt(add: Any, wanted: Sequence[SuiteClip], seen: Sequence[Features | None],
             reference: neural.Features) -> None:
    generations: dict[int, list[NDArray[np.float64]]] = {}
    for clip, features in zip(wanted, seen):
        if features is not None:
            generations.setdefault(clip.generation, []).append(features["features"])
    found = {k: umt.umt_fvd(np.stack(made), reference) for k, made in sorted(generations.items()) if len(made) > 1}
    if not found:
        return
    values = [value for value, _ in found.values()]
    of_seeds = [float(np.mean([subset[seed] for _, subsets in found.values() for subset in subsets.values()]))
                for seed in range(len(umt.SEEDS))]
    subsets = {str(size): float(np.mean([of[size] for _, of in found.values()])) for size in umt.SUBSETS}
    add("UMT-FVD", float(np.mean(values)), sum(len(generations[k]) for k in found), "less",
        f"UMT's vision tower against {len(reference)} reference features; mean over {len(umt.SEEDS)} seeds, "
        f"{len(umt.SUBSETS)} subset sizes and {len(found)} generations",
        {"generations": values, "seeds": of_seeds, "subsets": subsets})


def _add_fvd(
    add: Any, seen: Sequence[Features | None], real: Sequence[Features | None], batch: int,
) -> None:
    made, known = ([one["features"] for one in side if one is not None] for side in (seen, real))
    if min(len(made), len(known)) < 2:
        return
    ours, theirs = np.stack(made), np.stack(known)
    on = f"I3D features against {len(known)} real clips"
    add("FVD", fvd.fvd(ours[:, -1], theirs[:, -1]), len(made), "less",
        f"{on}; one distance over all clips at {fvd.FRAMES} frames", {})
    add(f"FVD in batches of {batch}", fvd.fvd_in_batches(ours, theirs, batch), min(len(made), len(known)), "less",
        f"{on}; mean over batches of {batch} and clips cut to {fvd.SHORTEST} to {fvd.FRAMES} frames, as the script of "
        "Open-Sora-Plan", {})


def _add_means(add: Any, seen: Sequence[Features]) -> None:
    better = {**{name: declared.better for name, declared in table.MEASURES.items()}, "clip": "more"}
    for name in (seen[0] if seen else ()):
        values = np.array([float(one[name]) for one in seen])
        values = values[np.isfinite(values)]
        if len(values):
            error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
            add("CLIP score" if name == "clip" else name, float(values.mean()), len(values), better[name],
                "mean over clips", {"standard_error": error})


def _add_flickering(add: Any, wanted: Sequence[SuiteClip], seen: Sequence[Features | None]) -> None:
    values = [(255 - float(one["flicker"])) / 255 for clip, one in zip(wanted, seen)
              if one is not None and "temporal_flickering" in clip.dimensions]
    if values:
        add("temporal flickering", float(np.mean(values)), len(values), "more",
            "mean over the clips of its prompts, without VBench's filter", {}, of=75 * 25)


def measures_of(folder: Path) -> dict[str, Any]:
    """What ``measures.json`` says. Raises Refusal."""
    try:
        return parse_object((folder / NAME).read_bytes())
    except OSError:
        raise Refusal(f"{shown(str(folder))} holds no measures: ivmixed bench measure makes them") from None
    except JsonError as error:
        raise Refusal(f"{shown(str(folder / NAME))} {error}") from None


