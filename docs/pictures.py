"""Makes the strips of README.md, docs/guide.md and docs/standalone.md:
``.venv/bin/python docs/pictures.py [STRIP ...]``.

The clips are the bundled model's.
"""
from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from ivmixed import Options
from ivmixed.clips import media
from ivmixed.measures import pixels
from ivmixed.presets import PRESETS
from ivmixed.standalone import txt2vid
from ivmixed.standalone.box.scenes import random_scene, render
from ivmixed.standalone.pipeline import Clip
from ivmixed.standalone.settings import Settings

IMAGES = Path(__file__).parent / "images" / "guide"
PROMPT, SEED, STEPS = "a yellow star bounces", 3, 15
LATE = (60, 100)
"""The interval that suits this model."""

STRIPS = {
    "presets": {name: PRESETS[name].options for name in ("plain", "fast", "balanced", "quality", "paper")},
    "gamma": {"plain": Options(interval=(0, 0)), **{
        f"gamma {gamma}": Options(gamma_go=gamma, gamma_back=gamma, interval=LATE) for gamma in (0, 2, 4, 8)}},
    "z": {f"z {percent}%": Options(z_percent=percent, interval=LATE) for percent in (0, 50, 100)},
    "interval": {f"{start} to {end}%": Options(interval=(start, end))
                 for start, end in ((0, 0), (0, 50), (60, 100), (0, 100))},
    "finish": {f"{percent}%" + ", smoothed" * (smoothing > 0): Options(
        interval=(0, 0), finish_percent=percent, finish_by="steps", finish_smoothing=smoothing)
        for percent, smoothing in ((0, 0), (20, 0), (20, 100), (40, 0), (40, 100), (100, 0))},
}
DRAWN, RESTYLED, STRENGTHS = "a red circle moves right", "a red star moves right", (0.3, 0.5, 0.7)
"""What the strip "restyle" begins with, its prompt, and how much of it changes."""


def main(names: Sequence[str] = ()) -> None:
    """Makes the strips of these names; all where none is named."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in names or (*STRIPS, "restyle"):
        if name == "restyle":
            restyle()
            continue
        clips = made({label: {"prompt": PROMPT, "seed": SEED, "options": options}
                      for label, options in STRIPS[name].items()})
        strip(IMAGES / f"{name}.png", {label: clip.frames for label, clip in clips.items()})
        print(f"\n{name}", *rows(clips), sep="\n")


def made(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Clip]:
    """A clip of each settings."""
    device = txt2vid.choose_device("cpu")
    pipe = txt2vid.load(txt2vid.complete(Settings(prompt=PROMPT), device), device)
    return {label: txt2vid.generate(Settings(steps=STEPS, **values), "cpu", pipe=pipe, progress=False)
            for label, values in tqdm(settings.items())}


def restyle() -> None:
    """A drawn clip, and what becomes of it with another prompt."""
    drawn = media.as_frames(render(random_scene(torch.Generator().manual_seed(SEED), DRAWN)))
    with tempfile.TemporaryDirectory() as folder:
        video, _ = media.write_clip(Path(folder) / "drawn.webp", drawn, Clip.fps, {})
        clips = made({f"strength {strength}": {
            "prompt": RESTYLED, "seed": SEED, "init_video": video, "strength": strength,
            "options": PRESETS["quality"].options} for strength in STRENGTHS})
    strip(IMAGES / "restyle.png", {f"drawn: {DRAWN}": drawn, **{
        f"{label}: {RESTYLED}": clip.frames for label, clip in clips.items()}})


def strip(path: Path, clips: Mapping[str, media.Frames]) -> None:
    """Six frames of every clip in a row."""
    sheet = media.contact_sheet([frames[::2] for frames in clips.values()], list(clips), columns=6)
    sheet.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def rows(clips: dict[str, Clip]) -> Iterator[str]:
    """What the page says of them."""
    for label, clip in clips.items():
        yield (f"| {label} | {clip.plan.evaluations} | {pixels.sharpness(clip.frames):.0f} | "
               f"{pixels.flicker(clip.frames):.2f} | {pixels.motion(clip.frames):.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
