"""``python -m benchmarks.box.long``: clips of 96 frames in context windows, with each fusion and each kind of noise."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ivmixed.clips import media
from ivmixed.measures import pixels
from ivmixed.motion.windows import uniform_windows
from ivmixed.presets import PRESETS
from ivmixed.standalone import box, txt2vid
from ivmixed.standalone.box.scenes import random_scene, render
from ivmixed.standalone.settings import Settings

PROMPTS = ("a yellow star bounces", "a blue square turns", "a red triangle bounces")
"""What can go on for any number of frames."""
SETTINGS = {**{fuse: {"fuse": fuse} for fuse in ("last", "mean", "pyramid", "linear")},
            "pyramid, FreeNoise": {"fuse": "pyramid", "noise": "freenoise"},
            "pyramid, repeat": {"fuse": "pyramid", "noise": "repeat"}}

Clip = NDArray[np.uint8]


def settings_of(prompt: str, seed: int, frames: int, steps: int, preset: str, wanted: dict[str, str]) -> Settings:
    """A clip in windows of as many frames as the bundled model learned from."""
    return Settings(prompt=prompt, seed=seed, frames=frames, steps=steps, context=box.FRAMES,
                    options=PRESETS[preset].options, **wanted)


def jump(clip: Clip, settings: Settings, steps: int) -> float:
    """How much more a clip changes where a window of the last step begins than elsewhere: 1 is as much."""
    windows = uniform_windows(steps - 1, **settings.windows(len(clip)))
    starts = sorted({window[0] for window in windows} - {0})
    changes = np.abs(np.diff(clip.astype(np.float64), axis=0)).mean(axis=(1, 2, 3))  # the k-th is from frame k to k + 1
    at = np.zeros(len(changes), bool)
    at[[start - 1 for start in starts]] = True
    return float(changes[at].mean() / changes[~at].mean())


def row(name: str, clips: Sequence[Clip], jumps: Sequence[float], real: Clip) -> str:
    """Of all clips of a setting, as a line of Markdown."""
    cells = [pixels.frame_distance(np.concatenate(clips)[::3], real), np.mean([pixels.flicker(clip) for clip in clips]),
             np.mean([pixels.motion(clip) for clip in clips]), np.mean(jumps)]
    return f"| {name} | " + " | ".join(f"{cell:.{digits}f}" for cell, digits in zip(cells, (1, 1, 1, 2))) + " |"


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.box.long", description=__doc__.split(": ")[1])
    parser.add_argument("--clips", type=int, default=3, help="for each setting (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=96, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--preset", default="quality", choices=PRESETS, help="default: %(default)s")
    parser.add_argument("--setting", action="append", choices=SETTINGS, help="only this; may be repeated")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="a strip of each setting's first clip")
    args = parser.parse_args(argv)
    prompts = [PROMPTS[k % len(PROMPTS)] for k in range(args.clips)]
    device = torch.device("cpu")
    pipe = txt2vid.load(txt2vid.complete(Settings(prompt=PROMPTS[0]), device), device)
    generator = torch.Generator().manual_seed(1_000)
    drawn = [media.as_frames(render(random_scene(generator, prompt), args.frames)) for prompt in prompts]
    real = np.concatenate([media.as_frames(render(random_scene(generator, prompt), args.frames))
                           for prompt in PROMPTS for _ in range(4)])[::9]
    print("| | Distance | Flicker | Motion | Jump |\n|---|---|---|---|---|")
    strips = {}
    for name in ("drawn clips", *(args.setting or SETTINGS)):
        wanted = [settings_of(prompt, k, args.frames, args.steps, args.preset, SETTINGS.get(name, {}))
                  for k, prompt in enumerate(prompts)]
        clips = drawn if name not in SETTINGS else [
            txt2vid.generate(settings, "cpu", pipe=pipe, progress=False).frames for settings in wanted]
        print(row(name, clips, [jump(*pair, args.steps) for pair in zip(clips, wanted)], real), flush=True)
        strips[name] = clips[0]
    if args.sheet:
        sheet = media.contact_sheet(list(strips.values()), list(strips), columns=12)
        sheet.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(args.sheet, optimize=True)


if __name__ == "__main__":
    main()
