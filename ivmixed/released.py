"""The loops that the authors of the method released, as plans, quirks included: AnimateDiff, ModelScope, VideoCrafter.

Source: the released code of the IV-Mixed Sampler (arXiv 2410.04171), a file for each of the three video models.
"""
from __future__ import annotations

from .kinds import Pair
from .options import ramp
from .plan import SOLVERS, Model, Move, MoveKind, Plan
from .schedule import Schedule
from .untrusted import shown

RELEASED = ("animatediff", "modelscope", "videocrafter")

RAMP_POINTS = 50
"""The released gamma ramps have 50 points, indexed by the outer step, whatever the number of steps."""


def released_plan(
    loop: str,
    steps: int,
    schedule: Schedule,
    *,
    cfg_scale: float = 7.5,
    gamma_image: Pair = (4.0, 4.0),
    gamma_video: Pair = (4.0, 4.0),
    rho: float = 7.0,
    interval: tuple[int, int] = (0, 49),
    zz: int = 1000,
    solver: str | None = None,
    image_size: tuple[int, int] | None = None,
    image_resize: str = "nearest",
) -> Plan:
    """The plan of one of the authors' released loops, quirks included.

    ``loop``: "animatediff", "modelscope" or "videocrafter". ``schedule``: the one table both models share there.
    ``interval``: first and last active outer step, both included. ``zz``: the image model serves in the steps where
    ``i % zz < zz - 1`` (AnimateDiff, VideoCrafter). ``solver``: one of `SOLVERS`; VideoCrafter's own is
    "dpmpp_2m_sde". ``image_size``: (height, width) in latent pixels of ModelScope's image evaluations,
    ``image_resize``: one of `ivmixed.options.IMAGE_RESIZES`.

    The quirks, all of them data of the moves: every move is ``1000 // N`` timesteps long while the outer step goes to
    the next entry of a rounded linspace, so the variance-preserving latent is carried over unchanged between the two;
    levels below timestep 0 are level 0; AnimateDiff's two go moves are swapped in time; VideoCrafter's VV steps keep
    the image gamma in the moves that the image model would make. Raises ValueError for an unknown loop or solver, and
    for less than one step or more than the schedule has.
    """
    if loop not in RELEASED:
        raise ValueError(f"loop = {shown(loop)} is not one of {', '.join(RELEASED)}")
    if not 1 <= steps <= len(schedule):
        raise ValueError(f"steps = {shown(steps)} is not a whole number from 1 to {len(schedule)}")
    solver = solver or ("dpmpp_2m_sde" if loop == "videocrafter" else "euler")
    count = len(schedule)
    stride = count // steps
    labels, levels = _outer_levels(solver, steps, schedule)

    def sigma(timestep: int) -> float:
        return schedule.sigmas[max(0, timestep)]

    def move(model: Model, kind: MoveKind, at: int, start: int, end: int, guidance: float, step: int) -> Move:
        return Move(model, kind, sigma(at), sigma(start), sigma(end), guidance, step)

    moves: list[Move] = []
    for i, t in enumerate(labels):
        if interval[0] <= i <= interval[1]:
            p, q = max(0, t - stride), max(0, t - 2 * count // steps)
            point = min(i / (RAMP_POINTS - 1), 1.0)
            video_gamma = ramp(*gamma_video, point, rho)
            first: Model = "image"
            first_gamma = ramp(*gamma_image, point, rho)
            if loop != "modelscope" and i % zz >= zz - 1:
                first = "video"
                first_gamma = first_gamma if loop == "videocrafter" else video_gamma
            if loop == "animatediff":
                moves += [move(first, "go", p, p, p - stride, first_gamma, i),
                          move("video", "go", t, t, t - stride, video_gamma, i)]
            else:
                moves += [move(first, "go", t, t, t - stride, first_gamma, i),
                          move("video", "go", p, p, p - stride, video_gamma, i)]
            moves += [move(first, "back", q, p - stride, p, -first_gamma, i),
                      move("video", "back", p, t - stride, t, -video_gamma, i)]
        moves.append(Move("video", "ordinary", sigma(t), *levels[i], cfg_scale, i))
    return Plan("VV-VV" if zz == 1 else "IV-IV", steps, tuple(moves), solver, image_size, image_resize)


def _outer_levels(solver: str, steps: int, schedule: Schedule) -> tuple[list[int], list[tuple[float, float]]]:
    """Timestep labels of the outer steps, and the levels (from, to) of their ordinary moves, as diffusers has them."""
    last = len(schedule) - 1
    if solver in ("euler", "euler_ancestral"):
        # DDIMScheduler, timestep_spacing "linspace", set_alpha_to_one False
        spacing = last / max(steps - 1, 1)
        labels = [round(k * spacing) for k in reversed(range(steps))]
        stride = len(schedule) // steps
        return labels, [(schedule.sigmas[t], schedule.sigmas[max(0, t - stride)]) for t in labels]
    if solver in SOLVERS:
        # DPMSolverMultistepScheduler, "linspace", final_sigmas_type "zero"
        labels = [round(k * last / steps) for k in range(steps, 0, -1)]
        levels = [schedule.sigmas[t] for t in labels] + [0.0]
        return labels, list(zip(levels, levels[1:]))
    raise ValueError(f"solver = {shown(solver)} is not one of {', '.join(SOLVERS)}")
