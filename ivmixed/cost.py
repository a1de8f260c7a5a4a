"""What a plan costs before it is run: the arithmetic of its evaluations, with that of plain sampling as the unit."""
from __future__ import annotations

import math

from .plan import Plan

WHOLE = {"video": 1.0, "image": 0.72}
"""Arithmetic of an evaluation of each model, in evaluations of the video model."""
OUTER = {"video": 0.07, "image": 0.06}
"""The same where deep features serve again and only the outer layers are evaluated."""
SEEING = {"own": (0.0, 0.0), "neighbours": (0.22, 0.04), "first": (0.11, 0.02)}
"""What each of the two takes besides, of the image model, where its self-attention sees other frames.

All counted for Stable Diffusion 1.5 with AnimateDiff v3 at 512x512 (`benchmarks.cost`): the same for 4 to 32 frames,
and within 0.02 at 512x768 (of attention to neighbours, which grows with the square of the pixels: within 0.1).
"""


def of_evaluation(model: str, outer: bool = False, attention: str = "own") -> float:
    """The arithmetic of an evaluation of ``model``, or of its ``outer`` layers alone; ``attention``: one of
    `ivmixed.options.ATTENTIONS`, of the image model."""
    return (OUTER if outer else WHOLE)[model] + SEEING[attention][outer] * (model == "image")



def work(plan: Plan, size: tuple[int, int] | None = None) -> float:
    """The arithmetic of a plan, in evaluations of the video model.

    ``size``: (height, width) of the clip's latent, for a plan whose image model looks at another size: its arithmetic
    is taken to grow with the pixels. Without it both sizes are taken for one.
    """
    scale = {"video": 1.0, "image": 1.0}
    if size is not None and plan.image_size is not None:
        scale["image"] = math.prod(plan.image_size) / math.prod(size)
    return sum(of_evaluation(move.model, move.reuse == "features", plan.image_attention) * scale[move.model]
               for move in plan.moves if move.evaluates)


def times_plain(plan: Plan, size: tuple[int, int] | None = None) -> float:
    """How many times the arithmetic of plain sampling, one evaluation of the video model a step, a plan takes.

    ``size``: as of `work`.
    """
    return work(plan, size) / max(plan.steps, 1)
