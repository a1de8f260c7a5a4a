"""How long clips take on this machine: noted at the end of each, to estimate the next.

The latest of each kind of checkpoint, device and precision is kept: one of SD 1.5 says nothing of SDXL.
"""
from __future__ import annotations

import math
from typing import Any

import torch

from modules import devices, sd_models, shared

from ..cost import work
from ..plan import Plan
from . import log
from .image_model import checkpoints
from .json_store import Store, StoreError

_store = Store("timing.json")


def note(sd_model: Any, plan: Plan, frames: int, width: int, height: int, seconds: float) -> None:
    """A clip of this size, in pixels, was sampled by the host's ``sd_model`` in so many seconds."""
    noted = {"frames": frames, "width": width, "height": height, "seconds": seconds,
             "work": work(plan, _latent(width, height))}
    try:
        with _store.changing() as stored:
            for name in [name for name, entry in stored.items() if not isinstance(entry, dict)]:
                del stored[name]  # of a time when there was one for all
            stored[_circumstances(sd_model)] = noted
    except StoreError as error:
        log.warning(f"the time of this clip is not noted: {error}")


def estimate(plan: Plan, frames: int, width: int, height: int) -> float | None:
    """Seconds that a clip will about take with the checkpoint that is loaded, from the latest one like it; None where
    none was timed, or where another is chosen and will be loaded first.

    Time is taken to grow with arithmetic, frames and pixels alike. That is about right near the size of the latest
    clip; attention makes a much larger one take longer.
    """
    sd_model = sd_models.model_data.sd_model  # not the host's way to it, which may load one
    loaded = getattr(sd_model, "sd_checkpoint_info", None)
    chosen = sd_models.checkpoint_aliases.get(shared.opts.sd_model_checkpoint, loaded)
    if loaded is None or loaded.filename != chosen.filename:
        return None
    try:
        entry = _store.read()[_circumstances(sd_model)]
        last = {name: float(entry[name]) for name in ("frames", "width", "height", "seconds", "work")}
        size = last["frames"] * last["width"] * last["height"]
        seconds = last["seconds"] * work(plan, _latent(width, height)) / last["work"] * frames * width * height / size
    except (StoreError, KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return seconds if math.isfinite(seconds) and min(last.values()) > 0 else None


def _circumstances(sd_model: Any) -> str:
    """The checkpoint's kind, where it computes, and in which precision its weights are held."""
    network = sd_model.forge_objects.unet if hasattr(sd_model, "forge_objects") else sd_model
    dtype = next(network.model.diffusion_model.parameters()).dtype
    device = torch.device(devices.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{checkpoints.family_of(sd_model) or 'another kind'}, {name}, {str(dtype).removeprefix('torch.')}"


def _latent(width: int, height: int) -> tuple[int, int]:
    return height // 8, width // 8
