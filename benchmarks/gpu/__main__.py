"""``python -m benchmarks.gpu``: what is claimed of the sampler, tried on this machine's GPU in five minutes.

Full-size Stable Diffusion 1.5 with AnimateDiff's motion modules and random weights, 16 frames of 512x512 in fp16.
Without a GPU the same with small networks, of which time says nothing.
"""
from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ivmixed import Options
from ivmixed.presets import PRESETS
from ivmixed.standalone.txt2vid import choose_device

from ..cost.bench import Bench, compare
from ..cost.memory import peaks
from ..report import Row, spread
from ..settings import Setting
from .claims import MEMORY, Claim, empty_interval, image_evaluation, largest_batch, memory_of, motion_acts, prices
from .kernels import attention_kernels, shares

NAMES = ("plain", "paper", "balanced", "fast", "quality", "paper-videocrafter")
COMPARED = tuple(Setting(name, "presets", PRESETS[name].options) for name in NAMES)
"""Each distinct preset of the sampler's own moves, plain first."""
ROUND = 13.0
"""Evaluations of the video model a step, in a round of all of these, at most."""
ROUNDS, MOST_STEPS, FEWEST_STEPS = 2, 25, 8


def steps_within(bench: Bench, seconds: float) -> int:
    """How many steps the clips may have so that `ROUNDS` of them take about so long."""
    bench.evaluation("video", bench.frames, bench.size, 1)  # kernels are chosen and memory is taken
    one = min(bench.evaluation("video", bench.frames, bench.size, 2))
    return max(FEWEST_STEPS, min(MOST_STEPS, int(seconds / (ROUNDS * ROUND * one))))


def table(rows: list[Row]) -> str:
    """A Markdown table: of each preset the evaluations, seconds, and seconds and memory as multiples of plain's."""
    plain = {row.seed: row.measures for row in rows if row.setting == "plain"}
    lines = ["| Preset | Video, image evaluations | seconds | times plain's seconds | times plain's memory |",
             "|---|---|---|---|---|"]
    for name in dict.fromkeys(row.setting for row in rows):
        own = [row for row in rows if row.setting == name]
        count = own[0].evaluations
        seconds = [row.measures["seconds"] / plain[row.seed]["seconds"] for row in own]
        memory = f"{max(found):.4f}" if (found := memory_of(own, plain)) else "not counted"
        lines.append(f"| {name} | {count['video']}, {count['image']} | "
                     f"{spread([row.measures['seconds'] for row in own])} | {spread(seconds)} | {memory} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line; 1 where a claim failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0].split(": ")[1])
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=200, help="for the timed clips (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON")
    args = parser.parse_args(argv)
    device = choose_device(args.device)
    small = device.type == "cpu"
    frames, size, dtype = (4, (64, 64), torch.bfloat16) if small else (16, (512, 512), torch.float16)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} {device.type}"
    print(f"{name}, torch {torch.__version__}; {frames} frames, {size[0]}x{size[1]}, {dtype}"
          + ("; small networks, for there is no GPU: times are not judged" if small else ""), flush=True)

    bench = Bench(device, dtype, frames, size, small)
    bench.wake()
    claims = [image_evaluation(bench), motion_acts(bench), empty_interval(bench)]
    kernels = attention_kernels(bench)
    claims.append(Claim("attention of both models and of built-in motion runs in fused kernels", not kernels.plain,
                        ", ".join(kernels.plain or sorted(kernels.fused))))
    steps, rounds = (4, 1) if small else (steps_within(bench, args.seconds), ROUNDS)
    rows = compare(bench, COMPARED, steps, rounds)
    if device.type != "cuda":  # counted, which takes long
        counted = peaks(COMPARED[:2], frames, *size, small)
        rows = [replace(row, measures={**row.measures, MEMORY: counted[row.setting]}) if row.setting in counted else row
                for row in rows]
    claims.append(Claim("all clips are finite", all(row.measures["finite"] for row in rows), f"{len(rows)} clips"))
    claims += prices(rows, judged=not small)
    found = shares(bench, Setting("paper", "presets", Options()))
    most = largest_batch(bench) if device.type == "cuda" else {}

    print(f"\n{steps} steps, {rounds} rounds in turn\n\n{table(rows)}\n")
    print("time of an active step: " + ", ".join(f"{part} {share:.0%}" for part, share in found.items()))
    if most:
        print("most frames at once: " + ", ".join(f"{model} model {number}" for model, number in most.items()))
    print()
    for claim in claims:
        print(claim)
    if args.out:
        args.out.write_text(json.dumps({
            "device": name, "torch": torch.__version__, "frames": frames, "size": size, "dtype": str(dtype),
            "steps": steps, "claims": [asdict(claim) for claim in claims], "rows": [asdict(row) for row in rows],
            "shares": found, "kernels": sorted(kernels.fused | set(kernels.plain)), "largest batch": most}, indent=1))
    return int(any(claim.held is False for claim in claims))


if __name__ == "__main__":
    sys.exit(main())
