"""What is claimed, each tried by itself."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from ..cost.bench import Bench
from ..cost.networks import TABLES, Networks
from ..report import Row, spread
from ..settings import SETTINGS, plan_of, sample

MEMORY = "peak"
CFG = 7.5
BOUNDS = {"paper": 4.3, "balanced": 1.5, "fast": 1.0, "quality": 1.5}
"""What a preset costs at most, in plain AnimateDiff's seconds."""
MOST_MEMORY = 1.02
"""Of plain's."""
LONGEST = {"video": 32, "image": 256}
"""Frames that are tried at most: the motion module sees no more, and who has room for so many has enough."""


@dataclass(frozen=True)
class Claim:
    """A claim, and whether it held; None: not judged here."""

    name: str
    held: bool | None
    seen: str

    def __str__(self) -> str:
        word = {True: "pass", False: "FAIL", None: "----"}[self.held]
        return f"{word}  {self.name} ({self.seen})"


@torch.no_grad()
def image_evaluation(bench: Bench) -> Claim:
    """The image model inside the video model against a UNet of its own with the same weights."""
    model = Networks(bench.unet, bench.device).image
    with torch.device(bench.device):
        own = UNet2DConditionModel(**{key: value for key, value in model.unet.config.items() if key[0] != "_"})
    own = own.to(bench.unet.dtype).eval()
    own.load_state_dict(model.unet.state_dict())
    expected = Networks(bench.unet, bench.device).image
    expected.unet = own
    far = _difference(*(denoiser(bench.noise, None, CFG) for denoiser in (model, expected)))
    return Claim("an image evaluation is the plain UNet's, to the bit", far == 0, f"difference {far:.2g}")


@torch.no_grad()
def motion_acts(bench: Bench) -> Claim:
    """Else all the others would say little."""
    networks = Networks(bench.unet, bench.device)
    far = _difference(networks.video(bench.noise, None, CFG), networks.image(bench.noise, None, CFG))
    return Claim("motion acts in the video model alone", far > 1e-3, f"difference {far:.2g}")


@torch.no_grad()
def empty_interval(bench: Bench, steps: int = 3) -> Claim:
    """Without an extra loop the sampler against k-diffusion's ``sample_euler``, written out."""
    plain = SETTINGS[0]
    networks = Networks(bench.unet, bench.device)
    made, _ = sample(plain, (networks.video, networks.image), TABLES, bench.noise, steps, {"cond_scale": CFG}, 0)
    plan, sigmas = plan_of(plain, TABLES, steps)
    video = Networks(bench.unet, bench.device).video
    levels = sigmas.tolist()
    x = bench.noise * (1 + levels[0] ** 2) ** 0.5
    for move, sigma, following in zip(plan.moves, levels, levels[1:]):
        video.expect(move, plan)
        x = x + (x - video(x, None, CFG)) / sigma * (following - sigma)
    far = _difference(made, x)
    return Claim("an empty interval is Euler, but for rounding", far < 1e-3, f"difference {far:.2g}")


def prices(rows: list[Row], judged: bool) -> list[Claim]:
    """Seconds and memory as multiples of plain's of the same round; memory is counted where it cannot be measured."""
    plain = {row.seed: row.measures for row in rows if row.setting == "plain"}
    claims = []
    for name, bound in BOUNDS.items():
        times = [row.measures["seconds"] / plain[row.seed]["seconds"] for row in rows if row.setting == name]
        mean = sum(times) / len(times)
        claims.append(Claim(f"{name} takes at most {bound:g} times plain's seconds", mean <= bound if judged else None,
                            spread(times)))
    most = max(memory_of(rows, plain))
    return [*claims, Claim(f"memory is at most {MOST_MEMORY:g} times plain's", most <= MOST_MEMORY, f"{most:.4f}")]


def memory_of(rows: list[Row], plain: dict[int, Mapping[str, float]]) -> list[float]:
    """The most memory of clips, as multiples of plain's of the same round, where it is known."""
    return [row.measures[MEMORY] / plain[row.seed][MEMORY] for row in rows if MEMORY in row.measures]


def largest_batch(bench: Bench) -> dict[str, int]:
    """How many frames an evaluation of each model may have before memory runs out, within a factor of 2."""
    most = {}
    for model, longest in LONGEST.items():
        most[model], frames = 0, 8
        while frames <= longest:
            try:
                bench.evaluation(model, frames, bench.size, 0)
            except torch.cuda.OutOfMemoryError:
                break
            most[model], frames = frames, 2 * frames
        torch.cuda.empty_cache()
    return most


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, in units of the largest value."""
    return float((a - b).abs().max() / b.abs().max())
