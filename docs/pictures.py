"""Makes the strips of README.md and docs/guide.md: ``.venv/bin/python docs/pictures.py [STRIP ...]``.

The clips are the bundled model's.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from ivmixed import Options
from ivmixed.clips import media
from ivmixed.measures import pixels
from ivmixed.presets import PRESETS
from ivmixed.standalone import txt2vid
from ivmixed.standalone.pipeline import Clip
from ivmixed.standalone.settings import Settings

IMAGES = Path(__file__).parent / "images" / "guide"
PROMPT, SEED, STEPS = "a yellow star bounces", 3, 15
LATE = (60, 100)
"""The interval that suits this model."""

STRIPS = {
    "presets": {name: PRESETS[name].options for name in ("plain", "balanced", "fast", "quality", "paper")},
    "gamma": {"plain": Options(interval=(0, 0)), **{
        f"gamma {gamma}": Options(gamma_go=gamma, gamma_back=gamma, interval=LATE) for gamma in (0, 2, 4, 8)}},
    "z": {f"z {percent}%": Options(z_percent=percent, interval=LATE) for percent in (0, 50, 100)},
    "interval": {f"{start} to {end}%": Options(interval=(start, end))
                 for start, end in ((0, 0), (0, 50), (60, 100), (0, 100))},
    "finish": {f"{percent}%": Options(interval=(0, 0), finish_percent=percent, finish_by="steps")
               for percent in (0, 20, 40, 100)},
}


def main(names: Sequence[str] = ()) -> None:
    """Makes the strips of these names; all where none is named."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    device = txt2vid.choose_device("cpu")
    pipe = txt2vid.load(txt2vid.complete(Settings(prompt=PROMPT), device), device)
    for name in names or STRIPS:
        knobs = STRIPS[name]
        clips = {label: txt2vid.generate(Settings(prompt=PROMPT, steps=STEPS, seed=SEED, options=options), "cpu",
                                         pipe=pipe, progress=False) for label, options in tqdm(knobs.items())}
        strip(IMAGES / f"{name}.png", clips)
        print(f"\n{name}", *rows(clips), sep="\n")


def strip(path: Path, clips: dict[str, Clip]) -> None:
    """Six frames of every clip in a row."""
    sheet = media.contact_sheet([clip.frames[::2] for clip in clips.values()], list(clips), columns=6)
    sheet.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def rows(clips: dict[str, Clip]) -> Iterator[str]:
    """What the page says of them."""
    for label, clip in clips.items():
        yield (f"| {label} | {clip.plan.evaluations} | {pixels.sharpness(clip.frames):.0f} | "
               f"{pixels.flicker(clip.frames):.2f} | {pixels.motion(clip.frames):.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
