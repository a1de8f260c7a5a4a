"""Rows become jobs: every clip checked, named and given its identity before any model is loaded.

The identity of a clip is the SHA-256 of all that makes it: the resolved settings, the size and date of each file
that they name, and the version of this package. A clip whose sidecar has it is never made again.
"""
from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from ... import __version__
from ...options import OptionError
from ...untrusted import Refusal
from .. import txt2vid
from ..settings import Settings, files_of
from .rows import Row, RowsError, plain

ENDINGS = ("mp4", "webm", "gif", "webp")
"""Formats that hold a clip in one file."""
MODELS = ("checkpoint", "motion_module", "image_checkpoint", "vae", "lora", "image_lora", "prediction", "zero_snr",
          "image_prediction", "image_zero_snr", "precision", "controlnet")
"""The settings that decide which models are loaded, and how."""

Place = Callable[[str], tuple[str, str]]
"""Where a clip and its sidecar go, from the clip's file name, relative to the folder of the batch."""


@dataclass(frozen=True)
class Job:
    """One clip to be made."""

    where: str
    """Its row."""
    settings: Settings
    """Complete: with seed and precision."""
    clip: str
    """Its file, relative to the folder, with "/"."""
    sidecar: str
    identity: str
    evaluations: int

    @property
    def models(self) -> tuple[object, ...]:
        """What tells its models from those of others."""
        return tuple(getattr(self.settings, name) for name in MODELS)


def beside(clip: str) -> tuple[str, str]:
    """The sidecar beside the clip, as `media.write_clip` has it."""
    return clip, clip + ".json"


def prepare(rows: Sequence[Row], device: torch.device, ending: str = "mp4", place: Place = beside) -> list[Job]:
    """The jobs of all rows, in their order, sorted by their models so that these are loaded as seldom as can be.

    ``device``: what is not said of precision is what suits it. Reads headers of model files, and no weights. Raises
    RowsError with a line for each row that is refused.
    """
    jobs: list[Job] = []
    problems: list[str] = []
    names: dict[str, str] = {}
    for row in rows:
        try:
            for id, settings in row.clips():
                settings = txt2vid.complete(settings, device)
                evaluations = _checked(settings)
                identity = identity_of(settings)
                clip, sidecar = place((id or _name(settings, identity)) + "." + ending)
                if clip in names:
                    raise OptionError("id", clip, f"another name, or another seed: {names[clip]} has this one")
                names[clip] = row.where
                jobs.append(Job(row.where, settings, clip, sidecar, identity, evaluations))
        except Refusal as error:
            problems.append(f"{row.where}: {plain(error)}")
    if problems:
        raise RowsError(problems)
    first: dict[tuple[object, ...], int] = {}
    for job in jobs:
        first.setdefault(job.models, len(first))
    return sorted(jobs, key=lambda job: first[job.models])


def identity_of(settings: Settings) -> str:
    """The identity of the clip that complete settings make."""
    whole = {"version": __version__, "settings": settings.to_dict(), "files": _stats(_paths(settings))}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def shard(jobs: Sequence[Job], part: str) -> list[Job]:
    """Every n-th job, from the i-th on, of ``part`` "i/n". Raises OptionError."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", part, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise OptionError("shard", part, "i/n, the i-th of n parts, such as 1/8 to 8/8")
    return list(jobs[int(match[1]) - 1::int(match[2])])


def _checked(settings: Settings) -> int:
    """The evaluations of settings that can be run. What does not hang on the prompt is looked at once."""
    evaluations = _checked_without_prompt(replace(settings, prompt="x", negative_prompt="", seed=0))
    txt2vid.check_words(settings)
    return evaluations


@cache
def _checked_without_prompt(settings: Settings) -> int:
    txt2vid.check(settings)
    return settings.free_init * txt2vid.plan(settings).evaluations


def _name(settings: Settings, identity: str) -> str:
    """For a clip without an id: what it shows, its seed, and enough of its identity to be the only one."""
    words = re.sub(r"[^a-z0-9]+", "-", settings.prompt.lower()).strip("-")[:48].strip("-") or "clip"
    return f"{words}-{settings.seed}-{identity[:8]}"


def _paths(settings: Settings) -> tuple[str, ...]:
    """All files but those of the box, which come with the version."""
    return tuple(file for files in files_of(settings.to_dict()).values() for file in files)


@cache
def _stats(paths: Iterable[str]) -> Mapping[str, tuple[int, int]]:
    """Size in bytes and date in seconds of each file, of the .yaml that may lie beside it, and of all in a folder."""
    found = {}
    for path in paths:
        inside = sorted(file for file in Path(path).rglob("*") if file.is_file()) if os.path.isdir(path) else [
            file for file in (Path(path), Path(path).with_suffix(".yaml")) if file.is_file()]
        for file in inside:
            status = file.stat()
            found[str(file)] = status.st_size, int(status.st_mtime)
    return found
