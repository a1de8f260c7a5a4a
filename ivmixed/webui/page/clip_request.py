"""A clip asked for in the tab txt2vid: a request to the host like one of its tab txt2img, and what comes of it.

It goes through the host's own functions and the scripts of txt2img, which stand as that tab shows them when the page is
opened, but for motion and IV-mixed. So files, infotext, interrupt, live preview and other extensions are as there.
"""
from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modules import processing, scripts, shared

from ...clips.encode import Frames
from ...cost import work
from ...measures import pixels
from ...motion import MotionOptions
from ...options import ConflictError
from ...plan import Plan
from .. import MOTION, NAME, SAMPLERS, hosts, preview, request
from ..builtin import output
from ..extensions import animatediff
from ..options import WebUIOptions
from . import settings

MEASURES = {"sharpness": pixels.sharpness, "flicker": pixels.flicker, "motion": pixels.motion}


@dataclass(frozen=True)
class ClipSpec:
    """All that makes a clip. ``by_extension``: motion is AnimateDiff's, else built in. ``seed``: -1 for any.
    ``denoising_strength``: of a clip that starts from another."""

    prompt: str
    negative_prompt: str
    styles: list[str]
    sampler: str
    scheduler: str
    steps: int
    width: int
    height: int
    cfg_scale: float
    seed: int
    denoising_strength: float
    by_extension: bool
    motion: MotionOptions
    options: WebUIOptions

    def plan(self) -> Plan:
        """Raises OptionError."""
        return preview.plan_of(self.options, self.steps, self.scheduler,
                               self.denoising_strength if self.starts else None, sampler=self.sampler)

    @property
    def starts(self) -> bool:
        """It starts from another clip."""
        return self.motion.init_video is not None


@dataclass(frozen=True)
class ClipResult:
    """A finished clip. ``file`` is one that a page can play, None where none could be written; ``whole`` has its frames
    as exactly as there are files of them: PNG files, or that one; ``evaluations`` are those that were made, of so many
    ``planned``, and None with a sampler of the host's."""

    title: str
    file: Path | None
    whole: list[Path]
    poster: Image.Image
    fps: float
    infotext: str
    comments: str
    seed: int
    evaluations: int | None
    planned: int | None
    seconds: float
    measures: dict[str, float]
    interrupted: bool


def make(wanted: ClipSpec) -> list[ClipResult]:
    """One clip. Raises OptionError, and what the host raises."""
    return _make_all({wanted.sampler: wanted})


def compare(wanted: ClipSpec) -> list[ClipResult]:
    """A clip of the video model alone and one by IV-mixed, of one seed; fewer after an interrupt. Raises
    OptionError."""
    if wanted.sampler not in SAMPLERS:
        raise ConflictError("sampler", wanted.sampler, "a comparison", because="it is of a clip with and without the "
                            "extra loop, which other samplers do not have", remedy=f"take {', '.join(SAMPLERS)}")
    seeded = replace(wanted, seed=int(processing.get_fixed_seed(wanted.seed)))
    plain = replace(seeded, options=wanted.options.plain())
    return _make_all({"plain": plain, wanted.sampler: seeded})


def _make_all(asked: dict[str, ClipSpec]) -> list[ClipResult]:
    for wanted in asked.values():
        output.check(wanted.motion.formats)
        if wanted.starts and wanted.by_extension:
            raise ConflictError("init_video", "a clip", "motion of the AnimateDiff extension", because="it is for "
                                "built-in motion", remedy="take built-in motion, or no clip to start from")
    if len(asked) > 1:
        plans = [wanted.plan() for wanted in asked.values()]
        works = [work(plan, (wanted.height // 8, wanted.width // 8)) for plan, wanted in zip(plans, asked.values())]
        shared.total_tqdm.updateTotal(sum(plan.evaluations for plan in plans) * wanted.motion.free_init)
    made: list[ClipResult] = []
    try:
        for number, (title, wanted) in enumerate(asked.items()):
            if shared.state.interrupted or shared.state.stopping_generation:
                break
            if len(asked) > 1:
                # the host takes jobs for equally long: so many of this one's length there are, and were
                shared.state.job_count = sum(works) / works[number]
                shared.state.job_no = sum(works[:number]) / works[number]
            made.append(hosts.find().in_generation_thread(partial(_make, title, wanted)))
    finally:
        shared.total_tqdm.clear()
    return made


def _make(title: str, wanted: ClipSpec) -> ClipResult:
    p = _request(wanted)
    with closing(p):
        started = time.monotonic()
        result = processing.process_images(p)
        whole = time.monotonic() - started
    kept = request.of(p)
    if not kept.frames:
        raise RuntimeError("IV-mixed: the host was stopped before it made a clip")
    frames = np.stack(kept.frames[:wanted.motion.frames])
    files = [Path(image) for image in result.images if isinstance(image, str)] if kept.clip is None else kept.clip.files
    evaluations, planned, seconds = kept.sampled or (None, None, whole)
    played = output.to_play(files, list(frames), wanted.motion.fps)
    stills = [file for file in files if file.suffix == ".png"]
    return ClipResult(
        title=title, file=played, whole=stills if len(stills) == len(frames) else [played] if played else [],
        poster=Image.fromarray(frames[0]), fps=wanted.motion.fps,
        infotext=result.infotexts[result.index_of_first_image], comments=result.comments, seed=int(result.all_seeds[0]),
        evaluations=evaluations, planned=planned, seconds=seconds, measures=_measures(frames),
        interrupted=shared.state.interrupted or shared.state.skipped)


def _request(wanted: ClipSpec) -> Any:
    """As the tab txt2img makes one, or img2img where the clip starts from another, whose pictures are "Crop and
    resize"d."""
    opts, tab = shared.opts, "img2img" if wanted.starts else "txt2img"
    kind, more = processing.StableDiffusionProcessingTxt2Img, {}
    if wanted.starts:
        kind = processing.StableDiffusionProcessingImg2Img
        more = {"init_images": [], "resize_mode": 1, "denoising_strength": wanted.denoising_strength}
    p = kind(
        outpath_samples=opts.outdir_samples or getattr(opts, f"outdir_{tab}_samples"),
        outpath_grids=opts.outdir_grids or getattr(opts, f"outdir_{tab}_grids"),
        prompt=wanted.prompt, negative_prompt=wanted.negative_prompt, styles=wanted.styles, cfg_scale=wanted.cfg_scale,
        width=wanted.width, height=wanted.height, **more)
    p.scripts = getattr(scripts, f"scripts_{tab}")
    p.script_args = _arguments(p.scripts, wanted)
    # only now: the host's newer versions have scripts for these, which set them as the tab txt2img shows them
    p.sampler_name, p.steps, p.seed = wanted.sampler, wanted.steps, wanted.seed
    p.scheduler = wanted.scheduler
    request.of(p).frames = []
    return p


def _arguments(runner: Any, wanted: ClipSpec) -> tuple[Any, ...]:
    """Of all scripts; the first is which of those that are chosen from a list runs: none."""
    values = [0, *(getattr(component, "value", None) for component in runner.inputs[1:])]
    given: dict[str, Any] = {NAME: wanted.options.to_dict()}
    if wanted.by_extension:
        given |= {MOTION: False, animatediff.TITLE: animatediff.settings_of(wanted.motion)}
    else:
        given[MOTION] = wanted.motion.to_dict()
    for script in runner.alwayson_scripts:
        if script.title() in given:
            values[script.args_from] = given[script.title()]
    return tuple(values)


def _measures(frames: Frames) -> dict[str, float]:
    if len(frames) < 2 or not settings.measures():
        return {}
    return {name: value for name, measure in MEASURES.items() if math.isfinite(value := measure(frames))}
