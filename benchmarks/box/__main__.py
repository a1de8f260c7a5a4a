"""``python -m benchmarks.box``: what the settings do to clips of the bundled model."""
from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ivmixed.clips import media
from ivmixed.measures import pixels
from ivmixed.measures.neural import frechet_distance
from ivmixed.standalone import box
from ivmixed.standalone.box.checker import read
from ivmixed.standalone.box.scenes import CAPTIONS, MOTIONS, random_scene, render

from ..report import Row, save, table
from ..settings import SETTINGS, Setting, chosen, sample
from .features import Network, features_of, trained
from .models import Box

Clips = Sequence[NDArray[np.uint8]]
BATCH = 3


def captions(count: int, seed: int) -> list[str]:
    """Captions in turns of the motions, otherwise at random; the same for every setting."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(CAPTIONS), generator=generator).tolist()
    pools = [[CAPTIONS[k] for k in order if CAPTIONS[k].endswith(motion)] for motion in MOTIONS]
    return [pools[k % len(pools)][k // len(pools) % len(pools[0])] for k in range(count)]


def drawn(prompts: Sequence[str], seed: int) -> Clips:
    """A clip of each caption as the world has it."""
    generator = torch.Generator().manual_seed(seed)
    return [media.as_frames(render(random_scene(generator, prompt), box.FRAMES)) for prompt in prompts]


def make(model: Box, setting: Setting, prompts: Sequence[str], steps: int, seed: int) -> tuple[Clips, dict[str, int]]:
    """A clip of each caption, and the evaluations that each took."""
    clips: list[NDArray[np.uint8]] = []
    count: dict[str, int] = {}
    for start in range(0, len(prompts), BATCH):
        some = prompts[start:start + BATCH]
        x, count = sample(setting, model.denoisers(some), model.tables, model.noise(len(some), seed + start), steps,
                          {"cond_scale": box.CFG}, seed + start)
        clips += list(model.decode(x))
    return clips, count


def measure(clips: Clips, prompts: Sequence[str], real: Clips, network: Network,
            known: NDArray[np.float64]) -> dict[str, float]:
    """The measures of clips of some captions; ``real`` are drawn ones, ``known`` their features.

    ``obeyed`` and its parts: shares read off the frames; ``sharpness``, ``flicker``, ``warping``, ``motion``: means of
    `ivmixed.measures.pixels`; ``boil``: the warping error as a share of how strong details are (the root of the
    sharpness), so that a blur hides nothing; ``distance``: of the frames to those of ``real``; ``frechet``: of the
    clips.
    """
    readings = [read(torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255) for clip in clips]
    words = [prompt.split(" ", 3)[1:] for prompt in prompts]

    warping = [pixels.warping_error(clip) for clip in clips]

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values))

    return {
        "obeyed": mean([reading.caption == prompt for reading, prompt in zip(readings, prompts)]),
        "colour": mean([reading.colour == word[0] for reading, word in zip(readings, words)]),
        "shape": mean([reading.shape == word[1] for reading, word in zip(readings, words)]),
        "moves": mean([reading.motion == word[2] for reading, word in zip(readings, words)]),
        "sharpness": mean([pixels.sharpness(clip) for clip in clips]),
        "distance": pixels.frame_distance(np.concatenate(clips)[::3], np.concatenate(real)[::5]),
        "frechet": frechet_distance(features_of(network, clips), known),
        "flicker": mean([pixels.flicker(clip) for clip in clips]),
        "warping": mean(warping),
        "boil": mean([error / math.sqrt(pixels.sharpness(clip)) for error, clip in zip(warping, clips)]),
        "motion": mean([pixels.motion(clip) for clip in clips]),
    }


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.box", description=__doc__.split(": ")[1])
    parser.add_argument("--setting", action="append", metavar="NAME", default=[],
                        help=f"only this; may be repeated: {'; '.join(s.name for s in SETTINGS)}".replace("%", "%%"))
    parser.add_argument("--clips", type=int, default=216, help="for each setting (default: %(default)s)")
    parser.add_argument("--groups", type=int, default=4, help="parts whose spread is told (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of captions and noise (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--features", type=Path, metavar="FILE", help="keep the trained network of features here")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every row as JSON, setting by setting")
    args = parser.parse_args(argv)
    network = trained(args.features)
    prompts = captions(args.clips, args.seed)
    noise = 40_000 * args.seed - 30_000  # of the first clips; of drawn ones and the features it is below that
    real = drawn(prompts, 1_000)
    known = features_of(network, real)
    parts = [slice(k * args.clips // args.groups, (k + 1) * args.clips // args.groups) for k in range(args.groups)]

    def rows_of(name: str, clips: Clips, count: dict[str, int]) -> list[Row]:
        return [Row("box", name, k, count, measure(clips[part], prompts[part], real, network, known))
                for k, part in enumerate(parts)]

    rows = rows_of("drawn clips", drawn(prompts, 2_000), {})
    model = Box()
    for setting in chosen(args.setting):
        begun = time.perf_counter()
        rows += rows_of(setting.name, *make(model, setting, prompts, args.steps, noise))
        print(f"{setting.name}: {time.perf_counter() - begun:.0f} s", flush=True)
        if args.out:
            save(args.out, rows)
    print(f"\n{args.clips} clips, {args.steps} steps, CFG scale {box.CFG:g}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
