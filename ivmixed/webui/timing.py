"""How long clips take on this machine: noted at the end of each, to estimate the next."""
from __future__ import annotations

import math

from ..cost import work
from ..plan import Plan
from . import log
from .store import Store, StoreError

_store = Store("timing.json")


def note(plan: Plan, frames: int, width: int, height: int, seconds: float) -> None:
    """A clip of this size, in pixels, was sampled in so many seconds."""
    noted = {"frames": frames, "width": width, "height": height, "seconds": seconds,
             "work": work(plan, _latent(width, height))}
    try:
        with _store.changing() as stored:
            stored.update(noted)
    except StoreError as error:
        log.warning(f"the time of this clip is not noted: {error}")


def estimate(plan: Plan, frames: int, width: int, height: int) -> float | None:
    """Seconds that a clip will about take, from the latest one; None where none was timed.

    Time is taken to grow with arithmetic, frames and pixels alike. That is about right near the size of the latest
    clip; attention makes a much larger one take longer.
    """
    try:
        stored = _store.read()
        last = {name: float(stored[name]) for name in ("frames", "width", "height", "seconds", "work")}
        size = last["frames"] * last["width"] * last["height"]
        seconds = last["seconds"] * work(plan, _latent(width, height)) / last["work"] * frames * width * height / size
    except (StoreError, KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return seconds if math.isfinite(seconds) and min(last.values()) > 0 else None


def _latent(width: int, height: int) -> tuple[int, int]:
    return height // 8, width // 8
