"""``python -m benchmarks.cost``: seconds and memory of the settings, as multiples of plain AnimateDiff's."""
from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch

from ivmixed.standalone.settings import Settings
from ivmixed.standalone.txt2vid import choose_device

from ..report import Row, save, spread
from ..settings import SETTINGS, chosen
from .bench import Bench, compare
from .memory import peaks
from .work import work_of


def ratios(rows: list[Row], work: dict[str, float]) -> str:
    """A Markdown table: of each setting the evaluations and, as multiples of plain's in the same round, its cost.

    ``work``: floating point operations of an evaluation, see `work.work_of`.
    """
    def work_of_clip(count: Mapping[str, int]) -> float:
        return sum(number * work[kind] for kind, number in count.items())

    plain = {row.seed: row.measures for row in rows if row.setting == "plain"}
    plain_count = next(row for row in rows if row.setting == "plain").evaluations
    keys = [key for key in rows[0].measures if key != "finite"]
    lines = ["| | Video, image | of outer layers | times plain's evaluations | times plain's work | "
             + " | ".join(f"times plain's {key}" for key in keys) + " |", "|---" * (5 + len(keys)) + "|"]
    for name in dict.fromkeys(row.setting for row in rows):
        own = [row for row in rows if row.setting == name]
        count = own[0].evaluations
        cells = [spread([row.measures[key] / plain[row.seed][key] for row in own]) for key in keys]
        outer = f"{count['outer video']}, {count['outer image']}"
        lines.append(f"| {name} | {count['video']}, {count['image']} | {outer} | "
                     f"{sum(count.values()) / sum(plain_count.values()):.2f} | "
                     f"{work_of_clip(count) / work_of_clip(plain_count):.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def growth(bench: Bench, repeats: int) -> str:
    """A Markdown table: an evaluation of each model as the clip grows in frames and in size."""
    width, height = bench.size
    shapes = [(frames, bench.size) for frames in sorted({max(2, bench.frames // 2), bench.frames, 2 * bench.frames})
              if frames <= 32]
    shapes += [(bench.frames, (part * width // 4 // 8 * 8, part * height // 4 // 8 * 8)) for part in (2, 3)]
    lines = ["| Frames | Size | video, s | image, s | image / video |", "|---|---|---|---|---|"]
    for frames, size in shapes:
        video, image = (bench.evaluation(model, frames, size, repeats) for model in ("video", "image"))
        ratio = statistics.median(image) / statistics.median(video)
        lines.append(f"| {frames} | {size[0]}x{size[1]} | {spread(video)} | {spread(image)} | {ratio:.2f} |")
    return "\n".join(lines)


def profile(bench: Bench) -> str:
    """Where the time of an active step goes, by operator."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if bench.device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as found:
        bench.run(chosen(["IV-IV"])[0], 3)
    order = "self_cuda_time_total" if bench.device.type == "cuda" else "self_cpu_time_total"
    return str(found.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=50))


DEFAULT = ("plain", "IV-IV", "VV-VV", "z 66.7 %", "last 50 %", "last 30 %", "last 20 %", "reuse", "reuse, last 30 %",
           "fresh 50 %, reuse, last 30 %", "deep features", "deep features, last 30 %", "average of both models")


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__.split(": ")[1])
    parser.add_argument("--setting", action="append", metavar="NAME", default=[],
                        help=f"beside plain; may be repeated: {'; '.join(s.name for s in SETTINGS)}".replace("%", "%%"))
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (default: %(default)s)")
    parser.add_argument("--frames", type=int, help="default: 16, on a CPU 8")
    parser.add_argument("--size", metavar="WxH", help="pixels (default: 512x512, on a CPU 64x64)")
    parser.add_argument("--steps", type=int, nargs="+", help="default: 25 50, on a CPU 10")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--small", action="store_true", help="networks of a few channels, to try the command")
    parser.add_argument("--profile", action="store_true", help="also where the time goes")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every row as JSON")
    args = parser.parse_args(argv)
    device = choose_device(args.device)
    fast = device.type != "cpu"
    frames = args.frames or (16 if fast else 8)
    size = Settings(prompt="", size=args.size or ("512x512" if fast else "64x64")).size
    bench = Bench(device, torch.float16 if fast else torch.float32, frames, size, args.small)
    name = f"{platform.machine()}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}; {frames} frames, {size[0]}x{size[1]}")
    work = work_of(frames, *size, args.small)
    print("an evaluation's floating point operations: "
          + ", ".join(f"{kind} {number / 1e12:.3g}e12" for kind, number in work.items()))
    memory = peaks(chosen(["plain", "IV-IV", "reuse", "deep features"]), frames, *size, args.small)
    print(f"tensors alive at once, fp16, counted: {memory['plain'] / 2**30:.3g} GB for plain; times that: "
          + ", ".join(f"{name} {number / memory['plain']:.4f}" for name, number in memory.items()))
    settings = chosen(["plain", *(args.setting or DEFAULT[1:])])
    rows = []
    for steps in args.steps or ([25, 50] if fast else [10]):
        own = compare(bench, settings, steps, args.repeats)
        print(f"\n{steps} steps, plain {spread([r.measures['seconds'] for r in own if r.setting == 'plain'])} s\n\n"
              f"{ratios(own, work)}", flush=True)
        rows += own
    print(f"\n{growth(bench, args.repeats)}")
    if args.profile:
        print(f"\n{profile(bench)}")
    if args.out:
        save(args.out, rows)


if __name__ == "__main__":
    main()
