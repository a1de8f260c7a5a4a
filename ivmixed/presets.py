"""Named settings of the sampler: the paper's, those of the authors' released code, and a few more."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

from .options import Options

Set = TypeVar("Set", bound=Options)


@dataclass(frozen=True)
class Preset(Generic[Set]):
    """What a name stands for. ``cfg_scale``: None where it leaves the scale as it is. ``loop``: one of
    `ivmixed.released.RELEASED`, or "" for the sampler's own moves."""

    help: str
    options: Set
    cfg_scale: float | None
    loop: str = ""


PRESETS: Mapping[str, Preset[Options]] = MappingProxyType({
    "paper": Preset("the paper's setting for AnimateDiff: gamma 4 everywhere, CFG scale 7.5", Options(), 7.5),
    "fast": Preset("no extra loop; the image model takes the last steps, its detail averaged over neighbouring frames "
                   "along the motion: crisp, steady frames for less than the price of plain AnimateDiff", Options(
                       interval=(0, 0), finish_percent=15, finish_smoothing=100), None),
    "balanced": Preset("fast, and a mild extra loop (gammas of 1 and 0) in every eighth step: more detail, at most 1.5 "
                       "times the price of plain AnimateDiff", Options(
                           active_percent=12.5, gamma_go=1, gamma_back=0,
                           finish_percent=15, finish_smoothing=100), None),
    "quality": Preset("fast, and the paper's extra loop (gamma 4) in every eighth step: the most detail, at most 1.5 "
                      "times the price of plain AnimateDiff", Options(
                          active_percent=12.5, finish_percent=15, finish_smoothing=100), None),
    "paper-videocrafter": Preset(
        "the paper's setting for VideoCrafter: VV-VV in two of three steps, CFG scale 9", Options(z_percent=66.7), 9.0),
    "distilled": Preset(
        "for AnimateDiff-Lightning and AnimateLCM: CFG scale 1; quality with small gammas of the video model, whose "
        "guidance is in its weights", Options(
            active_percent=12.5, gamma_go=0.25, gamma_back=0.25, gamma_image_go=4, gamma_image_back=4,
            finish_percent=15, finish_smoothing=100), 1.0),
    "released-animatediff": Preset("the released AnimateDiff loop, move by move", Options(), 7.5, "animatediff"),
    "released-modelscope": Preset(
        "the released ModelScope loop, move by move", Options(image_resize="nearest"), 7.5, "modelscope"),
    "released-videocrafter": Preset(
        "the released VideoCrafter loop, move by move: VV-VV in one of three steps", Options(z_percent=33.3), 9.0,
        "videocrafter"),
    "plain": Preset("no extra loop: the video model alone", Options().plain(), None),
})
"""Sources: arXiv 2410.04171, sections 3 and 4, and its released code; "fast", "balanced" and "quality" were measured,
see docs/benchmarks.md, and "distilled", see docs/built-in-motion.md."""
