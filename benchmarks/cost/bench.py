"""Clips and single evaluations of full-size networks, timed."""
from __future__ import annotations

import gc
import time

import torch

from ..report import Row
from ..settings import Setting, sample
from .networks import TABLES, Networks, make, noise


class Bench:
    """The networks, and one clip's shape."""

    def __init__(self, device: torch.device, dtype: torch.dtype, frames: int, size: tuple[int, int], small: bool):
        self.device, self.unet = device, make(device, dtype, small)
        self.frames, self.size = frames, size
        self.noise = noise(frames, *size, device)

    @torch.no_grad()
    def wake(self) -> None:
        """Lets motion act: before training its last layers are zero."""
        for name, weight in self.unet.named_parameters():
            if "motion_modules" in name and name.endswith("proj_out.weight"):
                torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)

    def run(self, setting: Setting, steps: int) -> tuple[dict[str, int], dict[str, float]]:
        """Evaluations and measures of one clip: ``seconds``, ``finite`` (1 where it is so), and on CUDA ``peak``, the
        most memory in GB."""
        networks = Networks(self.unet, self.device)
        self._settle()
        begun = time.perf_counter()
        x, count = sample(setting, (networks.video, networks.image), TABLES, self.noise, steps, {"cond_scale": 7.5}, 0)
        self._wait()
        measures = {"seconds": time.perf_counter() - begun, "finite": float(x.isfinite().all())}
        if self.device.type == "cuda":
            measures["peak"] = torch.cuda.max_memory_allocated() / 2**30
        return count, measures

    @torch.no_grad()
    def evaluation(self, model: str, frames: int, size: tuple[int, int], repeats: int) -> list[float]:
        """Seconds of single evaluations of a model."""
        denoiser = getattr(Networks(self.unet, self.device), model)
        taken = []
        for _ in range(repeats + 1):
            x = noise(frames, *size, self.device)  # another tensor each time, or it would answer from memory
            self._settle()
            begun = time.perf_counter()
            denoiser(x, None, 7.5)
            self._wait()
            taken.append(time.perf_counter() - begun)
        return taken[1:]

    def _settle(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def compare(bench: Bench, settings: tuple[Setting, ...], steps: int, repeats: int) -> list[Row]:
    """Every setting in turn, ``repeats`` times, so that a slow minute of the machine falls on all alike."""
    bench.run(settings[0], 2)
    rows = []
    for repeat in range(repeats):
        for setting in settings:
            count, measures = bench.run(setting, steps)
            rows.append(Row(f"{steps} steps", setting.name, repeat, count, measures))
    return rows
