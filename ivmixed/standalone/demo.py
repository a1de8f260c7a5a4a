"""``ivmixed demo``: plain and IV-mixed clips of the bundled model from the same seeds, side by side and measured."""
from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..clips import media
from ..measures import pixels
from ..options import OptionError
from ..presets import PRESETS
from . import txt2vid
from .box import FRAMES
from .box.checker import obeys
from .box.scenes import random_scene, render
from .pipeline import Clip
from .settings import Settings

PROMPTS = ("a red circle moves right", "a blue square turns", "a yellow star bounces", "a green triangle moves up")
STEPS, SEED = 15, 1
SAMPLERS = {"plain": PRESETS["plain"].options, "IV-mixed": PRESETS["quality"].options}

Frames = NDArray[np.uint8]


def demo(folder: Path, device: str = "auto", as_json: bool = False) -> dict[str, dict[str, Any]]:
    """Writes ``demo.gif`` and ``demo.png`` to ``folder``, prints and returns the table (by name of the sampler).

    Raises OptionError where ``folder`` cannot be made.
    """
    gif, sheet = folder / "demo.gif", folder / "demo.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError("out", str(folder), f"a folder that can be written to ({error.strerror})") from None
    media.check_out(gif, 8)
    clips = make_clips(device)
    reference = [clip for k in range(8) for clip in real_clips(SEED + k)]
    table = {"real": measure(real_clips(SEED - 1), PROMPTS, reference), **{
        name: {"evaluations": made[0].plan.evaluations, "seconds": sum(clip.seconds for clip in made) / len(made),
               **measure([clip.frames for clip in made], PROMPTS, reference)} for name, made in clips.items()}}
    rows = [media.side_by_side([clip.frames for clip in pair], [f"{name}: {prompt}" for name in clips])
            for prompt, pair in zip(PROMPTS, zip(*clips.values()))]
    settings = clips["IV-mixed"][0].settings
    _, problems = media.save_clip(gif, np.concatenate(rows, axis=1), 8, settings)
    for problem in problems:
        print(f"ivmixed: {problem}", file=sys.stderr)
    labels = [f"{prompt} - {name}" for prompt in PROMPTS for name in clips]
    frames = [clip.frames for pair in zip(*clips.values()) for clip in pair]
    media.write_picture(sheet, media.contact_sheet(frames, labels))
    print(json.dumps(table) if as_json else _text(table) + f"\n{gif}\n{sheet}")
    return table


def make_clips(device: str = "auto") -> dict[str, list[Clip]]:
    """A plain and an IV-mixed clip of every prompt, from the same seeds."""
    target = txt2vid.choose_device(device)
    pipe = txt2vid.load(txt2vid.complete(Settings(prompt=PROMPTS[0]), target), target)
    clips: dict[str, list[Clip]] = {name: [] for name in SAMPLERS}
    with tqdm(total=len(clips) * len(PROMPTS), unit="clip") as progress:
        for k, prompt in enumerate(PROMPTS):
            for name, options in SAMPLERS.items():
                settings = Settings(prompt=prompt, steps=STEPS, seed=SEED + k, options=options)
                clips[name].append(txt2vid.generate(settings, device, pipe=pipe, progress=False))
                progress.update()
    return clips


def real_clips(seed: int) -> list[Frames]:
    """One drawn clip of every prompt."""
    generator = torch.Generator().manual_seed(seed)
    return [media.as_frames(render(random_scene(generator, prompt), FRAMES)) for prompt in PROMPTS]


def measure(clips: Sequence[Frames], prompts: Sequence[str], real: Sequence[Frames]) -> dict[str, float]:
    """The measures of `metrics`, means over the clips, and how many obey their prompt."""
    tensors = [torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255 for clip in clips]
    return {
        "sharpness": float(np.mean([pixels.sharpness(clip) for clip in clips])),
        "distance": pixels.frame_distance(np.concatenate(clips), np.concatenate(real)),
        "flicker": float(np.mean([pixels.flicker(clip) for clip in clips])),
        "motion": float(np.mean([pixels.motion(clip) for clip in clips])),
        "obeyed": sum(obeys(clip, prompt) for clip, prompt in zip(tensors, prompts)) / len(clips),
    }


def _text(table: dict[str, dict[str, Any]]) -> str:
    keys = ("evaluations", "seconds", "sharpness", "distance", "flicker", "motion", "obeyed")
    lines = [f"{'a clip of':<10}" + "".join(f"{key:>12}" for key in keys)]
    for name, row in table.items():
        cells = [f"{row[key]:12.0%}" if key == "obeyed" else f"{row[key]:12.4g}" if key in row else f"{'-':>12}"
                 for key in keys]
        lines.append(f"{name:<10}" + "".join(cells))
    return "\n".join(lines)
