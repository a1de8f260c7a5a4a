"""What a plan costs before it is run: the arithmetic of its evaluations, with that of plain sampling as the unit."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from .plan import Move, Plan

WHOLE = {"video": 1.0, "image": 0.72}
"""Arithmetic of an evaluation of each model, in evaluations of the video model."""
OUTER = {"video": 0.07, "image": 0.06}
"""The same where deep features serve again and only the outer layers are evaluated."""
SEEING = {"own": (0.0, 0.0), "neighbours": (0.22, 0.04), "first": (0.11, 0.02)}
"""What each of the two takes besides, of the image model, where its self-attention sees other frames.

All counted for Stable Diffusion 1.5 with AnimateDiff v3 at 512x512 (`benchmarks.cost`): the same for 4 to 32 frames,
and within 0.02 at 512x768 (of attention to neighbours, which grows with the square of the pixels: within 0.1).
"""
CONTROLNET = 0.24
"""That of a ControlNet beside an evaluation of either model, counted alike; beside the outer layers alone it is none.
"""


def of_evaluation(model: str, outer: bool = False, attention: str = "own", controlnets: int = 0) -> float:
    """The arithmetic of an evaluation of ``model``, or of its ``outer`` layers alone; ``attention``: one of
    `ivmixed.options.ATTENTIONS`, of the image model; ``controlnets``: how many act beside it."""
    whole = (OUTER if outer else WHOLE)[model] + SEEING[attention][outer] * (model == "image")
    return whole + CONTROLNET * controlnets * (not outer)


def work(plan: Plan, size: tuple[int, int] | None = None, controlled: Callable[[Move], int] = lambda move: 0) -> float:
    """The arithmetic of a plan, in evaluations of the video model.

    ``size``: (height, width) of the clip's latent, for a plan whose image model looks at another size: its arithmetic
    is taken to grow with the pixels. Without it both sizes are taken for one. ``controlled``: how many ControlNets act
    in a move.
    """
    scale = {"video": 1.0, "image": 1.0}
    if size is not None and plan.image_size is not None:
        scale["image"] = math.prod(plan.image_size) / math.prod(size)
    return sum(
        of_evaluation(move.model, move.reuse == "features", plan.image_attention, controlled(move)) * scale[move.model]
        for move in plan.moves if move.evaluates)


def times_plain(plan: Plan, size: tuple[int, int] | None = None,
                controlled: Callable[[Move], int] = lambda move: 0) -> float:
    """How many times the arithmetic of plain sampling, one evaluation of the video model a step, a plan takes.

    ``size``, ``controlled``: as of `work`; ControlNets act in plain sampling too.
    """
    ordinary = [replace(move, model="video", reuse="") for move in plan.moves if move.kind == "ordinary"]
    plain = plan.steps + CONTROLNET * sum(map(controlled, ordinary))
    return work(plan, size, controlled) / max(plain, 1)
