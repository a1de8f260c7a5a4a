"""Which kernels run, seen by PyTorch's profiler."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from ivmixed.motion import Layout
from ivmixed.motion.module import TemporalTransformer

from ..cost.bench import Bench
from ..cost.networks import Networks
from ..settings import Setting

PARTS = {"convolution": ("conv",), "attention": ("attention",), "matrix products": ("mm", "linear", "matmul"),
         "norms": ("norm",), "copies": ("copy", "cat", "clone", "contiguous", "index", "fill")}


@dataclass(frozen=True)
class Kernels:
    """Of attention: the fused operators, and where there was the plain one."""

    fused: set[str]
    plain: list[str]


@torch.no_grad()
def attention_kernels(bench: Bench) -> Kernels:
    """Of an evaluation of each model, and of a built-in temporal transformer as wide as the UNet's first level."""
    networks = Networks(bench.unet, bench.device)
    width = bench.unet.config.block_out_channels[0]
    motion = TemporalTransformer(width, Layout()).to(bench.device, bench.unet.dtype)
    features = torch.randn(2 * bench.frames, width, bench.size[1] // 8, bench.size[0] // 8,
                           device=bench.device, dtype=bench.unet.dtype)
    runs = {"video model": lambda: networks.video(bench.noise, None, 7.5),
            "image model": lambda: networks.image(bench.noise, None, 7.5),
            "built-in motion": lambda: motion(features, bench.frames)}
    fused, plain = set(), []
    for place, run in runs.items():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            run()
        names = {event.key for event in found.key_averages() if "scaled_dot_product" in event.key}
        fused |= {name.removeprefix("aten::_scaled_dot_product_") for name in names
                  if "flash" in name or "efficient" in name or "cudnn" in name}
        if any(name.endswith("_math") for name in names):
            plain.append(f"not in {place}")
    return Kernels(fused, plain)


def shares(bench: Bench, setting: Setting) -> dict[str, float]:
    """Which part of the time of a short clip goes into what."""
    cuda = bench.device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * cuda
    with torch.profiler.profile(activities=kinds) as found:
        bench.run(setting, 3)
    taken = dict.fromkeys([*PARTS, "other"], 0.0)
    for event in found.key_averages():
        if event.key.startswith("aten::"):
            part = next((part for part, marks in PARTS.items() if any(mark in event.key for mark in marks)), "other")
            taken[part] += event.self_device_time_total if cuda else event.self_cpu_time_total
    whole = sum(taken.values())
    return {part: time / whole for part, time in taken.items()}
